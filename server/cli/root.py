"""`ostiary init`, `ostiary serve` and the groups of commands."""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import TypeAdapter, ValidationError

from schemas.errors import first_problem
from schemas.names import Name
from server.cli import (
    agents,
    apply,
    broker,
    cards,
    doors,
    esams,
    events,
    key_backup,
    keys,
    lockdown,
    policy,
    reinstate,
    revoke,
    root_document,
    rotation,
    standing,
    tokens,
)
from server.cli.console import (
    DEFAULT_SITE_DIR,
    SiteDir,
    err,
    fail,
    must_have_database,
    out,
    run,
    the_site,
)
from server.config import ServerConfig
from server.log import configure_log
from server.root_keys import default_place
from server.site import RootKeys, Site, SiteError, create_site
from server.store.database import DatabaseUnavailable, open_database

app = typer.Typer(
    help="Ostiary: access control whose events anyone can verify.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(agents.app, name="agents")
app.add_typer(doors.app, name="doors")
app.add_typer(cards.app, name="cards")
app.add_typer(lockdown.app, name="lockdown")
app.add_typer(revoke.app, name="revocations")
app.add_typer(policy.app, name="policy")
app.add_typer(tokens.app, name="tokens")
app.add_typer(events.app, name="events")
app.add_typer(root_document.app, name="root")
app.add_typer(broker.app, name="broker")
app.add_typer(keys.app, name="keys")
app.add_typer(rotation.app, name="rotation")
keys.app.add_typer(esams.app, name="esams")
keys.app.command("backup")(key_backup.backup)
keys.app.command("restore")(key_backup.restore)
doors.app.command("status")(standing.status)
agents.app.command("reboot")(doors.reboot)
app.command("apply")(apply.apply)
app.command("export")(apply.export)
app.command("revoke")(revoke.revoke)
app.command("reinstate")(reinstate.reinstate)


def main() -> None:
    """The entry point."""
    app()


def _version(asked: bool) -> None:
    if asked:
        out.print(f"ostiary {version('ostiary')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


@app.command()
def init(
    site: Annotated[str, typer.Option(help="The site's name: a-z, 0-9 and hyphens.")],
    suite: Annotated[
        Literal["gm", "intl"],
        typer.Option(help="Algorithms: gm (SM2, SM3, SM4) or intl (P-256, SHA-256, AES)."),
    ] = "gm",
    directory: Annotated[
        Path,
        typer.Option(
            "--dir", "--site-dir", "-d", envvar="OSTIARY_SITE_DIR", help="Where; must be empty."
        ),
    ] = DEFAULT_SITE_DIR,
    *,
    root_keys: Annotated[
        Path | None,
        typer.Option(
            help="Where the root keys go; by default the directory's name and -root-keys."
        ),
    ] = None,
    root_count: Annotated[int, typer.Option(min=1, max=8, help="How many root keys.")] = 1,
    root_threshold: Annotated[
        int, typer.Option(min=1, max=8, help="How many of them must sign together.")
    ] = 1,
    ask_root_passphrase: Annotated[
        bool, typer.Option(help="Seal each root key by a passphrase.")
    ] = False,
    ask_kek: Annotated[
        bool, typer.Option("--ask-kek", help="Seal the server's keys by a passphrase.")
    ] = False,
) -> None:
    """Make a new site: root document, sealed keys, TLS authority, settings, database.

    The server's keys are sealed with a key-encryption key: OSTIARY_KEK (64 hex digits), the file
    OSTIARY_KEK_FILE, a passphrase (--ask-kek), or else a new file `kek`, which is better moved to
    another disk. The root keys lie apart: the server does without them.
    """
    try:
        name = TypeAdapter(Name).validate_python(site)
    except ValidationError:
        fail(f"{site!r} is not a name: use up to 63 of a-z, 0-9 and inner hyphens, such as demo")
    if root_threshold > root_count:
        fail(f"--root-threshold {root_threshold} is more than --root-count {root_count}")
    place = root_keys or default_place(directory)
    passphrase = None
    if ask_kek:
        passphrase = typer.prompt(
            "New passphrase of the site", hide_input=True, confirmation_prompt="Once more"
        )
    secret = root_document.new_passphrases(place, root_count, ask_root_passphrase)
    try:
        made = create_site(
            directory,
            name,
            suite,
            secrets.token_bytes,
            os.environ,
            root_keys=RootKeys(place, root_count, root_threshold, secret),
            passphrase=passphrase,
        )
    except (SiteError, OSError) as error:
        fail(str(error))
    run(_make_database(made))
    out.print(f"Site [bold]{name}[/] ({suite}) is in {directory}/")
    told = root_document.take_offline(place, root_count, passphrases=ask_root_passphrase)
    err.print(told, markup=False)
    if (directory / "kek").exists():
        err.print(
            f"{directory}/kek opens the server's keys: keep a copy elsewhere, none beside it."
        )
    asking = " --ask-kek" if ask_kek else ""
    err.print(
        f"Next: start the server with\n  ostiary serve --site-dir {directory}{asking}\n"
        f"and invite each door's device with\n  ostiary agents claim AGENT --site-dir {directory}"
    )


async def _make_database(site: Site) -> None:
    engine = await open_database(site.database)
    await engine.dispose()


@app.command("serve")
def serve_command(
    *,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0: any free one.")] = None,
    host: Annotated[str, typer.Option(help="Loopback only, for now.")] = "127.0.0.1",
    broker: Annotated[
        str | None, typer.Option(help="`builtin`, or mqtts://host:port of your own broker.")
    ] = None,
    broker_port: Annotated[int | None, typer.Option(help="Port of the built-in broker.")] = None,
    broker_listen: Annotated[
        str | None, typer.Option(help="Address of the built-in broker; loopback by default.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Name or address by which doors reach this machine; 127.0.0.1 by default."
        ),
    ] = None,
    enrol_listen: Annotated[
        str | None, typer.Option(help="Where devices enrol; loopback by default.")
    ] = None,
    enrol_port: Annotated[int | None, typer.Option(help="Its port, by default 8443.")] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure-loopback", help="The built-in broker without TLS and rights: for tests."
        ),
    ] = False,
    ask_kek: root_document.AskKek = False,
) -> None:
    """Run the server: broker, ingest of events, API and live page.

    Stops cleanly on SIGTERM and Ctrl-C: what was received is committed and acknowledged first.
    """
    if host != "localhost" and not _is_loopback(host):
        fail(
            f"--host {host}: only loopback is served until sign-in and TLS are there; "
            "from elsewhere, use a tunnel such as `ssh -L 8080:127.0.0.1:8080 HOST`"
        )
    site, config = the_site(site_dir)
    given = {
        "port": port,
        "broker": broker,
        "broker_port": broker_port,
        "broker_listen": broker_listen,
        "address": address,
        "enrol_listen": enrol_listen,
        "enrol_port": enrol_port,
        "insecure_loopback": insecure or None,
    }
    try:
        config = ServerConfig.model_validate(
            {**config.model_dump(), **{k: v for k, v in given.items() if v is not None}}
        )
    except ValidationError as error:
        fail(f"--{first_problem(error).replace('_', '-', 1)}")
    must_have_database(site, config)
    environ = root_document.environ_with_kek(site_dir, ask_kek)
    configure_log()
    run(_serve(site, config, environ))


async def _serve(site: Site, config: ServerConfig, environ: Mapping[str, str]) -> None:
    # Here, not above: the other commands need neither web server nor broker, and start at once.
    from server.app import Serving, serve, stop_on_signals
    from server.broker.builtin import BrokerUnavailable

    def ready(serving: Serving) -> None:
        err.print(f"Live page and API: {serving.url}   broker: {serving.broker}   stop: Ctrl-C")

    try:
        await serve(site, config, environ, stop=stop_on_signals(), ready=ready)
    except (SiteError, BrokerUnavailable, DatabaseUnavailable) as error:
        fail(str(error))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
