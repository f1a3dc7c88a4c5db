"""`ostiary revoke` and `ostiary revocations`: deny, and see the denial reach every door."""

from __future__ import annotations

import json
import time
from enum import IntEnum
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from schemas.errors import first_problem
from schemas.revocation import Denied, RevocationReason, RevokedKind
from server.cli.console import DEFAULT_SITE_DIR, SiteDir, err, fail, out
from server.cli.remote import Remote, Url, remote
from server.ingest.alarms import printable

app = typer.Typer(help="The revocation log.", no_args_is_help=True)
PATH = "/api/v1/revocations"
_POLL_S = 5.0
_MOST_SHOWN = 20


class Outcome(IntEnum):
    """The exit code of `revoke --wait`."""

    EVERY_DOOR = 0
    SOME_OFFLINE = 3
    NOT_CONFIRMED = 4


def revoke(
    card: Annotated[list[str] | None, typer.Argument(help="Card ids: 16 hex digits each.")] = None,
    *,
    person: Annotated[
        list[str] | None, typer.Option("--person", help="All cards of a person; may be repeated.")
    ] = None,
    key_version: Annotated[
        list[str] | None,
        typer.Option(
            "--key-version", help="Every card with this key: DOMAIN/VERSION; may be repeated."
        ),
    ] = None,
    reason: Annotated[
        RevocationReason, typer.Option(help="The doors give the matching reason.")
    ] = RevocationReason.REVOKED,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until every door that is online has confirmed.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0, help="With --wait: most seconds.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Deny cards, persons or key versions at every door, at once and above all rules.

    An entry stays for ever; `ostiary reinstate` answers those of a card or a person that is to be
    let in again. Repeating it is safe.

    With --wait the exit code is 0 if every door has confirmed by a signed receipt, 3 if only doors
    that are offline have not, 4 if one that is online has not confirmed in time.
    """
    orders = [
        *(_order("card", each.lower(), reason) for each in card or ()),
        *(_order("person", each, reason) for each in person or ()),
        *(_order("key-version", each, reason) for each in key_version or ()),
    ]
    if not orders:
        fail("name a CARD, or --person, or --key-version DOMAIN/VERSION")
    with remote(site_dir, url) as client:
        entries = client.post(PATH, {"revocations": orders})["items"]
        for entry in entries:
            _say(entry)
        if not wait:
            if as_json:
                typer.echo(json.dumps(entries))
            return
        newest = max(entry["sequence"] for entry in entries)
        progress = _follow(client, newest, timeout)
    if as_json:
        typer.echo(json.dumps(progress))
    raise typer.Exit(_conclude(progress))


def _order(kind: RevokedKind, subject: str, reason: RevocationReason) -> dict[str, str]:
    try:
        Denied(kind=kind, subject=subject, sequence=1, reason=reason)
    except ValidationError as error:
        fail(first_problem(error).removeprefix("Value error, "))
    return {"kind": kind, "subject": subject, "reason": reason.value}


def _say(entry: dict[str, Any]) -> None:
    what = f"{entry['kind']} {entry['subject']}"
    if entry["new"]:
        err.print(f"{what} is revoked: entry {entry['sequence']}.", markup=False)
    else:
        err.print(f"{what} was revoked before, by entry {entry['sequence']}.", markup=False)
    if not entry["known"]:
        err.print(
            f"The model knows no {what}. If that is a slip, the one you mean still gets in.",
            style="bold yellow",
            markup=False,
        )


def _follow(client: Remote, sequence: int, timeout_s: float) -> dict[str, Any]:
    """The progress when every door that is online has confirmed, or the time is over."""
    path = f"{PATH}/{sequence}/progress"
    deadline_s = time.monotonic() + timeout_s
    progress: dict[str, Any] = client.get(path)
    with Live(_picture(progress), console=err, transient=True, auto_refresh=False) as live:
        while progress["waiting"] and (left_s := deadline_s - time.monotonic()) > 0:
            wait_s = min(_POLL_S, left_s)
            progress = client.get(path, wait=wait_s, confirmed=progress["confirmed"])
            live.update(_picture(progress), refresh=True)
    return progress


def _picture(progress: dict[str, Any]) -> RenderableType:
    agents = progress["agents"]
    done = progress["confirmed"]
    words = f"{done} of {len(agents)} agents confirmed, {progress['waiting']} to come"
    if progress["unreachable"]:
        words += f", {progress['unreachable']} not online"
    bar = ProgressBar(total=max(1, len(agents)), completed=done, width=40)
    table = Table("door", "agent", "state", box=None)
    # those that matter most first: waited for, then silent, then done
    rows = sorted(agents, key=lambda a: (a["confirmed"], a["state"] != "online", a["agent"]))
    for agent in rows[:_MOST_SHOWN]:
        state = "confirmed" if agent["confirmed"] else agent["state"]
        style = {"confirmed": "green", "online": "yellow"}.get(state, "red")
        shown = "waiting" if state == "online" else state
        table.add_row(", ".join(agent["doors"]), agent["agent"], Text(shown, style))
    more = len(rows) - _MOST_SHOWN
    tail = [Text(f"and {more} more agents", style="dim")] if more > 0 else []
    return Group(Text(words), bar, table, *tail)


def _conclude(progress: dict[str, Any]) -> Outcome:
    agents = progress["agents"]
    late = [a for a in agents if not a["confirmed"] and a["state"] == "online"]
    silent = [a for a in agents if not a["confirmed"] and a["state"] != "online"]
    err.print(f"{progress['confirmed']} of {len(agents)} agents have confirmed.")
    if late:
        err.print(
            "Online, but not confirmed: these doors may still let it in, until then at most.",
            style="bold red",
        )
        err.print(_listed(late))
    if silent:
        err.print(
            "Not online: these doors may still let it in, until then at most.", style="bold yellow"
        )
        err.print(_listed(silent))
        err.print("They are told as soon as they are back.")
    if late:
        return Outcome.NOT_CONFIRMED
    return Outcome.SOME_OFFLINE if silent else Outcome.EVERY_DOOR


def _listed(agents: list[dict[str, Any]]) -> Table:
    table = Table("door", "agent", "state", "until", box=None)
    for agent in agents:
        until = agent["admits_until"] or "-"
        table.add_row(", ".join(agent["doors"]), agent["agent"], agent["state"], until)
    return table


@app.command("risk")
def risk_command(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As the API answers.")] = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Show which doors still let in a revoked card, and until when at most.

    Exit code 1 if there are any.
    """
    with remote(site_dir, url) as client:
        found = client.get(f"{PATH}/risk")
    if as_json:
        typer.echo(json.dumps(found))
    elif not found["items"]:
        out.print("No risk remains: no door lets in a card that was revoked.")
    else:
        table = Table("door", "agent", "card", "revoked by entry", "until at most", box=None)
        for each in found["items"]:
            until = each["until"] or "no end"
            sequence = str(each["sequence"])
            table.add_row(each["door"], each["agent"], each["card"], sequence, until)
        out.print(table)
        out.print(f"{found['doors']} doors, {found['cards']} cards.")
    if found["items"]:
        raise typer.Exit(1)


@app.command("list")
def list_command(
    *,
    after: Annotated[int, typer.Option(min=0, help="Only entries beyond this one.")] = 0,
    person: Annotated[str | None, typer.Option(help="Only of this person.")] = None,
    card: Annotated[str | None, typer.Option(help="Only of this card.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Show the log, oldest entry first."""
    if person is not None and card is not None:
        fail("use --person or --card, not both")
    kind = "person" if person else "card" if card else None
    query = {"kind": kind, "subject": person or card, "limit": 1000}
    entries: list[dict[str, Any]] = []
    with remote(site_dir, url) as client:
        place: str | None = str(after)
        while place is not None:
            page = client.get(PATH, **query, after=place)
            entries += page["items"]
            place = page["next"]
    if as_json:
        typer.echo(json.dumps(entries))
        return
    if not entries:
        err.print("There are no such entries.")
        return
    table = Table("entry", "kind", "subject", "reason", "time", box=None)
    for each in entries:
        table.add_row(
            str(each["sequence"]),
            *(Text(printable(each[key])) for key in ("kind", "subject", "reason", "time")),
        )
    out.print(table)
