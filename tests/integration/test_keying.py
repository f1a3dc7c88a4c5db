"""A lock gets its keys: whatever is lost, the next order goes on, and what it says is so."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent import key_packages, keying
from edge_agent.core import key_staging
from edge_agent.virtual.chip import Tear, TearMoment
from schemas.errors import Replayed
from schemas.keys import Item
from tests.esam_desk import ESAM_SERIAL
from tests.keying_rig import DOMAIN, OTHER, honest, keying_rig, lost


@pytest.fixture
async def rig(tmp_path):
    async with keying_rig(tmp_path) as rig:
        await rig.begin()
        yield rig


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(keying, "ANSWER_S", 0.02)


def shown(rig, *versions):
    """What `keys.held` has for these versions of the chip."""
    return {version: rig.checks(version).model_dump() for version in versions}


@pytest.mark.parametrize("suite", ["gm", "intl"])
async def test_a_version_is_asked_for_written_read_back_and_said(tmp_path, suite):
    async with keying_rig(tmp_path, suite) as rig:
        await rig.begin()
        rig.order(2)
        held = await rig.held()
        del held["clock"]
        assert held == {
            "domain": DOMAIN,
            "suite": suite,
            "esam": ESAM_SERIAL.hex(),
            "held": held["held"],
            "floor": 1,
            "preferred": 1,
            "accepted": [],
        }
        assert held["held"] == shown(rig, 1, 2)
        assert [(request.item, request.counter) for request in rig.requests] == [("keys", 1)]
        assert rig.elements.get(DOMAIN, suite).held == {1, 2}
        await rig.nothing_more()


async def test_the_floor_comes_last_and_what_is_below_is_gone(rig):
    rig.order(2, floor=2)
    held = await rig.held()
    while held["floor"] == 1:
        held = await rig.held()  # once the version is there, that may be said
    assert set(held["held"]) == {2}
    assert [request.item for request in rig.requests] == ["keys", "floor"]
    assert [request.counter for request in rig.requests] == [1, 2]
    assert set(rig.desk.table()) == {2}


async def test_an_order_that_changes_nothing_is_answered_all_the_same(rig):
    for _ in range(2):
        rig.order(1)
        assert set((await rig.held())["held"]) == {1}
    assert rig.requests == []


async def test_an_order_counts_once_and_none_after_a_newer_one(rig):
    rig.order(1, counter=7)
    for counter in (7, 6):
        with pytest.raises(Replayed):
            rig.order(2, counter=counter)
    await rig.held()
    await rig.nothing_more()


async def test_of_orders_that_wait_the_newest_of_a_domain_is_carried_out(rig):
    rig.order(2)
    rig.order(3)
    assert set((await rig.held())["held"]) == {1, 3}
    await rig.nothing_more()


async def test_a_package_that_is_lost_is_asked_for_with_another_challenge(rig, impatient):
    rig.answers = [lost, honest, lost]
    rig.order(2, floor=2)
    while (await rig.held())["floor"] == 1:
        pass
    assert set(rig.desk.table()) == {2}
    assert [request.item for request in rig.requests] == ["keys", "keys", "floor", "floor"]
    assert len({request.challenge for request in rig.requests}) == 4


async def test_a_server_that_never_answers_is_told_so_and_the_next_order_goes_on(rig, impatient):
    rig.answers = [lost, lost, lost, honest, lost, lost, lost]
    rig.order(2, floor=2)
    assert await rig.refused() == "not_given"
    assert set(rig.desk.table()) == {1}
    rig.order(2, floor=2)
    assert await rig.refused_at_last() == "not_given"
    assert rig.desk.table().keys() == {1, 2}
    rig.order(2, floor=2)
    while (await rig.held())["floor"] == 1:
        pass
    assert [each.item for each in rig.requests[7:]] == ["floor"]


async def test_a_package_that_comes_late_is_for_nothing(rig, impatient):
    late = []

    async def too_late(rig, request):
        late.append(rig.package(request))

    async def both(rig, request):
        with pytest.raises(Replayed):
            rig.keying.packaged(late[0])
        await honest(rig, request)
        with pytest.raises(Replayed):
            rig.keying.packaged(rig.package(request))

    rig.answers = [too_late, both]
    rig.order(2)
    await rig.held()
    with pytest.raises(Replayed):
        rig.keying.packaged(late[0])
    assert rig.desk.state.errors_left == 15


@pytest.mark.parametrize(
    "changes",
    [
        {"session": "ffffffffffffffff"},
        {"esam": "45534d00000000ff"},
        {"domain": OTHER},
        {"index": 2},
        {"version": 3},
        {"item": Item.FLOOR},
        {"challenge": "00" * 16},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_a_package_that_answers_another_question_is_refused(rig, changes):
    async def other(rig, request):
        package = rig.package(request)
        body = f"{changes.get('index', request.index):02x}" + package.body[2:]
        with pytest.raises(Replayed):
            rig.keying.packaged(package.model_copy(update={**changes, "body": body}))
        await honest(rig, request)

    rig.answers = [other]
    rig.order(2)
    assert set((await rig.held())["held"]) == {1, 2}
    assert rig.desk.state.errors_left == 15


def with_another_key(keys, at):
    """Two of the three are right."""
    return keys[: at * 16] + b"another key!!!!!" + keys[at * 16 + 16 :]


@pytest.mark.parametrize("at", range(3))
async def test_another_key_than_was_ordered_is_not_given_to_the_chip(rig, at):
    async def wrong(rig, request):
        rig.keying.packaged(rig.package(request, keys=with_another_key(rig.keys(2), at)))

    rig.answers = [wrong]
    before = rig.desk.chip.image
    rig.order(2)
    assert await rig.refused() == "wrong_key"
    assert rig.desk.chip.image == before


@pytest.mark.parametrize("at", range(3))
async def test_a_key_that_only_says_it_is_the_ordered_one_is_found_by_reading_back(rig, at):
    async def lies(rig, request):
        keys = with_another_key(rig.keys(2), at)
        rig.keying.packaged(rig.package(request, keys=keys, check_values=rig.checks(2)))

    rig.answers = [lies]
    rig.order(2)
    assert await rig.refused_at_last() == "wrong_key"
    rig.order(2)
    while (held := await rig.held())["held"] != shown(rig, 1, 2):
        pass
    assert held["floor"] == 1
    assert rig.desk.table()[2] == rig.checks(2)
    assert len(rig.requests) == 2


@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize("moment", [TearMoment.IN_WRITE, TearMoment.AFTER_WRITE])
async def test_a_loss_of_power_in_any_write_is_healed_by_looking(rig, moment, at):
    rig.desk.arm(Tear(moment, at))
    rig.order(2, floor=2)
    held = await rig.held()
    while held["floor"] == 1:
        held = await rig.held()
    assert held["held"] == shown(rig, 2)
    assert rig.desk.table().keys() == {2}
    assert len(rig.requests) in (2, 3), "at most the one that was torn was asked for again"


class Stuck:
    """The chip answers nothing after so many commands: there the agent is killed."""

    def __init__(self, slot, after, *, done):
        self.slot, self.after, self.done = slot, after, done
        self.reached = asyncio.Event()

    async def transmit(self, apdu):
        if self.after == 0 and not self.done:
            await self._stay()
        answer = self.slot.chip.transmit(apdu)
        if self.after == 0:
            await self._stay()
        self.after -= 1
        return answer

    async def _stay(self):
        self.reached.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_an_agent_that_ends_at_any_command_goes_on_at_the_next_order(tmp_path, done):
    async with keying_rig(tmp_path) as rig:
        whole = rig.slot.transmit
        commands = 0
        while True:
            rig.desk = type(rig.desk)("intl").issue().load(1)
            rig.slot.chip = rig.desk.chip
            stuck = Stuck(rig.slot, commands, done=done)
            rig.slot.transmit = stuck.transmit
            rig.start()
            rig.order(2, floor=2)
            reached = asyncio.create_task(stuck.reached.wait())
            said = asyncio.create_task(rig.held())
            await asyncio.wait({reached, said}, return_when=asyncio.FIRST_COMPLETED)
            reached.cancel()
            said.cancel()
            await asyncio.gather(reached, said, return_exceptions=True)
            await rig.stop()
            rig.slot.transmit = whole
            rig.read = len(rig.recorder.events)
            rig.start()
            rig.order(2, floor=2)
            held = await rig.held()
            while held["floor"] == 1:
                held = await rig.held()
            assert set(held["held"]) == {2}, commands
            await rig.stop()
            rig.read = len(rig.recorder.events)
            if not stuck.reached.is_set():
                break
            commands += 1
        assert commands > 10


async def test_an_esam_that_is_away_is_said_to_be_and_its_keys_come_when_it_is_back(rig):
    chip, rig.slot.chip = rig.slot.chip, None
    rig.order(2)
    assert await rig.refused() == "unavailable"
    rig.slot.chip = chip
    rig.order(2)
    assert set((await rig.held())["held"]) == {1, 2}


async def test_an_esam_that_is_taken_out_while_a_package_is_made_gets_it_never(rig):
    async def taken_out(rig, request):
        rig.slot.chip = None
        await honest(rig, request)

    rig.answers = [taken_out]
    rig.order(2)
    assert await rig.refused() == "unavailable"
    rig.slot.chip = rig.desk.chip
    rig.desk.power_on()
    assert set(rig.desk.table()) == {1}


async def test_a_worn_out_esam_is_asked_no_package_for(rig):
    for _ in range(15):
        package = bytearray(rig.desk.package(Item.KEYS, 2))
        package[-1] ^= 1
        rig.desk.send(bytes(package))
    rig.order(2)
    assert await rig.refused() == "worn_out"
    assert rig.requests == []
    rig.order(1)
    assert set((await rig.held())["held"]) == {1}, "what it holds, it holds"


async def test_a_full_esam_is_said_to_be_full(rig):
    for version in range(2, 9):
        rig.keys(version)
        rig.desk.load(version)
    rig.order(9)
    assert await rig.refused_at_last() == "full"
    assert rig.requests == []


async def test_an_esam_that_says_it_is_full_is_believed(rig, monkeypatch):
    monkeypatch.setattr(key_staging, "MAX_VERSIONS", 20)
    for version in range(2, 9):
        rig.keys(version)
        rig.desk.load(version)
    rig.order(9)
    assert await rig.refused_at_last() == "full"
    assert len(rig.requests) == 1


async def test_the_wrong_control_key_wears_no_esam_out(rig):
    rig.desk.control_key = b"not its own key!"
    for _ in range(20):
        rig.order(2)
        assert await rig.refused() == "failed"
    assert rig.desk.state.errors_left == keying.FEW_TRIES
    assert len(rig.requests) == 15 - keying.FEW_TRIES


async def test_orders_that_do_not_fit_the_lock_are_refused(rig):
    rig.order(2, suite="gm")
    assert await rig.refused() == "failed"
    rig.order(2, check_values=None)
    assert await rig.refused() == "failed"
    rig.order(2, domain="elsewhere")
    assert await rig.refused() == "failed"
    rig.order(2, floor=2)
    while (await rig.held())["floor"] == 1:
        pass
    rig.order(1)
    assert await rig.refused() == "failed"
    assert set(rig.desk.table()) == {2}


async def test_a_question_that_a_lost_connection_took_along_is_asked_again_on_the_next(
    rig, monkeypatch
):
    monkeypatch.setattr(keying, "ANSWER_S", 3600.0)  # nobody waits for what can't come any more

    async def breaks(rig, request):
        rig.connect("aabbccddeeff0011")

    async def refuses(rig, request):
        asyncio.get_running_loop().call_soon(rig.connect, "ffbbccddeeff0011")
        raise ConnectionError("it broke")

    rig.answers = [breaks, refuses]
    rig.order(2, floor=2)
    while (await rig.held())["floor"] == 1:
        pass
    assert [each.counter for each in rig.requests] == [1, 1, 1, 2]
    assert rig.requests[-1].session == "ffbbccddeeff0011"


async def test_without_any_connection_it_ends_by_saying_so(rig, monkeypatch):
    monkeypatch.setattr(key_packages, "RECONNECTED_S", 0.02)
    await rig.stop()
    rig.start(connected=False)
    rig.order(2)
    assert await rig.refused() == "not_given"
    assert rig.requests == []
