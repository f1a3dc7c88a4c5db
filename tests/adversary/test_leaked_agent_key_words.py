"""What a leaked agent key can say of its own cards and keys, and where that ends.

The parts are the server's own over a real store. Some of it works: the key speaks for its doors
until the agent is removed. Those tests hold docs/security.md to the truth.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import delete, select

from edge_agent.card.application import UnlockQuestion
from edge_agent.card.layout import Info, Slot
from schemas.keys import Item
from schemas.policy import DoorSettings
from schemas.reasons import Reason
from schemas.transport import TransportRefusal
from server.core.rotation import NotNow
from server.ingest.verify import AlarmKind
from server.keys.home import KeysError
from server.model.bindings import bind, unbind
from server.store.model_tables import bindings, doors
from server.store.rotations import Versions
from tests.campaign_lock import ZONE
from tests.campaign_rig import SHED, campaigns
from tests.card_desk import Desk
from tests.copy_desk import overlap, saying
from tests.esam_desk import EsamDesk
from tests.key_rig import AGENT, request
from tests.transport_rig import CARD, DOMAIN, MOMENT, OTHER, event, transport_desk

BOS = "2122232425262728"
UNBIND = "bb" * 8
SECOND = timedelta(seconds=1)


@pytest.fixture
async def desk(tmp_path):
    """A lock with an ESAM in `zone-a`; cards of a new batch, Mei's own and Bo's."""
    async with transport_desk(tmp_path / "site") as opened:
        batch = [n.to_bytes(8).hex() for n in range(1, 8)]
        await opened.transport.take_list(
            {card: bytes.fromhex(card) * 2 for card in (CARD, OTHER, BOS, *batch)}, "test"
        )
        await opened.card(OTHER, "mei")
        await opened.card(BOS, "bo")
        await opened.keys_desk.authority.create_domain(DOMAIN, "intl", "test")
        opened.esam, opened.batch = EsamDesk("intl").issue(), batch
        await opened.keys_desk.know(opened.esam, DOMAIN)
        yield opened


def loan(desk, **changes):
    place = {"esam": desk.esam.serial.hex(), "domain": DOMAIN, "index": 1, "version": 1}
    return place | {"challenge": desk.esam.challenge().hex()} | changes


async def ask(desk, requests, card, **changes):
    return await desk.answer(requests, desk.question(card, **changes))


async def test_it_is_given_no_key_but_for_its_own_esam_domain_and_place(desk):
    """Each question as its key would sign it; the last shows that it is answered otherwise."""
    keys, back = desk.keys_desk, EsamDesk("intl", serial=b"backESAM", seed=8).issue()
    await keys.authority.create_domain("zone-b", "intl", "test")
    await keys.know(back, "zone-b", DOMAIN, agent="back-agent")
    own = request(desk.esam, Item.KEYS, 1, challenge=desk.esam.challenge())
    others = {"esam": back.serial.hex()}
    for why, changes in (
        ("of back-agent", others),
        ("of back-agent", others | {"domain": "zone-b"}),
        (r"is not\s+for", {"domain": "zone-b"}),
        (r"is not\s+for", {"domain": "zone-b", "index": 2}),
        ("no key domain", {"domain": "nowhere"}),
        ("is not known", {"esam": "00" * 8}),
        ("version 2", {"version": 2}),
        ("floor", {"version": 2, "item": Item.FLOOR}),
    ):
        with pytest.raises(KeysError, match=why):
            await keys.issuer.package(own.model_copy(update=changes), AGENT)
    assert (await keys.issuer.package(own, AGENT)).esam == desk.esam.serial.hex()
    with pytest.raises(KeysError, match="order"):
        await keys.issuer.package(own.model_copy(update={"index": 2}), AGENT)
    await keys.esams.withdraw(own.esam, "test")
    with pytest.raises(KeysError, match="withdrawn"):
        await keys.issuer.package(own, AGENT)


async def test_without_a_window_no_card_is_known_to_it(desk):
    async with desk.serving() as requests:
        for card in (CARD, OTHER, BOS, *desk.batch):
            answer = await ask(desk, requests, card)
            assert answer.refusal is TransportRefusal.WINDOW_CLOSED
            assert (answer.sealed, answer.loan) == (None, None)
    assert {each.kind for each in desk.alarms} == {AlarmKind.KEY_REFUSED}


async def test_in_a_window_it_gets_keys_of_new_cards_and_that_persons_and_of_five_at_most(desk):
    """So what a window is opened at is trusted with that person's cards: docs/security.md."""
    assert await desk.keys_desk.write(desk.esam, Item.KEYS, 1)
    await desk.window(person="mei")
    async with desk.serving() as requests:
        assert (await ask(desk, requests, BOS)).refusal is TransportRefusal.OTHER_PERSON
        for card in (OTHER, *desk.batch[:4]):
            assert (await ask(desk, requests, card, loan=loan(desk))).loan is not None
        answer = await ask(desk, requests, desk.batch[4])
        assert answer.refusal is TransportRefusal.WINDOW_CLOSED
        await desk.says(event(card=desk.batch[0]))
        for card in (OTHER, *desk.batch):
            answer = await ask(desk, requests, card)
            assert answer.refusal is TransportRefusal.WINDOW_CLOSED
    assert await desk.owner(desk.batch[0]) == "mei"
    taken = await desk.says(event(card=OTHER, at=MOMENT + SECOND))
    assert [each.kind for each in taken.alarms] == [AlarmKind.BINDING_REFUSED]


async def test_no_window_lends_the_key_of_a_card_that_opens_doors_of_the_domain(desk):
    """Else who holds the lock could copy the very card that its holder goes on carrying."""
    assert await desk.keys_desk.write(desk.esam, Item.KEYS, 1)
    async with desk.engine.begin() as connection:
        await bind(connection, OTHER, DOMAIN, 1, "e-1", MOMENT - SECOND)
    await desk.window(person="mei")
    async with desk.serving() as requests:
        answer = await ask(desk, requests, OTHER, loan=loan(desk))
        assert (answer.refusal, answer.loan) == (TransportRefusal.ESAM_REFUSED, None)
        assert "has keys of" in desk.alarms[-1].detail
        async with desk.engine.begin() as connection:
            await unbind(connection, OTHER, DOMAIN, 1)
        assert (await ask(desk, requests, OTHER, loan=loan(desk))).loan is not None


async def test_a_window_to_unbind_lends_no_key_of_the_card(desk):
    """Else whoever holds lock and window had the keys of a card that still opens doors."""
    await desk.window(UNBIND, kind="unbind", card=BOS)
    async with desk.serving() as requests:
        answer = await ask(desk, requests, BOS, command=UNBIND, loan=loan(desk))
        assert answer.refusal is TransportRefusal.ESAM_REFUSED
        assert "to unbind" in desk.alarms[-1].detail
        answer = await ask(desk, requests, OTHER, command=UNBIND)
        assert answer.refusal is TransportRefusal.OTHER_CARD
        assert (await ask(desk, requests, BOS, command=UNBIND)).refusal is None


async def test_a_date_in_the_future_hides_nothing_that_is_said_truly_later(desk):
    """A lie dated in a hundred years would else be the newest word of the card for ever."""
    late = MOMENT + timedelta(days=36_500)
    versions = {"from_version": 7, "key_version": 9, "command": None}
    async with desk.engine.begin() as connection:
        await bind(connection, BOS, DOMAIN, 1, "e-1", MOMENT - SECOND)
    await desk.says(event("card.rekeyed", card=BOS, at=late, **versions))
    await desk.says(event(card=CARD, command=None, key_version=9, at=late))
    assert await desk.bound() == [(CARD, DOMAIN, 9), (BOS, DOMAIN, 9)]
    desk.clock.at += 2 * SECOND
    for card in (CARD, BOS):  # another lock of the domain, which tells the truth
        said = event(card=card, command=None, at=MOMENT + SECOND)
        await desk.says(said)
    assert await desk.bound() == [(CARD, DOMAIN, 1), (BOS, DOMAIN, 1)]
    await desk.window(UNBIND, kind="unbind", card=BOS)
    desk.clock.at += SECOND
    await desk.says(event("card.unbound", card=BOS, command=UNBIND, at=desk.clock.at))
    assert await desk.bound() == [(CARD, DOMAIN, 1)]


async def test_binding_by_its_word_makes_nobody_the_holder_and_reaches_no_other_domain(desk):
    stranger = "3132333435363738"
    await desk.says(event(card=stranger, command=None))
    assert await desk.owner(stranger) is None
    for card in (OTHER, BOS, stranger):
        taken = await desk.says(event(card=card, command=None, domain="zone-b"))
        assert [each.kind for each in taken.alarms] == [AlarmKind.BINDING_REFUSED]
        taken = await desk.says(event("card.unbound", card=card, command=None))
        assert [each.kind for each in taken.alarms] == [AlarmKind.BINDING_REFUSED]
    assert await desk.bound() == [(stranger, DOMAIN, 1)]
    assert (await desk.owner(OTHER), await desk.owner(BOS)) == ("mei", "bo")


# A rotation in a domain of three locks; `agent-0` is the one whose key leaked.


@pytest.fixture
async def rig(tmp_path):
    async with campaigns(tmp_path / "site") as made:
        await made.add_card(CARD)
        yield made


def lie(rig, **changes):
    honest = rig.locks["agent-1"].keys_held()
    return honest | {"floor": 1, "preferred": 1, "accepted": []} | changes


async def started(rig):
    campaign = await rig.rotations.plan(ZONE, "test")
    await rig.rotations.start(campaign.id, "test")
    return campaign.id


async def overlapping(rig):
    rotation = await started(rig)
    await rig.until(rotation, "overlap")
    await rig.prefer(2)
    return rotation


async def test_a_lie_about_its_keys_activates_nothing_before_the_others_have_them(rig):
    thief, honest = rig.locks["agent-0"], rig.locks["agent-1"]
    thief.silent = thief.deaf = True  # the true device hears nothing, and the thief speaks for it
    honest.online = False
    rotation = await started(rig)
    await rig.when(lambda: thief.orders)
    checks = thief.orders[-1].check_values
    held = {**lie(rig)["held"], "2": checks.model_dump()}
    await rig.event("agent-0", "keys.held", lie(rig, held=held))
    await rig.hold(2, "agent-0", "agent-2")
    await rig.looked()
    assert (await rig.campaign(rotation)).state == "staging"
    with pytest.raises(NotNow):
        await rig.rotations.activate(rotation, "test")
    assert (await rig.versions()).preferred == 1
    await rig.comes_back(honest)
    await rig.until(rotation, "overlap")
    # The true device has version 1 alone, and goes on with it: nobody is shut out anywhere.
    settings = DoorSettings(domain=ZONE, suite="intl", key_version=2, accepted_key_versions=(1,))
    asked = [UnlockQuestion.of("demo", settings, frozenset(k.held)) for k in (thief, honest)]
    assert (asked[0].key_version, asked[0].accepted_key_versions) == (1, ())
    assert (asked[1].key_version, asked[1].accepted_key_versions) == (2, (1,))


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        (
            "access.denied",
            {"domain": ZONE, "card": CARD, "door": "a", "reason": "key_version_unsupported"},
            CARD,
        ),
        (
            "keys.refused",
            {"domain": ZONE, "version": 2, "reason": "worn_out", "detail": "a lie"},
            "a lie",
        ),
    ],
)
async def test_it_can_pause_a_rotation_of_its_own_domain_which_changes_no_door(
    rig, name, data, why
):
    rig.locks["agent-0"].online = rig.locks["agent-1"].online = False
    rotation = await started(rig)
    await rig.looked()
    before = await rig.versions()
    await rig.event("agent-0", name, data)
    paused = await rig.until(rotation, "paused")
    assert why in paused.reason
    assert await rig.versions() == before == Versions()
    # Who is removed says no more; and the operator goes on.
    async with rig.engine.begin() as connection:
        await connection.execute(delete(doors).where(doors.c.agent == "agent-0"))
    del rig.locks["agent-0"]
    await rig.model_changed()
    await rig.rotations.resume(rotation, "test")
    await rig.event("agent-0", name, data)
    await rig.looked()
    assert (await rig.campaign(rotation)).state == "staging"
    await rig.comes_back(rig.locks["agent-1"])
    await rig.until(rotation, "overlap")


async def test_it_can_not_pause_or_hold_up_a_rotation_of_another_domain(rig):
    await rig.add_lock("thief", SHED, new=True)

    async def lies():
        denied = {"domain": ZONE, "card": CARD, "door": "shed"}
        await rig.event("thief", "access.denied", denied | {"reason": "key_version_retired"})
        refused = {"domain": ZONE, "version": 2, "reason": "full", "detail": ""}
        await rig.event("thief", "keys.refused", refused)
        await rig.event("thief", "keys.held", lie(rig, held={}, floor=9))
        await rig.looked()

    rig.locks["agent-1"].online = False
    rotation = await started(rig)
    await lies()
    assert (await rig.campaign(rotation)).state == "staging"
    await rig.comes_back(rig.locks["agent-1"])
    await lies()
    await rig.until(rotation, "overlap")
    await lies()
    assert (await rig.campaign(rotation)).state == "overlap"
    _, campaign, locks = await rig.rotations.standing(rotation)
    assert campaign.lockouts == 0
    assert {lock.agent for lock in locks} == {"agent-0", "agent-1", "agent-2"}


async def test_it_can_say_that_a_card_is_re_keyed_which_then_is_not_waited_for(rig):
    """Where several locks share a domain; the card is left behind, and must be bound again."""
    rotation = await overlapping(rig)
    with pytest.raises(NotNow, match="1 live cards"):
        await rig.rotations.retire(rotation, "test")
    # As the projection of bindings takes it from `agent-0`, which serves the domain.
    await rig.rekeyed(CARD, 1, 2)
    assert (await rig.rotations.retire(rotation, "test")).state == "retiring"


async def test_of_the_locks_of_a_domain_the_true_word_that_comes_later_counts(rig):
    rotation = await overlapping(rig)
    await rig.rekeyed(CARD, 7, 2)  # a lie
    rig.clock.pass_time(1)
    data = {"domain": ZONE, "card": CARD, "door": "door-agent-1", "key_version": 1}
    await rig.event("agent-1", "access.granted", data)  # it opened with version 1, so it has that
    async with rig.engine.connect() as connection:
        row = (await connection.execute(select(bindings))).one()
    assert {row.key_version, row.other_version} == {1, 2}
    await rig.looked()
    assert (await rig.campaign(rotation)).state == "overlap"


async def test_even_a_false_card_at_an_honest_door_pauses_a_rotation_and_changes_no_door(rig):
    """It names a bound card's id and a version that nobody has: no key is needed for that.

    The pause is there for good cards that fail; that this is none, only the operator can tell.
    """
    desk = Desk("intl")
    names = Info("intl", {Slot.A: 7}, Slot.A, True)
    decision = await overlap(desk).present(saying(await bound(desk), names))
    assert decision.reason is Reason.KEY_VERSION_UNSUPPORTED
    rotation = await overlapping(rig)
    before = await rig.versions()
    await rig.denies("agent-1", CARD, decision.reason.value)
    await rig.until(rotation, "paused")
    assert await rig.versions() == before
    await rig.rotations.resume(rotation, "test")
    assert (await rig.rotations.retire(rotation, "test", leave_behind=True)).state == "retiring"


async def bound(desk):
    await desk.bind(card := desk.card())
    card.reset()
    return card
