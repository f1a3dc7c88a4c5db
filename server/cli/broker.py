"""`ostiary broker`: run the built-in one, set up a mosquitto, try whether either is safe."""

from __future__ import annotations

import ipaddress
import json
import os
import pwd
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from server.cli.console import DEFAULT_SITE_DIR, SiteDir, err, fail, opened, out, run, the_site
from server.clock import SystemClock
from server.config import BUILTIN, ServerConfig, broker_address, is_loopback, own_broker_host
from server.log import configure_log
from server.pki import Authority
from server.site import Site, SiteError
from server.store.agents import list_agents
from server.tls import LOCAL, listener_files

if TYPE_CHECKING:  # the other commands start without amqtt
    from server.broker.rights import Rights
    from server.broker.stage import Finding

app = typer.Typer(help="The MQTT broker between server and doors.", no_args_is_help=True)
config_app = typer.Typer(help="Set up a broker of your own.", no_args_is_help=True)
app.add_typer(config_app, name="config")

Listen = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 or :: for all.")]
Host = Annotated[
    list[str] | None,
    typer.Option(help="By which doors reach it, besides the settings' `address`."),
]
Insecure = Annotated[
    bool,
    typer.Option("--insecure-loopback", help="No TLS and no rights, on loopback: for tests."),
]


@app.command("run")
def run_command(
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    listen: Listen = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8883,
    insecure: Insecure = False,
) -> None:
    """Run the built-in broker alone.

    For `ostiary serve --broker mqtts://HOST:8883` with `broker_rights = "file"`. Who may connect
    stands in the site directory, where the server writes it.
    """
    _checked(listen, insecure)
    configure_log()
    try:
        run(_run(site_dir, listen, port, insecure))
    except (SiteError, OSError) as error:
        fail(str(error))


async def _run(site_dir: Path, listen: str, port: int, insecure: bool) -> None:
    from server.app import stop_on_signals
    from server.broker.builtin import BrokerUnavailable, guarded_broker, insecure_broker

    stop = stop_on_signals()
    try:
        if insecure:
            async with insecure_broker(port) as bound:
                err.print(f"Broker: mqtt://127.0.0.1:{bound}, open to all here   stop: Ctrl-C")
                await stop.wait()
            return
        site, config = the_site(site_dir)
        authority = site.authority(os.environ)
        files = listener_files(site.path, authority, config.address, SystemClock().now())
        async with guarded_broker(site, files, port, listen) as bound:
            err.print(f"Broker: mqtts://{config.address}:{bound}   stop: Ctrl-C")
            await stop.wait()
    except BrokerUnavailable as error:
        fail(str(error))


@config_app.command("mosquitto")
def mosquitto(
    *,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Where to; <site>/mosquitto by default.")
    ] = None,
    at: Annotated[
        Path | None,
        typer.Option(help="The same directory as mosquitto sees it, if it runs elsewhere."),
    ] = None,
    listen: Listen = "127.0.0.1",
    port: Annotated[int, typer.Option()] = 8883,
    host: Host = None,
    plugin: Annotated[
        Path | None, typer.Option(help="mosquitto_dynamic_security.so, where mosquitto runs.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="Whom mosquitto runs as, if root starts it.")
    ] = None,
    crl: Annotated[
        bool,
        typer.Option("--crl", help="With the list of revoked certificates: renew it each year."),
    ] = False,
    insecure: Insecure = False,
) -> None:
    """Write mosquitto.conf, a certificate, and the rights of server and agents.

    Run it again, and restart mosquitto, to renew the certificate. Rights change while it runs.
    """
    from server.broker.mosquitto import (
        MosquittoSettings,
        NoPlugin,
        find_plugin,
        write_configuration,
    )
    from server.broker.unsafe import UnsafeSetting

    _checked(listen, insecure)
    site, config = the_site(site_dir)
    directory = (out_dir or site.path / "mosquitto").absolute()
    try:
        if user is not None and at is None and os.geteuid() == 0:
            _within_reach(directory, user)
        settings = MosquittoSettings(
            site=site.name,
            directory=at or directory,
            plugin=Path() if insecure else plugin or find_plugin(),
            address=listen,
            port=port,
            hosts=tuple(dict.fromkeys([*(host or ()), config.address, *LOCAL])),
            user=user,
            crl=(site.path / "crl.pem").read_bytes() if crl else None,
            insecure=insecure,
        )
        authority = None if insecure else site.authority(os.environ)
        agents = run(_agents(site, config))
        file = write_configuration(settings, authority, agents, SystemClock().now(), into=directory)
    except (NoPlugin, UnsafeSetting, SiteError, LookupError, OSError, ValueError) as error:
        fail(str(error))
    out.print(str(file))
    if not insecure:
        where = settings.hosts[0]
        if user is None and os.geteuid() == 0:
            err.print(
                "These files are root's: if root starts mosquitto, it goes on as the user mosquitto"
                " and can't read them. Then run this again with --user mosquitto"
                " --out /etc/mosquitto/ostiary."
            )
        err.print(
            f"Rights for {len(agents)} agents. Next: mosquitto -c {settings.directory / file.name}"
            f"\n  ostiary serve --broker mqtts://{where}:{port}\n  ostiary broker check"
            f" --broker mqtts://{where}:{port}"
        )


def _within_reach(directory: Path, user: str) -> None:
    """Refuse a place that the user can't get to, such as one below a site directory of root."""
    try:
        who = pwd.getpwnam(user)
    except KeyError:
        fail(f"--user {user}: there is no such user here; install mosquitto, or name whom it is")
    groups = os.getgrouplist(user, who.pw_gid)
    for folder in directory.parents:
        if not folder.exists() or who.pw_uid == 0:
            continue
        found = folder.stat()
        may = 0o100 if found.st_uid == who.pw_uid else 0o010 if found.st_gid in groups else 0o001
        if not found.st_mode & may:
            fail(
                f"{user} can't get into {folder}, so it could read nothing in {directory}: name"
                " another place, such as --out /etc/mosquitto/ostiary"
            )


@config_app.command("audit")
def audit(
    file: Annotated[Path, typer.Argument(help="A mosquitto.conf.")],
    insecure: Insecure = False,
) -> None:
    """Say what is unsafe in a mosquitto.conf, and why. Exit code 1 if anything is."""
    from server.broker.unsafe import UnsafeSetting, refuse_unsafe

    try:
        refuse_unsafe(file.read_text(), insecure_loopback=insecure, files=file.absolute().parent)
    except (UnsafeSetting, OSError, UnicodeDecodeError) as error:
        fail(str(error))
    out.print(f"{file}: nothing unsafe found")


@app.command()
def check(
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    broker: Annotated[
        str | None, typer.Option(help="mqtts://host:port; by default that of the settings.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Try at the running broker what must not work there. Exit code 1 if anything does.

    Two agents that are nobody's, broker-probe and broker-victim, are let in meanwhile.
    """
    from server.broker.check import CheckImpossible

    site, config = the_site(site_dir)
    try:
        url = broker or _url_of(config)
        secured, host, port = broker_address(url)
        if not secured:
            fail(f"{url} has no TLS: whoever reaches it may do everything, and no check is needed")
        rights = _rights(site, config, builtin=broker is None and config.broker == BUILTIN)
        findings = run(_check(site, site.authority(os.environ), host, port, rights))
    except (CheckImpossible, SiteError, OSError, ValueError) as error:
        fail(str(error) + ("" if broker else "; a broker of your own is named with --broker"))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        out.print(_table(findings))
    wrong = sum(not finding.ok for finding in findings)
    if wrong:
        fail(f"{wrong} of {len(findings)} attempts at {url} came out wrong")
    err.print(f"{len(findings)} attempts at {url}: nothing forbidden works.")


async def _check(
    site: Site, authority: Authority, host: str, port: int, rights: Rights | None
) -> list[Finding]:
    from server.broker.check import check_broker
    from server.broker.identities import Identities
    from server.broker.stage import Target

    with tempfile.TemporaryDirectory(prefix="ostiary-check-") as directory:
        who = Identities(authority, site.name, Path(directory), SystemClock().now())
        target = Target(site.name, host, port, who.tls, who.stranger, rights)
        return await check_broker(target)


def _rights(site: Site, config: ServerConfig, *, builtin: bool) -> Rights | None:
    from server.broker.rights import AdmittedFile, probes_file

    if not builtin and config.broker_rights == "mosquitto":
        return None
    if not builtin and config.broker_rights == "none":
        fail("broker_rights is `none`: `ostiary` can't let the check's own agents in there")
    return AdmittedFile(site.name, probes_file(site.path))


def _url_of(config: ServerConfig) -> str:
    if config.broker != BUILTIN:
        return config.broker
    if config.insecure_loopback:
        return f"mqtt://127.0.0.1:{config.broker_port}"
    return f"mqtts://{own_broker_host(config)}:{config.broker_port}"


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None)
    for heading in ("attempt", "expected", "seen", "ok"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        mark = "[green]yes[/]" if finding.ok else "[bold red]NO[/]"
        table.add_row(finding.attempt, finding.expected, finding.seen, mark)
    return table


async def _agents(site: Site, config: ServerConfig) -> list[str]:
    async with opened(site, config) as engine:
        return [agent.id for agent in await list_agents(engine)]


def _checked(listen: str, insecure: bool) -> None:
    try:
        ipaddress.ip_address(listen)
    except ValueError:
        fail(f"--listen {listen}: give an address, such as 127.0.0.1; a name goes with --host")
    if insecure and not is_loopback(listen):
        fail(
            f"--insecure-loopback with --listen {listen}: without TLS only loopback is served,"
            " since whoever reaches such a broker may do everything"
        )
