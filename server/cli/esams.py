"""`ostiary keys esams`: the ESAMs that may be given keys."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from schemas.errors import first_problem
from schemas.esam_issued import BadIssuingFile, IssuedEsam
from schemas.sealed import KEK_BYTES
from server.cli.console import (
    DEFAULT_SITE_DIR,
    SiteDir,
    confirm,
    err,
    fail,
    opened,
    out,
    run,
    the_site,
)
from server.cli.keys import BY, Keys, with_keys
from server.cli.root_document import AskKek
from server.feed.cloudevents import as_json
from server.ingest.alarms import printable
from server.keys.esams import EsamState, NewEsam, known_esam
from server.keys.home import KeysError
from server.store.agents import list_agents
from server.store.keys import EsamRow, read_esams

app = typer.Typer(help="The ESAMs in the locks.", no_args_is_help=True)


@app.command("list")
def list_command(
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    as_json_: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    ask_kek: AskKek = False,
) -> None:
    """Show each ESAM, its agent, its state, and the domains it is for."""
    found = with_keys(site_dir, ask_kek, lambda keys: keys.esams.listed())
    if as_json_:
        items = [
            {
                "serial": each.serial,
                "suite": each.suite,
                "agent": each.agent,
                "state": each.state,
                "home": each.home,
                "domains": each.domains,
                "added": each.added.isoformat(),
            }
            for each in found
        ]
        typer.echo(as_json(items))
        return
    if not found:
        err.print("No ESAMs are known: `ostiary keys esams import` makes them known.")
        return
    table = Table("serial", "suite", "agent", "state", "domains", box=None)
    for each in found:
        domains = ", ".join(f"{n} at {p or '?'}" for n, p in each.domains.items())
        table.add_row(each.serial, each.suite, Text(printable(each.agent)), each.state, domains)
    out.print(table)


@app.command("import")
def import_command(
    files: Annotated[
        list[Path], typer.Argument(help="Issuing files, as `ostiary-agent esam issue` wrote them.")
    ],
    *,
    issuing_key: Annotated[
        Path, typer.Option(help="The 32 bytes they are sealed under.", dir_okay=False)
    ],
    agent: Annotated[str, typer.Option(help="The agent in whose lock they are.")],
    domain: Annotated[
        list[str], typer.Option("--domain", help="A key domain they are for; may be repeated.")
    ],
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    ask_kek: AskKek = False,
) -> None:
    """Make ESAMs known, or change whose they are and what for. Repeating it is safe."""
    key = _issuing_key(issuing_key)
    new = [_issued(file, key, agent, domain) for file in files]

    async def take(keys: Keys) -> bool:
        await keys.esams.take(new, BY)
        return any(each.id == agent for each in await list_agents(keys.esams.engine))

    known = with_keys(site_dir, ask_kek, take)
    out.print(f"Known, for {agent}: {', '.join(each.serial for each in new)}.", markup=False)
    if not known:
        err.print(
            f"No agent {agent} is enrolled yet. If that is a slip, import them again for the right"
            " one: until then no lock is given their keys.",
            style="bold yellow",
            markup=False,
        )


def _issuing_key(file: Path) -> bytes:
    try:
        mode, key = stat.S_IMODE(file.stat().st_mode), file.read_bytes()
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    if mode & 0o077:
        fail(f"{file} has mode {mode:04o}: others may read it. If nobody has, `chmod 600 {file}`")
    if len(key) != KEK_BYTES:
        fail(f"{file} is {len(key)} bytes, an issuing key is {KEK_BYTES}")
    return key


def _issued(file: Path, key: bytes, agent: str, domains: list[str]) -> NewEsam:
    try:
        issued = IssuedEsam.read(file.read_bytes())
        return NewEsam(
            serial=issued.serial,
            suite=issued.suite,
            control_key=issued.control_key(key).key,
            agent=agent,
            domains=tuple(domains),
        )
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    except BadIssuingFile as error:
        fail(f"{file}: {error}; nothing was imported")
    except ValidationError as error:
        fail(f"{first_problem(error)}; nothing was imported")


@app.command()
def withdraw(
    serial: Annotated[str, typer.Argument(help="16 hex digits.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    ask_kek: AskKek = False,
) -> None:
    """Give an ESAM no more keys: it is lost, worn out or taken away."""
    serial = serial.lower()
    if not yes:
        _ask_to_withdraw(site_dir, serial)
    with_keys(site_dir, ask_kek, lambda keys: keys.esams.withdraw(serial, BY))
    out.print(f"ESAM {serial} is withdrawn.", markup=False)
    err.print(
        "What it holds, it holds: rotate the keys of its domains if it may be in wrong hands."
    )


def _ask_to_withdraw(site_dir: Path, serial: str) -> None:
    site, config = the_site(site_dir)

    async def look() -> EsamRow:
        async with opened(site, config) as engine, engine.connect() as connection:
            return known_esam(await read_esams(connection, [serial]), serial)

    try:
        esam = run(look())
    except KeysError as error:
        fail(str(error))
    if esam.state == EsamState.IN_SERVICE:
        confirm(
            f"ESAM {serial} is in service in the lock of {printable(esam.agent)}, for"
            f" {', '.join(esam.domains)}. Withdraw it?"
        )
