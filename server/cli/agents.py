"""`ostiary agents`: whose events are believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.table import Table
from rich.text import Text

from schemas.errors import MalformedKey, first_problem
from schemas.names import AgentId, DigestHex, PointHex
from schemas.suites import SuiteName, keyid
from server.cli.console import DEFAULT_SITE_DIR, SiteDir, fail, opened, out, run, the_site
from server.clock import SystemClock, from_microseconds, microseconds
from server.config import ServerConfig
from server.ingest.alarms import printable
from server.ingest.ledger import Ledger
from server.site import Site
from server.store.agents import AgentExists, add_agent, list_agents

app = typer.Typer(help="The agents of the site.", no_args_is_help=True)


class Identity(BaseModel):
    """What `ostiary-agent identity` prints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent: AgentId
    suite: SuiteName
    public_key: PointHex
    keyid: DigestHex


@app.command()
def add(
    identity: Annotated[Path, typer.Argument(help="Output of `ostiary-agent identity`.")],
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Register an agent's public key; from then on the events it signs are believed.

    Compare the fingerprint with what the device shows: it is all that tells it from an impostor.
    """
    site, config = the_site(site_dir)
    try:
        who = Identity.model_validate_json(identity.read_bytes())
        point = bytes.fromhex(who.public_key)
        key = site.suite.public_key(point)
    except OSError as error:
        fail(f"{identity}: {error.strerror}")
    except (ValidationError, ValueError, MalformedKey) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else error
        fail(
            f"{identity} is not what `ostiary-agent identity` prints ({why}): "
            "run it again at the door, and copy its whole output"
        )
    if who.suite != site.root.suite:
        fail(
            f"agent {who.agent} has keys of suite {who.suite}, the site uses {site.root.suite}: "
            "give the agent this site's root.json and a new state directory"
        )
    if keyid(key) != who.keyid:
        fail(f"{identity}: keyid is not that of the public key; the file was changed or damaged")
    if not yes:
        out.print(f"Agent [bold]{who.agent}[/], fingerprint {who.keyid[:32]}")
        typer.confirm("Is this what the device shows? Register it?", abort=True)
    run(_add(site, config, who.agent, point))
    out.print(f"Agent [bold]{who.agent}[/] is registered; a running server knows it at once.")


async def _add(site: Site, config: ServerConfig, agent: str, point: bytes) -> None:
    async with opened(site, config) as engine:
        try:
            await add_agent(engine, agent, site.suite, point, microseconds(SystemClock().now()))
        except (AgentExists, ValueError) as error:
            fail(f"{error}; see `ostiary agents list`")


@app.command("list")
def list_command(
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Show the agents, and how far the events of each are committed."""
    site, config = the_site(site_dir)
    rows = run(_list(site, config))
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table(box=None)
    for heading in ("agent", "fingerprint", "added", "chain", "events in it"):
        table.add_column(heading, overflow="fold")  # half a fingerprint compares nothing
    for row in rows:
        table.add_row(*(Text(printable("-" if v is None else str(v))) for v in row.values()))
    out.print(table)


async def _list(site: Site, config: ServerConfig) -> list[dict[str, object]]:
    async with opened(site, config) as engine:
        ledger = Ledger(engine)
        await ledger.load()
        found = await list_agents(engine)
    heads = {a.id: ledger.heads.newest(a.id) for a in found}
    return [
        {
            "agent": a.id,
            "keyid": a.keyid[:32],
            "added": from_microseconds(a.added_us).isoformat(timespec="seconds"),
            "chain": head.chain if (head := heads[a.id]) else None,
            "sequence": head.sequence if head else 0,
        }
        for a in found
    ]
