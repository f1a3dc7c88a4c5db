"""What must hold after every step, whatever happened. Failures are AssertionErrors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_agent.card.application import choose_slot
from edge_agent.card.layout import Info, Slot
from edge_agent.virtual.card_os import VirtualCard
from edge_agent.virtual.esam_memory import EsamImage
from tests.rotation_sim.chips import assert_whole, floor_of, held_by, info_of
from tests.rotation_sim.lock import SimLock

if TYPE_CHECKING:
    from tests.rotation_sim.world import World


class Promises:
    """Looks at what changed since the step before."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.unfit: set[str] = set()
        """Locks that are new or have another chip: out of service until they have their keys."""
        self.kept = 0
        """How often a card was to be let in, and would have been."""
        self._epochs: dict[str, int] = {}
        self._cards: dict[str, tuple[Any, Info | None]] = {}
        self._locks: dict[str, Any] = {}
        self._floors: dict[str, int] = {}
        self._floor = 1
        self._destroyed = 0

    # --- who must be let in where

    def binding(self, card: VirtualCard, epoch: int) -> None:
        """A window is open for this card: policies that know an older binding know another card."""
        self._epochs[card.serial.hex()] = epoch

    def in_service(self, lock: SimLock) -> bool:
        """Whether the domain's cards may rely on it."""
        row = self._world.centre.rows.get(lock.name)
        if row is None or row.quarantined or lock.durable.policy is None:
            return False
        if lock.name in self.unfit and self._is_whole(lock):
            self.unfit.discard(lock.name)
        return lock.name not in self.unfit

    def _is_whole(self, lock: SimLock) -> bool:
        centre = self._world.centre
        picture = centre.rows[lock.name].picture
        wanted = {centre.preferred, *centre.accepted}
        if centre.campaign is not None and centre.campaign.standing in ("staging", "staged"):
            wanted.add(centre.campaign.to_version)
        held = held_by(lock.chip) & (lock.element.held or frozenset())  # and has read it back
        policy = lock.durable.policy
        return (
            picture is not None
            and wanted <= held
            and set(picture.held) <= held
            and policy is not None
            and {policy.preferred, *policy.accepted} <= held | {0}
        )

    def must_open(self, lock: SimLock, card: VirtualCard) -> bool:
        """Whether key versions may not keep this card out."""
        centre, name = self._world.centre, card.serial.hex()
        policy = lock.durable.policy
        if policy is None or not self.in_service(lock) or name in centre.inactive:
            return False
        if name not in policy.cards or policy.cards[name] != self._epochs.get(name):
            return False
        if name not in centre.left_behind:
            return True
        info = self._info(card)
        if info is not None and centre.preferred in info.versions.values():
            centre.left_behind.discard(name)
            return True
        return False

    def _info(self, card: VirtualCard) -> Info | None:
        name, image = card.serial.hex(), card.image
        seen = self._cards.get(name)
        if seen is None or seen[0] is not image:
            assert_whole(card, self._world.secrets, self._world.centre.floor)
            seen = self._cards[name] = (image, info_of(card))
        return seen[1]

    # --- after each step

    def hold(self) -> None:
        """Raises AssertionError."""
        world, centre = self._world, self._world.centre
        assert centre.floor >= self._floor, "the authority's floor went back"
        self._floor = centre.floor
        assert len(centre.destroyed) >= self._destroyed
        assert all(version < centre.floor for version in centre.destroyed)
        self._destroyed = len(centre.destroyed)
        changed = {name for name, card in world.cards.items() if self._changed(card)}
        for lock in world.locks.values():
            self._lock(lock, changed)

    def _changed(self, card: VirtualCard) -> bool:
        seen = self._cards.get(card.serial.hex())
        if seen is not None and seen[0] is card.image:
            return False
        self._info(card)
        return True

    def _lock(self, lock: SimLock, cards: set[str]) -> None:
        centre, world = self._world.centre, self._world
        row = centre.rows[lock.name]
        state = (
            lock.chip.image,
            lock.durable.policy,
            lock.durable.beat,
            lock.element.held,
            row.quarantined,
            lock.name in self.unfit,
            len(centre.left_behind),
        )
        if self._locks.get(lock.name) != state:
            self._locks[lock.name] = state
            cards = set(world.cards)
            self._floors_only_rise(lock)
        if not cards:
            return
        question = lock.question()
        for name in cards:
            card = world.cards[name]
            if not self.must_open(lock, card) or question is None:
                continue
            self.kept += 1
            info = self._info(card)
            assert info is not None, f"{name} has lost its keys"
            slot = choose_slot(info, question)
            if not isinstance(slot, Slot):
                raise AssertionError(
                    f"{name} is refused at {lock.name}: {slot.value}; {info}; {question};"
                    f" {lock.durable.policy}; {centre.campaign}; {centre.bindings.get(name)};"
                    f" {row}; {lock.element.held}; {held_by(lock.chip)}"
                )
            version = info.versions[slot]
            assert version in held_by(lock.chip), f"{lock.name} has no version {version}"
            assert version >= lock.floor, f"version {version} is below the floor of {lock.name}"

    def _floors_only_rise(self, lock: SimLock) -> None:
        for name, floor in (
            (f"{lock.name} chip", floor_of(lock.chip)),
            (f"{lock.name} heartbeat", lock.floor),
        ):
            assert floor >= self._floors.get(name, 0), f"the floor of {name} went back"
            assert floor <= self._world.centre.floor
            self._floors[name] = floor

    def forget_chip(self, lock: str) -> None:
        """Another chip has a floor of its own."""
        self._floors.pop(f"{lock} chip", None)

    def injected(
        self, lock: SimLock, esam: str, apdu: bytes, before: EsamImage, answer: bytes
    ) -> None:
        """A package that is given to an ESAM by who found it does nothing, to any ESAM.

        But for the one that is on its way: that is taken, by the chip that asked for it.
        """
        if answer != b"\x90\x00":
            assert lock.chip.image.domains == before.domains
            return
        assert esam == lock.chip.image.serial.hex(), "another ESAM took it"
        self._world.taken[apdu] += 1
        assert self._world.taken[apdu] == 1, "a package was taken twice"
