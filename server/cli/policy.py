"""`ostiary policy`: what doors enforce."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.policy import Policy
from schemas.statement import sign_statement
from server.cli.console import DEFAULT_SITE_DIR, SiteDir, fail, opened, out, run, the_site
from server.clock import SystemClock
from server.config import ServerConfig
from server.files import write_durably
from server.site import Site, SiteError
from server.store.agents import list_agents
from server.store.tables import meta

app = typer.Typer(help="What doors enforce.", no_args_is_help=True)
_FILLED = ("purpose", "site", "audience", "issued", "counter")


@app.command()
def sign(
    policy: Annotated[Path, typer.Argument(help="The policy as JSON.")],
    agent: Annotated[str, typer.Option(help="The agent it is for.")],
    out_file: Annotated[Path, typer.Option("--out", help="Where the signed policy goes.")],
    site_dir: SiteDir = DEFAULT_SITE_DIR,
) -> None:
    """Check a policy and sign it for one agent, as the next version.

    purpose, site, audience, issued and counter are filled in; agents refuse any version that is
    not higher than the one they have.
    """
    site, config = the_site(site_dir)
    try:
        content = json.loads(policy.read_bytes())
        signer = site.signer("policy", os.environ)
    except OSError as error:
        fail(f"{policy}: {error.strerror}")
    except ValueError as error:
        fail(f"{policy} is not JSON: {error}")
    except SiteError as error:
        fail(str(error))
    if not isinstance(content, dict):
        fail(f"{policy} is not a JSON object")
    filled = [name for name in _FILLED if name in content]
    if filled:
        fail(f"{policy}: leave out {', '.join(filled)}: signing fills that in")
    now = SystemClock().now()
    _checked(
        policy, content, site=site.name, agent=agent, now=now, version=0
    )  # before a version number is spent
    version = run(_next_version(site, config, agent))
    statement = _checked(policy, content, site=site.name, agent=agent, now=now, version=version)
    try:
        write_durably(out_file, sign_statement(statement, signer), mode=0o644)
    except OSError as error:
        fail(f"{out_file}: {error.strerror}")
    out.print(f"Policy {version} for [bold]{agent}[/] is in {out_file}")


def _checked(
    file: Path, content: dict[str, object], *, site: str, agent: str, now: datetime, version: int
) -> Policy:
    filled = {"site": site, "audience": agent, "counter": version}
    try:
        return Policy.model_validate_json(
            json.dumps({**content, **filled, "issued": now.isoformat()})
        )
    except ValidationError as error:
        lines = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()[:5]]
        fail(f"{file} is not a policy:\n  " + "\n  ".join(lines))


async def _next_version(site: Site, config: ServerConfig, agent: str) -> int:
    """One more than any version signed for this agent before, durably taken."""
    async with opened(site, config) as engine:
        if agent not in {a.id for a in await list_agents(engine)}:
            fail(f"no agent {agent}: register it with `ostiary agents add`")
        return await _take_version(engine, f"policy/{agent}")


async def _take_version(engine: AsyncEngine, key: str) -> int:
    async with engine.begin() as connection:
        before = await connection.scalar(select(meta.c.value).where(meta.c.key == key))
        version = int(before or 0) + 1
        if before is None:
            await connection.execute(insert(meta).values(key=key, value=str(version)))
        else:
            taken = await connection.execute(
                update(meta)
                .where(meta.c.key == key, meta.c.value == before)
                .values(value=str(version))
            )
            if taken.rowcount != 1:
                fail("another policy for this agent is being signed just now: try again")
    return version
