"""Two operators: one who does anything at any time, and one who does what is due."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from server.core import rotation
from server.core.rotation import NotNow

if TYPE_CHECKING:
    from tests.rotation_sim.world import World

OVERLAP = timedelta(minutes=8)
MOST_IN_VAIN = 3
"""Versions that are rolled back in a row: a lock holds eight."""


def anything(world: World) -> None:
    """Whatever comes to mind; what is not possible now is refused, and changes nothing."""
    try:
        _anything(world)
    except NotNow:
        world.seen["not now"] += 1


def _anything(world: World) -> None:
    centre, chance = world.centre, world.chance
    campaign, draw = centre.campaign, chance.random()
    if campaign is None:
        centre.begin(world.now, OVERLAP, hold=draw < 0.2)
    elif campaign.state == "paused" and draw < 0.7:
        centre.resume()
    elif draw < 0.05:
        centre.quarantine(world.a_lock().name)
    elif draw < 0.25 and (away := _away(world)):
        centre.quarantine(chance.choice(away))
    elif draw < 0.1:
        centre.apply(rotation.pause(campaign, "an operator's whim"))
    elif draw < 0.13 and _in_vain(world) < MOST_IN_VAIN:
        centre.roll_back()
    elif draw < 0.5:
        _activate(world)
    else:
        leave, destroy = chance.random() < 0.1, chance.random() < 0.7
        centre.retire(world.now, leave_behind=leave, destroy=destroy)


def due(world: World) -> None:
    """The next thing to do, if there is one."""
    centre, campaign = world.centre, world.centre.campaign
    try:
        if campaign is None:
            return
        if campaign.state == "paused":
            centre.resume()
        elif campaign.state == "staged":
            _activate(world)
        elif campaign.state == "overlap":
            leave = world.chance.random() < 0.01
            centre.retire(world.now, leave_behind=leave, destroy=True)
    except NotNow:
        world.seen["not now"] += 1


def _activate(world: World) -> None:
    centre, campaign = world.centre, world.centre.campaign
    assert campaign is not None
    checks = centre.checks[campaign.to_version]
    centre.apply(rotation.activate(campaign, centre.locks(), checks))


def _away(world: World) -> list[str]:
    """Locks that can't be reached and keep the campaign waiting."""
    centre, campaign = world.centre, world.centre.campaign
    assert campaign is not None
    waiting = rotation.lacking(campaign, centre.locks(), centre.checks[campaign.to_version])
    return [lock.agent for lock in waiting if not lock.reachable]


def _in_vain(world: World) -> int:
    """Versions that the locks hold and no door asks for."""
    return len([v for v in world.centre.checks if v >= world.centre.floor]) - 2
