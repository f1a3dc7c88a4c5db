"""A server that ends at any commit of a rotation: what is written is whole, the next goes on."""

from __future__ import annotations

import asyncio

from server.core.rotation import NotNow
from server.store import rotations as rows
from tests.campaign_lock import ZONE
from tests.campaign_rig import LIMIT_S, Campaigns, campaigns
from tests.mortal_engine import Stopped

WHOLE = ["planned", "started", "staged", "activated", "retired", "completed"]


async def operate(rig: Campaigns, to_version: int) -> None:
    """What an operator does until the domain is at that version: whatever is next."""
    async with asyncio.timeout(LIMIT_S):
        await _operate(rig, to_version)


async def _operate(rig: Campaigns, to_version: int) -> None:
    while True:
        async with rig.engine.connect() as connection:
            found = [c for c, *_ in await rows.read_rotations(connection)]
        ours = [c for c in found if c.to_version == to_version]
        if not ours:
            await rig.rotations.plan(ZONE, "op")
            continue
        (campaign,) = ours
        match campaign.state:
            case "planned":
                await rig.rotations.start(campaign.id, "op")
            case "overlap":
                try:
                    await rig.rotations.retire(campaign.id, "op", destroy=True)
                except NotNow:  # a lock has not said yet that it prefers the new version
                    await rig.next()
            case "completed":
                return
            case _:
                await rig.next()


async def test_an_end_of_the_process_at_any_commit_loses_nothing_and_does_nothing_twice(tmp_path):
    async with campaigns(tmp_path / "site", locks=3) as rig:
        version, commits, dies_at, written = 2, 1_000, -1, True
        deaths = 0
        while dies_at < commits:
            rig.mortal.commits, rig.mortal.dies_at, rig.mortal.written = 0, dies_at, written
            try:
                await operate(rig, version)
                commits = rig.mortal.commits if dies_at < 0 else commits
            except Stopped:
                deaths += 1
                await rig.restart()
                await operate(rig, version)
            await rig.when(
                lambda now=version: all(set(k.held) == {now} for k in rig.locks.values())
            )
            (domain,) = await rig.authority.domains()
            assert (domain.floor, domain.newest) == (version, version)
            gone = [v.destroyed is not None and not v.stored for v in domain.versions]
            assert gone == [*[True] * (version - 1), False]
            assert await rig.events() == [f"rotation.{name}" for name in WHOLE] * (version - 1)
            if written:
                dies_at, written = dies_at + 1, False
            else:
                written = True
            version += 1
        assert deaths >= 2 * commits - 2
