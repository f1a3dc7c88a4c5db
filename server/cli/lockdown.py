"""`ostiary lockdown`: refuse entry at many doors at once, and let in again only on purpose."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer
from rich.table import Column, Table
from rich.text import Text

from server.cli.console import DEFAULT_SITE_DIR, SiteDir, confirm, err, fail, out
from server.cli.remote import Url, remote
from server.ingest.alarms import printable

app = typer.Typer(help="Lockdowns.", no_args_is_help=True)
PATH = "/api/v1/lockdowns"


@app.command()
def start(
    scope: Annotated[Literal["site", "area", "door"], typer.Argument(help="What to lock down.")],
    name: Annotated[str | None, typer.Argument(help="Which area or door.")] = None,
    exempt: Annotated[
        list[str] | None, typer.Option(help="A group that may pass; may be repeated.")
    ] = None,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Refuse entry by card at every door in scope, until it is ended. Exit never is refused.

    It stays in force over restarts of server, broker and doors.
    """
    order = {"scope": scope, "name": name, "exempt": exempt or []}
    with remote(site_dir, url) as client:
        began = client.post(PATH, order)
    err.print("[bold red]Lockdown[/] ", end="")
    err.print(f"of {scope} {began['name']} is in force.", markup=False)
    typer.echo(began["id"])
    err.print(f"End it with: ostiary lockdown end {began['id']}", markup=False)


@app.command()
def end(
    lockdown: Annotated[str | None, typer.Argument(help="Its id.")] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="All of them, and what only doors know of after a restore."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """End a lockdown: its doors go back to what their policy says."""
    if (lockdown is None) is not every:
        fail("name one lockdown, or use --all; `ostiary lockdown list` shows them")
    with remote(site_dir, url) as client:
        active = client.get(PATH)["items"]
        chosen = active if every else [each for each in active if each["id"] == lockdown]
        if not every and not chosen:
            fail(f"no lockdown {lockdown} is in force; see `ostiary lockdown list`")
        if not yes:
            if chosen:
                out.print(_table(chosen))
            confirm("End this? The doors let people in again.")
        client.delete(PATH if every else f"{PATH}/{lockdown}")
    names = ", ".join(each["id"] for each in chosen)
    err.print(f"Ended: {names}" if chosen else "No lockdown is in force.", markup=False)


@app.command("list")
def list_command(
    ended: Annotated[bool, typer.Option(help="Also those that have ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Show what is locked down, newest first."""
    with remote(site_dir, url) as client:
        items = list(client.items(PATH, ended=ended))
    if as_json:
        typer.echo(json.dumps(items))
    elif items:
        out.print(_table(items))
    else:
        err.print("No lockdown is in force.")


def _table(items: list[dict[str, Any]]) -> Table:
    table = Table(
        Column("id", no_wrap=True, overflow="fold"),
        "scope",
        "name",
        "exempt",
        "since",
        "by",
        "ended",
        box=None,
    )
    for each in items:
        shown = [
            each["id"],
            each["scope"],
            each["name"],
            ", ".join(each["exempt"]) or "nobody",
            each["since"],
            each["started_by"],
            each["ended"] or "in force",
        ]
        table.add_row(*(Text(printable(text)) for text in shown))
    return table
