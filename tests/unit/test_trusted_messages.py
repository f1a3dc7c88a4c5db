"""What holds for every message to an agent, whatever it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_agent.core.trusted_state import (
    after_command,
    after_heartbeat,
    after_lockdowns,
    after_policy,
    after_revocation,
    open_snapshot,
)
from schemas.errors import (
    MalformedEnvelope,
    Rollback,
    SchemaError,
    UnknownKey,
    WrongAudience,
    WrongPurpose,
)
from tests.believing import LATER, centre, heard, revoked, shut, state
from tests.centre import AGENT, NOW, SESSION, Centre, lockdown

__all__ = ["centre", "state"]


def messages(centre):
    centre.revoke("card", "0" * 16)
    return {
        "heartbeat": (centre.heartbeat(), after_heartbeat),
        "policy": (centre.policy(1)[0], after_policy),
        "revocation": (centre.log_after(0), after_revocation),
        "snapshot": (centre.snapshot()[0], open_snapshot),
        "lockdown": (centre.lockdowns(1), after_lockdowns),
        "command": (
            centre.command(1),
            lambda state, envelope, agent, now: after_command(state, envelope, agent, SESSION, now),
        ),
    }


KINDS = ["heartbeat", "policy", "revocation", "snapshot", "lockdown", "command"]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_believed_of_a_stranger_or_of_the_wrong_role(state, centre, kind):
    envelope, take = messages(centre)[kind]
    take(state, envelope, AGENT, NOW)
    strange, _ = messages(Centre(centre.keys.suite_name))[kind]
    with pytest.raises(UnknownKey):
        take(state, strange, AGENT, NOW)
    roles = dict(centre.keys.signers)
    for role in ("keys", "root"):
        centre.keys.signers = dict.fromkeys(roles, roles[role])
        with pytest.raises(UnknownKey):
            take(state, messages(centre)[kind][0], AGENT, NOW)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_target_of_anything(state, centre, kind):
    _, take = messages(centre)[kind]
    other = Centre(agent="back-agent")
    other.keys = centre.keys
    envelope = messages(other)[kind][0]
    if kind not in ("revocation", "lockdown"):
        with pytest.raises(WrongAudience):
            take(state, envelope, AGENT, NOW)
    elsewhere = replace(state, root=state.root.model_copy(update={"site": "elsewhere"}))
    with pytest.raises(WrongAudience):
        take(elsewhere, envelope, AGENT, NOW)


@pytest.mark.parametrize("kind", ["heartbeat", "policy", "command"])
def test_what_is_one_agents_own_can_not_be_said_to_all(state, centre, kind):
    _, take = messages(centre)[kind]
    centre.agent = "all"
    with pytest.raises(WrongAudience):
        take(state, messages(centre)[kind][0], AGENT, NOW)


@pytest.mark.parametrize("kind", KINDS)
def test_endless_data_is_refused_before_it_is_read(state, centre, kind):
    _, take = messages(centre)[kind]
    with pytest.raises(MalformedEnvelope, match="limit"):
        take(state, b"{" * (192 * 1024 + 1), AGENT, NOW)


def test_a_valid_message_of_another_purpose_is_refused(state, centre):
    every = messages(centre)
    for kind, (_, take) in every.items():
        for other, (envelope, _) in every.items():
            if other != kind:
                with pytest.raises(WrongPurpose):
                    take(state, envelope, AGENT, NOW)


def test_a_changed_byte_is_refused(state, centre):
    for envelope, take in messages(centre).values():
        for at in range(0, len(envelope), 61):
            changed = bytearray(envelope)
            changed[at] ^= 1
            with pytest.raises(SchemaError):
                take(state, bytes(changed), AGENT, NOW)


def test_a_refusal_leaves_a_state_as_it_was(state, centre):
    state = shut(revoked(heard(state, centre, LATER), centre, 1), centre, 2, lockdown())
    kept = replace(state)
    for take, envelope in (
        (after_heartbeat, centre.heartbeat()),
        (after_lockdowns, centre.lockdowns(1)),
    ):
        with pytest.raises(Rollback):
            take(state, envelope, AGENT, LATER)
    assert state == kept
