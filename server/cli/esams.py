"""`ostiary keys esams`: the ESAMs that may be given keys."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.table import Table
from rich.text import Text

from schemas.errors import first_problem
from server.cli.console import DEFAULT_SITE_DIR, SiteDir, err, fail, out
from server.cli.keys import BY, Keys, with_keys
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
    table = Table("serial", "agent", "state", "domains", box=None)
    for each in found:
        domains = ", ".join(f"{n} at {p or '?'}" for n, p in each.domains.items())
        table.add_row(each.serial, Text(printable(each.agent)), each.state, domains)
    out.print(table)


@app.command("import")
def import_command(
    file: Annotated[
        Path, typer.Argument(help="JSON list; see docs/keys.md. Only you may read it.")
    ],
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    ask_kek: AskKek = False,
) -> None:
    """Take the control keys of ESAMs from the file that the issuing station wrote."""
    new = _read(file)

    async def take(keys: Keys) -> None:
        for each in new:
            await keys.esams.take(each, BY)

    with_keys(site_dir, ask_kek, take)
    out.print(f"{len(new)} ESAMs are known.")
    err.print(f"{file} has their control keys in the clear: destroy it.", markup=False)


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


def _read(file: Path) -> list[NewEsam]:
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            fail(f"{file} has mode {mode:04o}: others may read the keys in it. `chmod 600 {file}`")
        return TypeAdapter(list[NewEsam]).validate_json(file.read_bytes())
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    except ValidationError as error:
        fail(f"{file}: {first_problem(error)}; nothing was imported")
