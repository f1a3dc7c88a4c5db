"""`ostiary init`, `ostiary serve` and the groups of commands."""

from __future__ import annotations

import ipaddress
import os
import secrets
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import TypeAdapter, ValidationError

from schemas.errors import first_problem
from schemas.names import Name
from server.cli import agents, events, policy
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
from server.site import Site, SiteError, create_site
from server.store.database import DatabaseUnavailable, open_database

app = typer.Typer(
    help="Ostiary: access control whose events anyone can verify.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
broker_app = typer.Typer(help="The built-in MQTT broker.", no_args_is_help=True)
app.add_typer(agents.app, name="agents")
app.add_typer(policy.app, name="policy")
app.add_typer(events.app, name="events")
app.add_typer(broker_app, name="broker")


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
) -> None:
    """Make a new site: root document, sealed keys, settings, database.

    The keys are sealed with a key-encryption key: OSTIARY_KEK (64 hex digits), the file
    OSTIARY_KEK_FILE, or else a new file `kek`, which is better moved to another disk.
    """
    try:
        name = TypeAdapter(Name).validate_python(site)
    except ValidationError:
        fail(f"{site!r} is not a name: use up to 63 of a-z, 0-9 and inner hyphens, such as demo")
    try:
        made = create_site(directory, name, suite, secrets.token_bytes, os.environ)
    except (SiteError, OSError) as error:
        fail(str(error))
    run(_make_database(made))
    out.print(f"Site [bold]{name}[/] ({suite}) is in {directory}/")
    if (directory / "kek").exists():
        err.print(f"{directory}/kek opens its keys: keep a copy elsewhere, and no copy beside it.")
    err.print(
        f"Next: give {directory}/root.json to each agent, register agents with\n"
        f"  ostiary agents add IDENTITY.json --site-dir {directory}\n"
        f"and start the server with\n  ostiary serve --site-dir {directory}"
    )


async def _make_database(site: Site) -> None:
    engine = await open_database(site.database)
    await engine.dispose()


@app.command("serve")
def serve_command(
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0: any free one.")] = None,
    host: Annotated[str, typer.Option(help="Loopback only, for now.")] = "127.0.0.1",
    broker: Annotated[
        str | None, typer.Option(help="`builtin`, or mqtt://host:port of your own broker.")
    ] = None,
    broker_port: Annotated[int | None, typer.Option(help="Port of the built-in broker.")] = None,
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
    given = {"port": port, "broker": broker, "broker_port": broker_port}
    try:
        config = ServerConfig.model_validate(
            {**config.model_dump(), **{k: v for k, v in given.items() if v is not None}}
        )
    except ValidationError as error:
        fail(f"--{first_problem(error).replace('_', '-', 1)}")
    must_have_database(site, config)
    configure_log()
    run(_serve(site, config))


async def _serve(site: Site, config: ServerConfig) -> None:
    # Here, not above: the other commands need neither web server nor broker, and start at once.
    from server.app import Serving, serve, stop_on_signals
    from server.broker.builtin import BrokerUnavailable

    def ready(serving: Serving) -> None:
        err.print(f"Live page and API: {serving.url}   broker: {serving.broker}   stop: Ctrl-C")

    try:
        await serve(site, config, os.environ, stop=stop_on_signals(), ready=ready)
    except (SiteError, BrokerUnavailable, DatabaseUnavailable) as error:
        fail(str(error))


@broker_app.command("run")
def broker_run(
    port: Annotated[int, typer.Option(help="On 127.0.0.1; 0: any free one.")] = 1883,
) -> None:
    """Run the built-in broker alone; use it with `ostiary serve --broker mqtt://127.0.0.1:1883`."""
    configure_log()
    run(_broker(port))


async def _broker(port: int) -> None:
    from server.app import stop_on_signals
    from server.broker.builtin import BrokerUnavailable, builtin_broker

    try:
        async with builtin_broker(port) as bound:
            err.print(f"Broker: mqtt://127.0.0.1:{bound}   stop: Ctrl-C")
            await stop_on_signals().wait()
    except BrokerUnavailable as error:
        fail(str(error))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
