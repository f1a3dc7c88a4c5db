from datetime import timedelta

import pytest

from edge_agent.clock import SystemClock
from edge_agent.core.trusted_time import TrustedTime
from edge_agent.outbox import Outbox
from edge_agent.refusals import BURST, SECONDS_FOR_ONE_MORE, WINDOW_S, Refusals
from schemas import errors
from schemas.errors import BadSignature, Rollback, SchemaError, UnknownKey
from schemas.suites import INTL
from tests.link_rig import ListeningRecorder


class HandClock(SystemClock):
    def __init__(self):
        self.at_s = 1000.0

    def monotonic(self):
        return self.at_s


@pytest.fixture
async def recorder(tmp_path):
    outbox = await Outbox.open(
        tmp_path / "outbox.db",
        digest=INTL.digest,
        source="/sites/demo/agents/front-agent",
        clock=SystemClock(),
        random=bytes,
    )
    yield ListeningRecorder(outbox, HandClock(), TrustedTime(), "front-agent", "test")
    await outbox.close()


def told(recorder):
    return [
        (name, data["purpose"], data["reason"], data["count"]) for name, data in recorder.events
    ]


async def test_the_first_refusal_of_a_kind_is_told_at_once_and_by_its_name(recorder):
    refusals = Refusals(recorder)
    refusals.report("policy", Rollback("policy 1 is older than 2"))
    refusals.report("command", Rollback("another purpose"))
    refusals.report("policy", UnknownKey("another reason"))
    await refusals.tell_due()
    assert told(recorder) == [
        ("policy.rejected", "policy", "Rollback", 1),
        ("statement.rejected", "command", "Rollback", 1),
        ("policy.rejected", "policy", "UnknownKey", 1),
    ]
    assert recorder.events[0][1]["detail"] == "policy 1 is older than 2"


async def test_repeats_are_counted_and_told_after_a_minute(recorder):
    refusals, clock = Refusals(recorder), recorder.clock
    for _ in range(1000):
        refusals.report("policy", BadSignature("no"))
        await refusals.tell_due()
    assert [count for *_, count in told(recorder)] == [1]
    clock.at_s += WINDOW_S
    await refusals.tell_due()
    assert [count for *_, count in told(recorder)] == [1, 999]
    clock.at_s += WINDOW_S
    await refusals.tell_due()
    assert await refusals.tell_due() is None, "a minute without one ends it"
    refusals.report("policy", BadSignature("no"))
    await refusals.tell_due()
    assert [count for *_, count in told(recorder)] == [1, 999, 1]


async def test_a_flood_of_all_kinds_for_five_days_fills_no_store_and_hides_no_kind(recorder):
    refusals, clock = Refusals(recorder), recorder.clock
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, SchemaError)]
    purposes = [f"channel{number}" for number in range(12)]
    minutes = 60
    for _ in range(minutes):
        for purpose in purposes:
            for kind in kinds:
                refusals.report(purpose, kind("x"))
        while (wait_s := await refusals.tell_due()) == 0:
            pass
        assert wait_s is not None
        clock.at_s += 60
    events = told(recorder)
    assert len(events) <= BURST + minutes * 60 / SECONDS_FOR_ONE_MORE + 1
    assert {(purpose, reason) for _, purpose, reason, _ in events} >= {
        (purpose, kind.__name__) for purpose in purposes for kind in kinds
    }
    five_days = BURST + timedelta(hours=120).total_seconds() / SECONDS_FOR_ONE_MORE
    assert five_days < 100_000, "what an agent's store holds at least"


async def test_what_a_stranger_wrote_is_told_in_plain_characters(recorder):
    refusals = Refusals(recorder)
    refusals.report("elsewhere", UnknownKey("\ud800\u202e" + "x" * 1000))
    await refusals.tell_due()
    (detail,) = [data["detail"] for _, data in recorder.events]
    assert detail.isascii()
    assert len(detail) == 500
