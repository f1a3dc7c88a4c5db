"""Virtual cards and ESAMs of the simulation, and the ear that listens for secrets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from edge_agent.card import layout
from edge_agent.card.layout import Info
from edge_agent.readers.port import CardRemoved
from edge_agent.virtual.card_os import VirtualCard
from edge_agent.virtual.chip import CardTorn
from edge_agent.virtual.esam_memory import Domain, EsamImage
from edge_agent.virtual.esam_os import VirtualEsam
from schemas.esam import CLA_SECURE, RAISE_FLOOR, WRITE_KEY
from schemas.keys import Purpose
from schemas.suites import Suite

T = TypeVar("T")
HALF = 8
_HEX = re.compile(rb"[0-9a-f]{16,}")
SITE, DOMAIN = "demo", "zone-a"
INDEX = 1


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run what never waits for anything outside."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


class Secrets:
    """Every key there is; `hear` fails if half of one is in what is said."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._halves: set[bytes] = set()
        self.versions: dict[int, dict[Purpose, bytes]] = {}
        self.cards: list[bytes] = []

    def add(self, key: bytes) -> None:
        self._halves |= {key[:HALF], key[HALF:]}

    def add_version(self, version: int, keys: dict[Purpose, bytes]) -> None:
        self.versions[version] = keys
        for key in keys.values():
            self.add(key)
            for card in self.cards:
                self.add(self._suite.diversify(key, card))

    def add_card(self, card: bytes) -> None:
        self.cards.append(card)
        for keys in self.versions.values():
            for key in keys.values():
                self.add(self._suite.diversify(key, card))

    def card_key(self, version: int, purpose: Purpose, card: bytes) -> bytes:
        return self._suite.diversify(self.versions[version][purpose], card)

    def hear(self, said: bytes) -> None:
        halves = self._halves
        for at in range(len(said) - HALF + 1):
            assert said[at : at + HALF] not in halves, "a secret was said"

    def hear_text(self, said: bytes) -> None:
        for run in _HEX.findall(said):
            self.hear(bytes.fromhex(run.decode()[: len(run) // 2 * 2]))


class Slot:
    """The contact slot of one lock; the chip in it may be another at any time."""

    def __init__(self, chip: VirtualEsam, secrets: Secrets, taken: Counter[bytes]) -> None:
        self.chip = chip
        self._secrets = secrets
        self._taken = taken
        self.torn = False
        self.tears = 0

    async def connect(self) -> Slot:
        self.chip.reset()
        return self

    async def close(self) -> None: ...

    async def transmit(self, apdu: bytes) -> bytes:
        chip = self.chip
        before = chip.image
        self._secrets.hear(apdu)
        try:
            answer = chip.transmit(apdu)
        except CardTorn:
            chip.arm(None)
            self.torn = True
            self.tears += 1
            _old_or_new(before, chip.image, apdu)
            raise
        if apdu[0] == CLA_SECURE and apdu[1] in (WRITE_KEY, RAISE_FLOOR) and answer == b"\x90\x00":
            self._took(apdu)
        self._secrets.hear(answer)
        return answer

    def _took(self, apdu: bytes) -> None:
        self._taken[apdu] += 1
        assert self._taken[apdu] == 1, "a package was taken twice"


def _old_or_new(before: EsamImage, after: EsamImage, apdu: bytes) -> None:
    """A chip that lost its power has the one domain as it was, or as the command makes it."""
    assert after.control_key == before.control_key
    old, new = before.domains.get(INDEX, Domain()), after.domains.get(INDEX, Domain())
    if old == new:
        return
    if apdu[1] == RAISE_FLOOR:
        assert new == old.raised_to(apdu[3])
    else:
        assert new == old.with_keys(apdu[3], new.versions[apdu[3]])


class Reader:
    """A card in the field, listened to."""

    entered = 0.0

    def __init__(self, card: VirtualCard, secrets: Secrets) -> None:
        self._card = card
        self._secrets = secrets
        card.reset()

    async def transmit(self, apdu: bytes) -> bytes:
        self._secrets.hear(apdu)
        try:
            answer = self._card.transmit(apdu)
        except CardTorn as torn:
            self._card.arm(None)
            raise CardRemoved(str(torn)) from None
        self._secrets.hear(answer)
        return answer


def info_of(card: VirtualCard) -> Info | None:
    """What is on the card."""
    for application in card.image.applications.values():
        file = application.files.get(layout.INFO_SFI)
        return None if file is None else Info.decode(file.content)
    return None


def assert_whole(card: VirtualCard, secrets: Secrets, floor: int) -> None:
    """Each version from `floor` up that the info record names has its three right keys.

    One below may be written over while it is still named, when the card is bound anew: no lock has
    it any more, and so none can take it out of the record first.
    """
    info = info_of(card)
    if info is None:
        return
    [application] = card.image.applications.values()
    for slot, version in info.versions.items():
        for purpose in Purpose if version >= floor else ():
            record = application.keys[slot.key(purpose)]
            assert record.key == secrets.card_key(version, purpose, card.serial)
            assert record.version == version


def held_by(chip: VirtualEsam) -> frozenset[int]:
    """The versions that are on the chip."""
    return frozenset(chip.image.domains.get(INDEX, Domain()).versions)


def floor_of(chip: VirtualEsam) -> int:
    return chip.image.domains.get(INDEX, Domain()).floor


Say = Callable[[str, str, Any], None]
"""To whom, on which channel, what."""
