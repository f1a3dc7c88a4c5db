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
from server.cli.console import DEFAULT_SITE_DIR, SiteDir, err, fail, out
from server.cli.keys import BY, with_keys
from server.cli.root_document import AskKek
from server.feed.cloudevents import as_json
from server.ingest.alarms import printable
from server.keys.esams import NewEsam

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
    with_keys(site_dir, ask_kek, lambda keys: keys.esams.take(new, BY))
    out.print(f"Known, for {agent}: {', '.join(each.serial for each in new)}.", markup=False)


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
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    ask_kek: AskKek = False,
) -> None:
    """Give an ESAM no more keys: it is lost, worn out or taken away."""
    with_keys(site_dir, ask_kek, lambda keys: keys.esams.withdraw(serial.lower(), BY))
    out.print(f"ESAM {serial} is withdrawn.", markup=False)
    err.print(
        "What it holds, it holds: rotate the keys of its domains if it may be in wrong hands."
    )
