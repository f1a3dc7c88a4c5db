from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.card.binding import APPLICATION_BYTES, BindOutcome, bind
from edge_agent.card.layout import UPDATE_BINARY, WRITE_KEY
from edge_agent.core.proof import ProofOutcome
from edge_agent.virtual.card_memory import APPLICATION_OVERHEAD_BYTES
from schemas.transport import TransportRefusal
from tests.card_desk import SERIAL, TRANSPORT_KEY, Desk


@pytest.fixture(params=["gm", "intl"])
def desk(request):
    return Desk(request.param)


async def test_a_bound_card_is_left_alone(desk):
    card = desk.card()
    await desk.bind(card)
    before = card.image
    assert (await desk.bind(card)).outcome is BindOutcome.ALREADY_BOUND
    assert replace(card.image, transport=before.transport) == before


async def test_no_key_is_seen_on_the_air(desk):
    card = desk.card()
    await desk.bind(card)
    said = b"".join(c.encode() for c in desk.channel.commands) + b"".join(desk.channel.responses)
    (application,) = card.image.applications.values()
    assert len(application.keys) == 3
    for key in (TRANSPORT_KEY, *(record.key for record in application.keys.values())):
        assert key not in said


async def test_the_commit_record_is_written_last(desk):
    card = desk.card()
    await desk.bind(card)
    written = [c.ins for c in desk.channel.commands if c.ins in (WRITE_KEY, UPDATE_BINARY)]
    assert written == [WRITE_KEY] * 3 + [UPDATE_BINARY]
    assert desk.channel.commands[-1].ins == UPDATE_BINARY


async def test_a_card_is_bound_to_several_domains(desk):
    card = desk.card()
    back = Desk(desk.suite_name, seed=2, domain="back")
    assert (await desk.bind(card)).outcome is BindOutcome.BOUND
    assert (await back.bind(card)).outcome is BindOutcome.BOUND
    for lock in (desk, back):
        assert (await lock.tap(card)).outcome is ProofOutcome.PROVED


async def test_a_card_is_bound_anew_to_a_lock_that_was_replaced(desk):
    card = desk.card()
    new_lock = Desk(desk.suite_name, seed=2)
    await desk.bind(card)
    assert (await new_lock.bind(card)).outcome is BindOutcome.BOUND
    assert (await new_lock.tap(card)).outcome is ProofOutcome.PROVED
    assert (await desk.tap(card)).outcome is ProofOutcome.FAILED


async def test_a_newer_version_is_bound_over_an_older(desk):
    card = desk.card()
    newer = replace(desk.question, key_version=2)
    await desk.bind(card)
    assert (await desk.bind(card, newer)).outcome is BindOutcome.BOUND
    assert (await desk.tap(card, newer)).key_version == 2


async def test_a_wrong_transport_key_is_refused_and_counted(desk):
    card = desk.card()
    desk.transport_keys = {SERIAL.hex(): bytes(16)}
    for _ in range(5):
        assert (await desk.bind(card)).outcome is BindOutcome.TRANSPORT_KEY_REFUSED
    assert (await desk.bind(card)).outcome is BindOutcome.BLOCKED
    desk.transport_keys = {SERIAL.hex(): TRANSPORT_KEY}
    assert (await desk.bind(card)).outcome is BindOutcome.BLOCKED
    assert card.image.applications == {}


async def test_a_card_that_is_not_on_the_list_is_not_touched(desk):
    card = desk.card()
    before = card.image
    desk.transport_keys = {}
    result = await desk.bind(card)
    assert (result.card_id, result.outcome) == (SERIAL.hex(), TransportRefusal.UNKNOWN_KEY)
    assert card.image == before


async def test_a_full_card_says_so(desk):
    need = APPLICATION_BYTES + APPLICATION_OVERHEAD_BYTES
    back = Desk(desk.suite_name, seed=2, domain="back")
    card = desk.card(capacity=2 * need - 1)
    assert (await desk.bind(card)).outcome is BindOutcome.BOUND
    assert (await back.bind(card)).outcome is BindOutcome.CARD_FULL
    assert (await desk.tap(card)).outcome is ProofOutcome.PROVED


async def test_a_card_out_of_file_ids_is_full(desk):
    card = desk.card()
    for i in range(15):
        lock = Desk(desk.suite_name, domain=f"d{i}")
        assert (await lock.bind(card)).outcome is BindOutcome.BOUND
    assert (await desk.bind(card)).outcome is BindOutcome.CARD_FULL


@pytest.mark.parametrize("answer", ["", "9000", "6d00", "6e00", "6a82", "00" * 300])
async def test_a_foreign_card_is_not_ours(desk, answer):
    result = await desk.run(bind(desk.question, desk.random), lambda _: bytes.fromhex(answer))
    assert (result.card_id, result.outcome) == (None, BindOutcome.NOT_OUR_CARD)


async def test_a_card_that_says_yes_to_everything_is_not_bound(desk):
    """It takes all commands and keeps nothing: it can't prove the keys it was given."""
    card = desk.card()

    def yes(apdu: bytes) -> bytes:
        if apdu[1] in (0xA4, 0x84):
            answer = card.transmit(apdu)
            if answer != b"\x6a\x82":
                return answer
            return card.transmit(bytes.fromhex("00a4000000"))
        return b"\x90\x00"

    script = bind(desk.question, desk.random)
    result = await desk.run(script, yes)
    assert result.outcome in (BindOutcome.NOT_PROVED, BindOutcome.NOT_OUR_CARD)


@given(st.lists(st.binary(max_size=60).map(lambda b: b + b"\x90\x00")), st.integers(0, 24))
async def test_no_bytes_of_a_card_crash_binding(answers, honest):
    desk = Desk("gm")
    card = desk.card()
    told = iter(answers)
    count = 0

    def hostile(apdu: bytes) -> bytes:
        nonlocal count
        count += 1
        return card.transmit(apdu) if count <= honest else next(told, b"\x6f\x00")

    result = await desk.run(bind(desk.question, desk.random), hostile)
    proved_by = 18  # the command by which the real card proves its new keys
    assert result.outcome is not BindOutcome.BOUND or honest >= proved_by
