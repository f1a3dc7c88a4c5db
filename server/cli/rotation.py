"""`ostiary rotation`: give the locks and cards of a key domain new keys."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from server.cli.console import DEFAULT_SITE_DIR, SiteDir, confirm, err, fail, out
from server.cli.remote import Refused, Remote, Url, remote
from server.clock import SystemClock
from server.core.rotation import ENDED
from server.ingest.alarms import printable

app = typer.Typer(help="New keys for a key domain's locks and cards.", no_args_is_help=True)
PATH = "/api/v1/rotations"
FOLLOW_S = 1.0
SHOWN = 20
"""So many locks that wait are shown; the rest are counted."""
_WAVES = ("one lock", "1 %", "10 %", "all")

Id = Annotated[str, typer.Argument(help="The rotation: `ostiary rotation list` shows them.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command()
def plan(  # noqa: PLR0917 typer passes options by name
    domain: Annotated[str, typer.Argument(help="The key domain.")],
    to: Annotated[int | None, typer.Option(help="A version that is made; none: a new one.")] = None,
    overlap_days: Annotated[
        float, typer.Option(min=0.001, help="How long cards have to come by.")
    ] = 30.0,
    as_json: Json = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Make the next key version and a plan. Nothing changes at any lock before `start`."""
    with remote(site_dir, url) as client:
        made = client.post(PATH, {"domain": domain, "to_version": to, "overlap_days": overlap_days})
        made_here = _has_keys_of(client, domain)
    _show(made, as_json)
    if not as_json:
        if made_here:
            err.print("Back the new keys up before you go on: `ostiary keys backup`.")
        err.print(f"Start it with: ostiary rotation start {made['id']}", markup=False)


def _has_keys_of(client: Remote, domain: str) -> bool:
    """Whether the key authority makes the domain's keys; if that is not for us to see, it may."""
    try:
        client.get(f"/api/v1/keys/domains/{domain}")
    except Refused as refusal:
        return refusal.kind != "no-such-object"
    return True


@app.command()
def start(
    rotation: Id,
    hold: Annotated[
        bool, typer.Option("--hold", help="Wait for `activate` once all locks have the keys.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show the progress.")] = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Give the locks the new keys, wave after wave; then doors prefer them."""
    _act(site_dir, url, rotation, "start", {"hold": hold})
    if follow:
        _follow(site_dir, url, rotation)


@app.command()
def status(
    rotation: Annotated[
        str | None,
        typer.Argument(help="The rotation, or its domain for the newest; none: what is under way."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends.")] = False,
    as_json: Json = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Show how far it is, which locks it waits for and why, and which cards are behind."""
    with remote(site_dir, url) as client:
        meant = _meant(client, rotation)
        if not follow or as_json:
            _show(client.get(f"{PATH}/{meant}"), as_json)
    if follow and not as_json:
        _follow(site_dir, url, meant)


def _meant(client: Remote, named: str | None) -> str:
    """The id of the rotation that is named so, or of the one that is under way."""
    items = [
        each
        for each in client.get(PATH)["items"]
        if named is None or named in (each["id"], each["domain"])
    ]
    found = [each for each in items if each["state"] not in ENDED] or items[:1]
    if len(found) > 1:
        ids = ", ".join(f"{each['id']} of {each['domain']}" for each in found)
        fail(f"{len(found)} rotations are under way: name one of {ids}")
    if found:
        return str(found[0]["id"])
    if named is None:
        fail("there is no rotation yet: `ostiary rotation plan DOMAIN` plans one")
    fail(f"there is no rotation {named}, nor one of a domain {named}: see `ostiary rotation list`")


@app.command("list")
def list_command(
    as_json: Json = False, site_dir: SiteDir = DEFAULT_SITE_DIR, url: Url = None
) -> None:
    """Show all rotations, newest first."""
    with remote(site_dir, url) as client:
        items = client.get(PATH)["items"]
    if as_json:
        typer.echo(json.dumps(items))
        return
    if not items:
        err.print("No keys were rotated yet: `ostiary rotation plan DOMAIN` plans it.")
        return
    table = Table(
        Column("id", no_wrap=True), "domain", "from", "to", "state", "lock-outs", "made", box=None
    )
    for each in items:
        shown = (
            *(each["id"], each["domain"], each["from_version"], each["to_version"]),
            *(_state(each), each["lockouts"], f"{each['created'][:16]}Z"),
        )
        table.add_row(*(Text(printable(str(text))) for text in shown))
    out.print(table)


@app.command()
def pause(rotation: Id, site_dir: SiteDir = DEFAULT_SITE_DIR, url: Url = None) -> None:
    """Stop it where it is. Nothing changes at any door."""
    _act(site_dir, url, rotation, "pause", {})


@app.command()
def resume(rotation: Id, site_dir: SiteDir = DEFAULT_SITE_DIR, url: Url = None) -> None:
    """Go on where it was paused; what failed is tried again."""
    _act(site_dir, url, rotation, "resume", {})


@app.command()
def activate(rotation: Id, site_dir: SiteDir = DEFAULT_SITE_DIR, url: Url = None) -> None:
    """Have the doors prefer the new version, if it was started with --hold."""
    _act(site_dir, url, rotation, "activate", {})


@app.command()
def rollback(
    rotation: Id, yes: Yes = False, site_dir: SiteDir = DEFAULT_SITE_DIR, url: Url = None
) -> None:
    """Undo it: doors prefer the old version again. After `retire` that is impossible."""
    if not yes:
        confirm(f"Roll back the rotation {rotation}?")
    _act(site_dir, url, rotation, "rollback", {})


@app.command()
def retire(  # noqa: PLR0917 typer passes options by name
    rotation: Id,
    leave_behind: Annotated[
        bool, typer.Option("--leave-behind", help="Though live cards have no new keys.")
    ] = False,
    destroy: Annotated[
        bool, typer.Option("--destroy", help="Destroy the old keys at the key authority too.")
    ] = False,
    yes: Yes = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """End the old version: no door takes it, locks erase it. It can't be undone."""
    with remote(site_dir, url) as client:
        found = _look(client, rotation)
        if found is not None:
            if found["state"] != "overlap":
                fail(f"a rotation that is {_state(found)} can't be retired, one in overlap can")
            _behind(found, leave_behind)
        if not yes:
            old = f"version {found['from_version']} of {found['domain']}" if found else ""
            confirm(f"Retire {old or 'the version it moves from'} for ever?")
        body = {"leave_behind": leave_behind, "destroy": destroy}
        done = client.post(f"{PATH}/{rotation}/retire", body)
    _show(done, as_json=False)


def _look(client: Remote, rotation: str) -> dict[str, Any] | None:
    """The rotation, before anything is asked; None: the token may only act."""
    try:
        found: dict[str, Any] = client.get(f"{PATH}/{rotation}")
    except Refused as refusal:
        if refusal.kind == "forbidden":
            return None
        raise
    return found


def _behind(found: dict[str, Any], leave_behind: bool) -> None:
    """Name the cards that would stay outside; the end, unless that is meant or their time over."""
    behind = found["cards"]["behind"]
    if not behind:
        return
    err.print(f"{behind} live cards would open no door until they are bound again:")
    err.print(", ".join(found["cards"]["some_behind"][:SHOWN]), markup=False)
    deadline = datetime.fromisoformat(found["deadline"])
    if not leave_behind and SystemClock().now() < deadline:
        fail(f"wait for them until {deadline:%Y-%m-%d %H:%M} UTC, or retire with --leave-behind")


@app.command()
def quarantine(  # noqa: PLR0917 typer passes options by name
    rotation: Id,
    agents: Annotated[
        list[str] | None, typer.Argument(help="Agents; none: all that can't be reached.")
    ] = None,
    release: Annotated[bool, typer.Option("--release", help="Count on them again.")] = False,
    yes: Yes = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Go on without these locks. They leave it by themselves once they have what they lack."""
    if release and not agents:
        fail("name the agents to release")
    with remote(site_dir, url) as client:
        found = _look(client, rotation)
        named = ", ".join(agents) if agents else "all locks that can't be reached"
        if found is not None and found["state"] in ENDED:
            fail(f"the rotation {rotation} is {found['state']}: it waits for no lock")
        if found is not None and not agents and not _out_of_reach(found):
            err.print("Nothing was done: every lock can be reached, or is in quarantine already.")
            return
        if not yes and not release:
            confirm(
                f"Put {named} into quarantine? Their doors may refuse cards with new keys only."
            )
        body = {"agents": agents or [], "release": release}
        done = client.post(f"{PATH}/{rotation}/quarantine", body)
    _show(done, as_json=False)


def _out_of_reach(found: dict[str, Any]) -> bool:
    """Whether a lock that is not in quarantine can't be reached."""
    put = sum(each["quarantined"] and not each["reachable"] for each in found["waiting"])
    return bool(found["locks"]["unreachable"] > put)


def _act(site_dir: Any, url: str | None, rotation: str, action: str, body: object) -> None:
    with remote(site_dir, url) as client:
        found = client.post(f"{PATH}/{rotation}/{action}", body)
    _show(found, as_json=False)


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found))
    else:
        out.print(_picture(found))


def _follow(site_dir: Any, url: str | None, rotation: str) -> None:
    live = Live(console=err, auto_refresh=False) if out.is_terminal and err.is_terminal else None
    told = ""
    with remote(site_dir, url) as client, live or nullcontext():
        try:
            while True:
                found = client.get(f"{PATH}/{rotation}")
                if live is not None:
                    live.update(_picture(found), refresh=True)
                elif (line := _line(found)) != told:
                    told = line
                    typer.echo(f"{SystemClock().now():%Y-%m-%dT%H:%M:%SZ}  {line}")
                if found["state"] in {*ENDED, "paused"}:
                    return
                time.sleep(FOLLOW_S)
        except KeyboardInterrupt:
            pass  # the rotation goes on; only the watching ends


def _line(found: dict[str, Any]) -> str:
    """What changes in a rotation, for where nothing can be drawn over."""
    staged = sum(each["staged"] for each in found["locks"]["waves"])
    parts = (
        _state(found),
        f"{staged} of {found['locks']['total']} locks with version {found['to_version']}",
        f"old version: {_counts(found['locks']['old'])}",
        f"{found['cards']['behind']} cards behind",
        f"{found['lockouts']} lock-outs",
        found["reason"],
    )
    return printable(", ".join(part for part in parts if part))


def _picture(found: dict[str, Any]) -> Group:
    locks, cards = found["locks"], found["cards"]
    head = (
        f"Rotation {found['id']}: {found['domain']} from version {found['from_version']} to"
        f" {found['to_version']}, {_state(found)}"
    )
    lines: list[Any] = [Text(printable(head), style="bold")]
    if found["reason"]:
        lines.append(Text(printable(found["reason"]), style="yellow"))
    bars = Table(box=None)
    for column in ("wave", "locks with the new keys", "", ""):
        bars.add_column(column)
    for each in locks["waves"]:
        done = each["wave"] < found["wave"] or each["staged"] == each["locks"]
        bars.add_row(
            _WAVES[each["wave"]],
            ProgressBar(total=each["locks"], completed=each["staged"], width=30),
            f"{each['staged']} of {each['locks']}",
            "" if done or each["wave"] == found["wave"] else "later",
        )
    lines.append(bars)
    lines.append(Text(f"New version at the locks: {_counts(locks['new'])}"))
    old = dict(locks["old"])
    if found["state"] == "planned" and "absent" in old:  # of use, but nobody has asked the lock
        old["not heard of yet"] = old.pop("absent")
    lines.append(Text(f"Old version at the locks: {_counts(old)}"))
    versions = {f"version {number}": count for number, count in cards["versions"].items()}
    lines.append(Text(f"Live cards: {_counts(versions)}; {cards['behind']} behind"))
    lines.append(
        Text(
            f"Lock-outs: {found['lockouts']}",
            style="bold red" if found["lockouts"] else "green",
        )
    )
    if found["waiting"]:
        lines.append(_waiting(found["waiting"]))
    return Group(*lines)


def _waiting(waiting: list[dict[str, Any]]) -> Table:
    table = Table("lock", "wave", "", "why", box=None)
    for each in waiting[:SHOWN]:
        where = "in quarantine" if each["quarantined"] else ""
        table.add_row(
            printable(each["agent"]), _WAVES[each["wave"]], where, Text(printable(each["why"]))
        )
    if len(waiting) > SHOWN:
        table.add_row("...", "", "", f"and {len(waiting) - SHOWN} more")
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def _state(found: dict[str, Any]) -> str:
    paused = found["paused_in"]
    return f"paused in {paused}" if paused else str(found["state"])
