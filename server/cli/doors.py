"""`ostiary doors`: what doors do, and telling them what to do."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Annotated, Any

import typer

from schemas.command import Action
from server.cli.console import DEFAULT_SITE_DIR, SiteDir, err, fail, out
from server.cli.remote import Refused, Url, remote
from server.clock import SystemClock

app = typer.Typer(help="The doors of the site.", no_args_is_help=True)
_SPAN = re.compile(r"([1-9][0-9]{0,4})(s|m|h)\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600}

Door = Annotated[str, typer.Argument(help="The door.")]
For = Annotated[
    str | None, typer.Option("--for", help="For how long: 90s, 10m, 2h.", show_default=False)
]
Until = Annotated[
    str | None,
    typer.Option("--until", help="Until when: 2026-12-31T18:00:00+08:00.", show_default=False),
]


class Outcome(IntEnum):
    """The exit code of a command to a door."""

    DONE = 0
    REFUSED = 1
    NOT_SENT = 3
    UNCONFIRMED = 4


_OUTCOMES = {"not-connected": Outcome.NOT_SENT, "unconfirmed": Outcome.UNCONFIRMED}


@app.command()
def unlock(
    door: Door,
    span: For = None,
    until: Until = None,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Leave a door unlocked for a while, at most 24 h. It locks again if its agent restarts."""
    end = _end(span, until)
    if end is None:
        fail("say for how long, such as --for 10m, or --until when")
    _command(site_dir, url, f"doors/{door}", Action.UNLOCK, end)


@app.command()
def pulse(door: Door, site_dir: SiteDir = DEFAULT_SITE_DIR, url: Url = None) -> None:
    """Release a door's strike for one passage."""
    _command(site_dir, url, f"doors/{door}", Action.PULSE)


@app.command()
def lock(
    door: Door,
    span: For = None,
    until: Until = None,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Lock a door, though its policy unlocks it; cards go on as usual."""
    _command(site_dir, url, f"doors/{door}", Action.LOCK, _end(span, until))


@app.command()
def block(
    door: Door,
    span: For = None,
    until: Until = None,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Refuse every card at a door, on both sides. The exit button goes on as usual."""
    _command(site_dir, url, f"doors/{door}", Action.BLOCK, _end(span, until))


@app.command()
def normal(door: Door, site_dir: SiteDir = DEFAULT_SITE_DIR, url: Url = None) -> None:
    """End unlock, lock or block: back to what the policy says."""
    _command(site_dir, url, f"doors/{door}", Action.NORMAL)


@app.command()
def identify(door: Door, site_dir: SiteDir = DEFAULT_SITE_DIR, url: Url = None) -> None:
    """Let the reader of a door blink and beep, to see which door it is."""
    _command(site_dir, url, f"doors/{door}", Action.IDENTIFY)


def reboot(
    agent: Annotated[str, typer.Argument(help="The agent.")],
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """End an agent's process; its supervisor starts it again. Its doors stay locked."""
    _command(site_dir, url, f"agents/{agent}", Action.REBOOT)


def _command(
    site_dir: SiteDir,
    url: Url,
    place: str,
    action: Action,
    until: datetime | None = None,
) -> None:
    name = place.partition("/")[2]
    order = {"action": action.value}
    if until is not None:
        order["until"] = until.isoformat()
    with remote(site_dir, url) as client:
        try:
            done: dict[str, Any] = client.post(f"/api/v1/{place}/commands", order)
        except Refused as refusal:
            unsure = refusal.kind == "unconfirmed"
            err.print(f"[bold red]not {'confirmed' if unsure else 'done'}:[/] ", end="")
            err.print(str(refusal), markup=False)
            raise typer.Exit(_OUTCOMES.get(refusal.kind, Outcome.REFUSED)) from None
    took = done["operator_to_strike_ms"]
    after = "" if took is None else f", {took:.0f} ms after you asked"
    out.print(f"{name}: {action.value} done{after}", markup=False)


def _end(span: str | None, until: str | None) -> datetime | None:
    if span is not None and until is not None:
        fail("use --for or --until, not both")
    if span is not None:
        match = _SPAN.match(span)
        if match is None:
            fail(f"--for {span}: use a number with s, m or h, such as 10m")
        return SystemClock().now() + timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
    if until is None:
        return None
    try:
        end = datetime.fromisoformat(until)
    except ValueError:
        fail(f"--until {until}: use a time with its zone, such as 2026-12-31T18:00:00+08:00")
    if end.utcoffset() is None:
        fail(f"--until {until}: say the time zone, such as +08:00 or Z")
    return end
