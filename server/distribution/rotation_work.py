"""The parts that rotate keys, made and joined."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor

from server.distribution.key_standing import Standings
from server.distribution.lock_keys import LockKeys
from server.distribution.publish import Publish
from server.distribution.rotation_steps import RotationSteps
from server.distribution.rotations import Rotations
from server.distribution.stage_orders import StageOrders
from server.ingest.verify import Refusal
from server.keys.authority import KeyAuthority
from server.site import Site
from server.state import ServerState


def open_rotations(
    state: ServerState,
    site: Site,
    environ: Mapping[str, str],
    *,
    authority: KeyAuthority,
    lock_keys: LockKeys,
    publish: Publish,
    executor: Executor,
    present: Callable[[], Collection[str]],
    announced: Callable[[], None],
    policies_changed: Callable[[], None],
    alarm: Callable[[Refusal], None],
) -> Rotations:
    """`load` it, then run it. Raises SiteError if the role `keys` can't sign."""
    engine, clock = state.engine, state.clock
    standings = Standings(
        engine=engine,
        suite=site.suite.name,
        authority=authority,
        lock_keys=lock_keys,
        clock=clock,
        present=present,
        alarm=alarm,
    )
    return Rotations(
        engine=engine,
        standings=standings,
        steps=RotationSteps(
            engine=engine,
            standings=standings,
            authority=authority,
            clock=clock,
            announced=announced,
            policies_changed=policies_changed,
        ),
        authority=authority,
        orders=StageOrders(
            site=site.name,
            signer=site.signer("keys", environ),
            publish=publish,
            executor=executor,
            clock=clock,
        ),
        lock_keys=lock_keys,
        clock=clock,
        present=present,
        new_id=lambda: secrets.token_hex(4),
    )
