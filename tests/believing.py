"""States of an agent that has heard this or that from a centre."""

from __future__ import annotations

from datetime import timedelta

import pytest

from edge_agent.core.trusted_state import (
    TrustedState,
    after_command,
    after_heartbeat,
    after_lockdowns,
    after_policy,
    after_revocation,
    with_policy,
)
from schemas.versions import Version
from tests.centre import AGENT, NOW, SESSION, Centre

LATER = NOW + timedelta(seconds=30)
OTHER_HASH = "ab" * 32


@pytest.fixture(params=["intl", "gm"])
def centre(request):
    return Centre(request.param)


@pytest.fixture
def state(centre):
    return TrustedState.pinned(centre.keys.root)


def heard(state, centre, at=NOW, **named):
    return after_heartbeat(state, centre.heartbeat(at, **named), AGENT, at)


def in_force(state, centre, version, **changes):
    envelope, _ = centre.policy(version, **changes)
    return with_policy(state, after_policy(state, envelope, AGENT, NOW))


def revoked(state, centre, number):
    return after_revocation(state, centre.revoke("card", f"{number:016x}"), AGENT, NOW)[0]


def shut(state, centre, counter, *active):
    return after_lockdowns(state, centre.lockdowns(counter, *active), AGENT, NOW)


def named_by(state, **also):
    """A heartbeat that names what the state holds."""
    policy = state.policy and Version(version=state.policy.counter, hash=state.policy_hash)
    lockdowns = 0 if state.lockdowns is None else state.lockdowns.counter
    return {"policy": policy, "revocation": state.revocation, "lockdown": lockdowns} | also


def commanded(state, centre, counter, at=NOW, session=SESSION, **changes):
    return after_command(state, centre.command(counter, **changes), AGENT, session, at)
