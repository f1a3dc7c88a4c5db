"""`ostiary agents`: which devices belong to the site."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

import segno
import typer
from rich.table import Table
from rich.text import Text

from server.cli.console import DEFAULT_SITE_DIR, SiteDir, confirm, err, fail, out
from server.cli.remote import Remote, Url, remote
from server.ingest.alarms import printable

app = typer.Typer(help="The agents of the site.", no_args_is_help=True)

AgentName = Annotated[str, typer.Argument(help="The agent's name.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_ADDRESS = "/api/v1/agents"


@app.command()
def claim(
    agent: AgentName,
    *,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
    re_enrol: Annotated[
        bool, typer.Option("--re-enrol", help="Give an agent that is enrolled new keys.")
    ] = False,
    qr: Annotated[
        bool | None, typer.Option("--qr/--no-qr", help="A QR code too; by default on a terminal.")
    ] = None,
) -> None:
    """Make a claim code: with it one device can ask to become this agent, for ten minutes.

    Give it to `ostiary-agent enrol` at the door. Standard output has the code alone.
    """
    with remote(site_dir, url) as server:
        made = server.post(_address(agent, "/claim"), {"re_enrol": re_enrol})
    code = str(made["code"])
    if sys.stdout.isatty() if qr is None else qr:
        segno.make_qr(code, error="l").terminal(out=sys.stdout, compact=True, border=2)
    typer.echo(code)
    err.print(
        f"At the device, until {_local(made['expires'])}:\n"
        f"  ostiary-agent enrol CODE --config agent.toml\n"
        f"then here, to compare what the device shows:\n  ostiary agents approve {agent}",
        markup=False,
    )


@app.command()
def pending(
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Show the devices that wait for approval, with their fingerprints."""
    with remote(site_dir, url) as server:
        items = list(server.items(_ADDRESS, pending="true"))
    if as_json:
        typer.echo(json.dumps(items))
        return
    if not items:
        err.print("No device waits.")
        return
    table = Table(box=None)
    for heading in ("agent", "fingerprint", "claimed by", ""):
        table.add_column(heading, overflow="fold")
    for item in items:
        asked = item["claim"]
        note = "AND A SECOND DEVICE CAME" if asked["rival"] else ""
        cells = (item["agent"], asked["fingerprint"], asked["by"], note)
        table.add_row(*(Text(printable(str(cell))) for cell in cells))
    out.print(table)


@app.command()
def approve(
    agent: AgentName,
    *,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="What the device shows: compared instead of asking.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Make the device that waits an agent, if it shows the same fingerprint.

    The fingerprint is all that tells it from an impostor who got hold of the claim code.
    """
    with remote(site_dir, url) as server:
        item = _waiting(server, agent)
        asked = item["claim"]
        if fingerprint is not None:
            if _digits(fingerprint) != _digits(asked["fingerprint"]):
                fail(
                    f"the device that waits shows {asked['fingerprint']}, which is another: refuse"
                    f" it with `ostiary agents refuse {agent}`, and make a new claim"
                )
        elif not yes:
            out.print(f"Device waiting as [bold]{agent}[/]: {asked['fingerprint']}")
            _warn_of_rival(asked)
            if item["enrolled"]:
                out.print(f"It takes the place of the device with {item['fingerprint']}.")
            confirm("Does the device show this fingerprint? Approve it?")
        server.post(_address(agent, "/approve"), {"keyid": asked["keyid"]})
    out.print(f"Agent [bold]{agent}[/] is enrolled.")


@app.command()
def refuse(agent: AgentName, site_dir: SiteDir = DEFAULT_SITE_DIR, url: Url = None) -> None:
    """Turn the device away that waits; its claim is used up."""
    with remote(site_dir, url) as server:
        server.post(_address(agent, "/refuse"))
    out.print(f"The device that waited as [bold]{agent}[/] is refused.")


@app.command()
def remove(
    agent: AgentName, site_dir: SiteDir = DEFAULT_SITE_DIR, url: Url = None, yes: Yes = False
) -> None:
    """Cut an agent off: at once, nothing it signs counts, and the broker lets it in no more.

    Its doors go on deciding by what they have until that is too old. Its events stay.
    """
    if not yes:
        confirm(f"Remove {agent}? Its device must be enrolled anew to come back.")
    with remote(site_dir, url) as server:
        server.delete(_address(agent))
    out.print(f"Agent [bold]{agent}[/] is removed.")


@app.command("list")
def list_command(
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Show the agents, and the claims that are under way."""
    with remote(site_dir, url) as server:
        items = list(server.items(_ADDRESS))
    if as_json:
        typer.echo(json.dumps(items))
        return
    if not items:
        err.print("No agents yet: `ostiary agents claim NAME` makes a code for the first device.")
        return
    table = Table(box=None)
    for heading in ("agent", "state", "fingerprint", "certificate until"):
        table.add_column(heading, overflow="fold")  # half a fingerprint compares nothing
    for item in items:
        until = (item["certificate_until"] or "-")[:10]
        cells = (item["agent"], _state(item), item["fingerprint"] or "-", until)
        table.add_row(*(Text(printable(str(cell))) for cell in cells))
    out.print(table)


def _address(agent: str, what: str = "") -> str:
    return f"{_ADDRESS}/{quote(agent, safe='')}{what}"


def _waiting(server: Remote, agent: str) -> dict[str, Any]:
    for item in server.items(_ADDRESS, pending="true"):
        if item["agent"] == agent:
            return item
    fail(
        f"no device waits as {agent}: run `ostiary-agent enrol` there with a code from"
        f" `ostiary agents claim {agent}`, or see `ostiary agents list`"
    )


def _warn_of_rival(asked: dict[str, Any]) -> None:
    if asked["rival"]:
        err.print(
            f"A second device came with the same claim: {asked['rival']}. Someone else may have"
            " seen the code: approve only what the device in your hands shows.",
            style="red",
            markup=False,
        )


def _state(item: dict[str, Any]) -> str:
    asked = item["claim"]
    if asked is None:
        return "enrolled"
    claimed = {"open": "claimed", "pending": "waits for approval"}.get(
        asked["state"], str(asked["state"])
    )
    return f"enrolled, {claimed} anew" if item["enrolled"] else claimed


def _digits(text: str) -> str:
    return "".join(text.split()).replace(":", "").lower()


def _local(moment: str) -> str:
    when = datetime.fromisoformat(moment).astimezone()
    minutes = max(0, round((when - datetime.now(UTC)).total_seconds() / 60))
    return f"{when:%H:%M:%S} ({minutes} minutes)"
