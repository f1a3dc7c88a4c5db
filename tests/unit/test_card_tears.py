"""A card is torn away at every moment of everything that is written to it.

For each command and each memory write of binding, re-keying and unbinding, whatever was on the card
before: a lock then sees the card as before or as after, each version that the card names is whole,
and doing the same again ends as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest

from edge_agent.card.application import UnlockQuestion
from edge_agent.card.binding import BindOutcome
from edge_agent.core.proof import Proof, ProofOutcome
from edge_agent.virtual.card_memory import Image
from edge_agent.virtual.card_os import VirtualCard
from edge_agent.virtual.chip import CardTorn, Tear, TearMoment
from tests.card_desk import Desk

Work = Callable[[VirtualCard], Awaitable[object]]
Versions = tuple[int, ...]
"""What a lock asks for: the preferred version, then the accepted ones."""


class Bench:
    """A desk at which cards of any history are made, worked on and torn away."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def question(self, versions: Versions) -> UnlockQuestion:
        first, *others = versions
        return replace(self.desk.question, key_version=first, accepted_key_versions=tuple(others))

    def card(self, image: Image, tear: Tear | None = None) -> VirtualCard:
        card = self.desk.card()
        card._memory.write(image)
        card.reset()
        card.arm(tear)
        return card

    async def bind(self, versions: Versions, card: VirtualCard) -> None:
        result = await self.desk.bind(card, self.question(versions))
        assert result.outcome in (BindOutcome.BOUND, BindOutcome.ALREADY_BOUND)

    async def unbind(self, _: Versions, card: VirtualCard) -> None:
        assert (await self.desk.unbind(card)).outcome is BindOutcome.UNBOUND

    async def open(self, versions: Versions, card: VirtualCard) -> None:
        """A tap, and new keys if it takes some."""
        question = self.question(versions)
        proof = await self.desk.tap(card, question)
        assert proof.outcome is ProofOutcome.PROVED
        if proof.key_version != question.key_version:
            assert await self.desk.rekey(card, question, proof) == "rekeyed"

    async def after(self, *works: Work) -> Image:
        """What is on a card from the factory after that."""
        card = self.desk.card()
        for work in works:
            await work(card)
        return card.image

    async def seen(self, image: Image, versions: Versions) -> tuple[ProofOutcome, int | None]:
        """How a lock that asks for these sees such a card."""
        proof: Proof = await self.desk.tap(self.card(image), self.question(versions))
        return proof.outcome, proof.key_version


@dataclass(frozen=True)
class Case:
    """Work on a card with some history, and who must be able to open with it meanwhile."""

    before: tuple[tuple[str, Versions], ...]
    work: tuple[str, Versions]
    locks: tuple[Versions, ...] = ()

    def __str__(self) -> str:
        past = "+".join(f"{name}{versions[0]}" for name, versions in self.before) or "fresh"
        return f"{past}, {self.work[0]} {self.work[1]}"


BOUND_1, BOUND_2 = ("bind", (1,)), ("bind", (2,))
REKEYED = (BOUND_1, ("open", (2, 1)))
TWICE = (*REKEYED, ("open", (3, 2)))
CASES = [
    Case((), BOUND_1),
    Case((), ("bind", (2, 1))),
    Case((BOUND_1,), BOUND_1, ((1,), (2, 1))),
    Case((BOUND_1,), ("bind", (2, 1)), ((2, 1), (1, 2))),
    Case((BOUND_1,), ("bind", (2,)), ((2, 1), (1, 2))),
    Case(REKEYED, ("bind", (3, 2)), ((3, 2), (2, 3))),
    Case(REKEYED, ("bind", (3, 1)), ((3, 1), (1, 3))),
    Case(REKEYED, ("bind", (1, 2)), ((1, 2), (2, 1))),
    Case((BOUND_1,), ("open", (2, 1)), ((1,), (2, 1), (1, 2))),
    Case((BOUND_2,), ("open", (1, 2)), ((2,), (2, 1), (1, 2))),
    Case(REKEYED, ("open", (3, 2)), ((2,), (3, 2), (2, 3))),
    Case(REKEYED, ("open", (3, 1)), ((1,), (3, 1), (1, 3))),
    Case(TWICE, ("open", (4, 3)), ((3,), (4, 3), (3, 4))),
    Case((), ("unbind", (1,))),
    Case((BOUND_1,), ("unbind", (1,))),
    Case(REKEYED, ("unbind", (1,))),
]


def tears(apdus: int, writes: int) -> Iterator[Tear]:
    """Every place a card can be torn away in a conversation of that length."""
    for moment, count in (
        (TearMoment.BEFORE_APDU, apdus),
        (TearMoment.AFTER_APDU, apdus),
        (TearMoment.IN_WRITE, writes),
        (TearMoment.AFTER_WRITE, writes),
    ):
        yield from (Tear(moment, n) for n in range(1, count + 1))


@pytest.fixture(params=["gm", "intl"])
def bench(request):
    desk = Desk(request.param)
    desk.element.draw(4, desk.random)
    return Bench(desk)


def work_of(bench: Bench, step: tuple[str, Versions]) -> Work:
    name, versions = step
    return partial(getattr(bench, name), versions)


async def torn(bench: Bench, before: Image, work: Work) -> dict[bytes, Image]:
    """What may be left on a card that is torn away in `work`: each different memory, once.

    A card without power is its memory and nothing else.
    """
    whole = bench.card(before)
    await work(whole)
    left: dict[bytes, Image] = {}
    for tear in tears(*whole.counted):
        card = bench.card(before, tear)
        with pytest.raises(CardTorn):
            await work(card)
        left[card.image.encode()] = card.image
    return left


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_card_torn_away_is_as_before_or_as_after_and_doing_it_again_finishes_it(
    bench, case
):
    work = work_of(bench, case.work)
    before = await bench.after(*(work_of(bench, step) for step in case.before))
    after = await bench.after(*(work_of(bench, step) for step in (*case.before, case.work)))
    ends = {lock: [await bench.seen(end, lock) for end in (before, after)] for lock in case.locks}
    for image in (await torn(bench, before, work)).values():
        for lock in ((1,), (2,), (3,), (4,)):
            # What the card names it has whole, so no single version ever fails.
            assert (await bench.seen(image, lock))[0] is not ProofOutcome.FAILED, lock
        for lock in case.locks:
            seen = await bench.seen(image, lock)
            assert seen in ends[lock], lock
            assert seen[0] is ProofOutcome.PROVED, lock
        card = bench.card(image)
        await work(card)
        for lock in ((1,), (2,), (3,), (4,), *case.locks):
            assert await bench.seen(card.image, lock) == await bench.seen(after, lock), lock
        assert len(card.image.applications) == len(after.applications)


@pytest.mark.parametrize("case", [case for case in CASES if case.locks], ids=str)
async def test_a_card_torn_away_again_while_it_is_finished_still_opens(bench, case):
    work = work_of(bench, case.work)
    before = await bench.after(*(work_of(bench, step) for step in case.before))
    after = await bench.after(*(work_of(bench, step) for step in (*case.before, case.work)))
    twice: dict[bytes, Image] = {}
    for once in (await torn(bench, before, work)).values():
        twice |= await torn(bench, once, work)
    for image in twice.values():
        for lock in case.locks:
            assert (await bench.seen(image, lock))[0] is ProofOutcome.PROVED, lock
        card = bench.card(image)
        await work(card)
        for lock in case.locks:
            assert await bench.seen(card.image, lock) == await bench.seen(after, lock), lock


async def test_every_moment_is_torn(bench):
    """Twenty commands and eleven writes for a fresh card: none is left out."""
    whole = bench.desk.card()
    await bench.bind((1,), whole)
    assert whole.counted == (20, 11)
    assert len(list(tears(*whole.counted))) == 2 * 20 + 2 * 11
    left = await torn(bench, bench.desk.card().image, partial(bench.bind, (1,)))
    # As it came, and after each write; but a try that is given back leaves it as it was.
    assert len(left) == 1 + 11 - 2
