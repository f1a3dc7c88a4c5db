"""`ostiary doors status`: what each door enforces, and what it should."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from server.cli.console import DEFAULT_SITE_DIR, SiteDir, out
from server.cli.remote import Url, remote

_STYLES = {"converged": "green", "behind": "yellow", "offline": "red", "unknown": "dim"}


def status(
    door: Annotated[str | None, typer.Argument(help="One door alone, in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Show what each door should enforce, says it enforces, and has confirmed.

    `3` says that a signed receipt confirms version 3, `2 of 3` that the newest is not confirmed
    yet; `waiting` counts events that are on their way. Exit code 1 if a door is not converged.
    """
    with remote(site_dir, url) as server:
        doors = server.get("/api/v1/doors/status")["doors"]
    if door is not None:
        doors = [each for each in doors if each["door"] == door]
        if not doors:
            out.print(f"There is no door {door}.", markup=False)
            raise typer.Exit(1)
    if as_json:
        out.print_json(json.dumps(doors))
    elif not doors:
        out.print("No doors yet: describe them in a file and use `ostiary apply`.")
    else:
        out.print(_table(doors))
        for each in doors if door is not None else ():
            out.print_json(json.dumps(each))
    if any(each["state"] != "converged" for each in doors):
        raise typer.Exit(1)


def _table(doors: list[dict[str, Any]]) -> Table:
    table = Table(box=None)
    for heading in ("door", "agent", "state", "policy", "revoked", "lockdown", "mode", "waiting"):
        table.add_column(heading, overflow="fold")
    for each in doors:
        desired, applied, reported = each["desired"], each["applied"] or {}, each["reported"] or {}
        style = _STYLES[each["state"]]
        state = each["state"] + (" overdue" if each["overdue"] else "")
        wanted = desired["policy"]["version"] if desired["policy"] else 0
        table.add_row(
            each["door"],
            each["agent"],
            Text(state, style),
            _progress(applied.get("policy", 0), wanted),
            _progress(applied.get("revocation", 0), desired["revocation"]["sequence"]),
            _progress(applied.get("lockdown", 0), desired["lockdown"]),
            str(reported.get("mode", "-")),
            str(reported.get("waiting", "-")),
        )
    return table


def _progress(done: int, wanted: int) -> str:
    return str(done) if done == wanted else f"{done} of {wanted}"
