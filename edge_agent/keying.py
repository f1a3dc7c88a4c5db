"""Carries out orders about keys: the lock gets them, reads back what it has, and says so, signed.

An order is worked on step by step (`core.key_staging`), each step from what was just read from the
element: so nothing is tried again that may have been done, and an order that is given again goes on
where the last one ended, whatever ended it. Taps go on meanwhile: an ESAM is taken for one exchange
at a time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from edge_agent.card.apdu import StatusWord
from edge_agent.core.key_staging import (
    Ask,
    Done,
    Draw,
    Erase,
    Holding,
    Reason,
    Refuse,
    next_step,
)
from edge_agent.elements import Elements
from edge_agent.key_packages import KeyPackages
from edge_agent.keys_held import KeysHeld, in_software, on_chip
from edge_agent.log import log
from edge_agent.neighbours import Say
from edge_agent.recorder import Recorder
from edge_agent.secure_element.esam_chip import (
    ChallengeOver,
    Esam,
    EsamUnavailable,
    PackageRefused,
)
from edge_agent.secure_element.esam_layout import ERROR_LIMIT
from edge_agent.secure_element.software import SoftwareElement
from edge_agent.trust_store import TrustStore
from schemas.envelope import Signer
from schemas.errors import Replayed
from schemas.esam import KeyPlace
from schemas.keys import Item, KeyPackage, StageOrder
from schemas.suites import RandomBytes

ANSWER_S = 15.0
"""How long the first package may take, and each after it twice as long: a server that serves many
locks works on them in turn, and begins anew with who asks anew."""
TRIES = 3
"""How often one package is asked for; then the server is told, which orders again."""
AGAIN_S = 10.0
"""What could not be stored is said again."""
FEW_TRIES = ERROR_LIMIT // 2
SPARING_S = 3600.0
"""An ESAM that refused a package's MAC, and has but few tries, is given one an hour: who has the
wrong control key for it must not wear it out by ordering again and again."""


class _NotDone(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason


@dataclass
class _Orders:
    """What waits for one ESAM, or for what is in software: the newest order of each domain."""

    waiting: dict[str, StageOrder] = field(default_factory=dict)
    there: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _Progress:
    """Of one order at an ESAM."""

    asked: Counter[Item] = field(default_factory=Counter)
    taken: set[Item] = field(default_factory=set)
    """The chip said that it took them."""


class Keying:
    """The keys of all domains of one agent."""

    def __init__(
        self,
        elements: Elements,
        store: TrustStore,
        recorder: Recorder,
        signer: Signer,
        random: RandomBytes,
    ) -> None:
        self._elements = elements
        self._recorder = recorder
        self._random = random
        self._packages = KeyPackages(store, recorder, signer)
        self._held = KeysHeld(elements, store, recorder)
        self._orders: dict[Esam | None, _Orders] = {
            each: _Orders() for each in (None, *elements.esams)
        }
        self._newest: dict[str, int] = {}
        """The counter of each domain's newest order."""
        self._refused_s: dict[Esam, float] = {}
        """When each ESAM last refused a MAC."""
        self._changed = asyncio.Event()
        for esam in elements.esams:
            esam.keys_changed = self._changed.set
        elements.giving.ended = self._changed.set

    def connected(self, say: Say, session: str) -> None:
        """Ask by this connection from now on."""
        self._packages.connected(say, session)

    def ordered(self, order: StageOrder) -> None:
        """Take an order whose signature, audience and time were verified.

        Raises Replayed if it is not newer than the domain's last one.
        """
        if order.counter <= self._newest.get(order.domain, -1):
            raise Replayed(f"the order of domain {order.domain} is none that is new")
        self._newest[order.domain] = order.counter
        orders = self._orders[self._held.esam_of(order.domain)]
        orders.waiting[order.domain] = order
        orders.there.set()

    def packaged(self, package: KeyPackage) -> None:
        """Take a package whose signature, audience and time were verified.

        Raises Replayed if it is not the one that is waited for.
        """
        self._packages.packaged(package)

    def policy_changed(self) -> None:
        """Doors may ask for other versions now."""
        self._changed.set()

    async def run(self) -> None:
        """Carry out orders and say what changes, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for orders in self._orders.values():
                tasks.create_task(self._work_off(orders))
            tasks.create_task(self._say_changes())

    async def _work_off(self, orders: _Orders) -> None:
        while True:
            orders.there.clear()
            while orders.waiting:
                await self._carry_out(orders.waiting.pop(next(iter(orders.waiting))))
            await orders.there.wait()

    async def _say_changes(self) -> None:
        while True:
            self._changed.clear()
            all_said = await self._held.tell_changes()
            try:
                async with asyncio.timeout(None if all_said else AGAIN_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _carry_out(self, order: StageOrder) -> None:
        reason: Reason
        try:
            await self._work(order)
        except _NotDone as refusal:
            reason, detail = refusal.reason, str(refusal)
        except EsamUnavailable as trouble:
            reason = "worn_out" if trouble.reason == "worn_out" else "unavailable"
            detail = str(trouble)
        except OSError as error:
            reason, detail = "failed", f"the disk does not keep it: {error}"
        except Exception as error:  # the server is told, and orders after this one are carried out
            log.exception("keying_failed", domain=order.domain)
            reason, detail = "failed", f"{type(error).__name__}: {error}"
        else:
            log.info("keys_held", domain=order.domain, version=order.version, floor=order.floor)
            await self._held.tell(order.domain, order.suite, again=True)
            return
        log.error("keys_refused", domain=order.domain, version=order.version, why=detail)
        draft = self._recorder.about_agent(
            "keys.refused",
            domain=order.domain,
            version=order.version,
            reason=reason,
            detail=detail[:500],
        )
        await self._recorder.record_soon([draft])

    async def _work(self, order: StageOrder) -> None:
        """Raises _NotDone, EsamUnavailable or OSError."""
        esam = self._held.esam_of(order.domain)
        if esam is not None:
            await self._on_chip(order, esam)
        else:
            await self._in_software(order)

    async def _on_chip(self, order: StageOrder, esam: Esam) -> None:
        suite = (await esam.state()).suite
        if suite != order.suite:
            raise _NotDone(
                "failed", f"the ESAM is of suite {suite}, domain {order.domain} of {order.suite}"
            )
        progress = _Progress()
        while True:
            step = _step(order, on_chip(await esam.table(order.domain)))
            if step is None:
                return
            assert isinstance(step, Ask)  # an ESAM draws nothing
            await self._give(esam, order, step, progress)

    async def _in_software(self, order: StageOrder) -> None:
        asked = self._held.settings(order.domain)
        if asked is None or asked.suite != order.suite:
            raise _NotDone("failed", f"no door here is of domain {order.domain} ({order.suite})")
        element = self._elements.get(order.domain, order.suite)
        if not isinstance(element, SoftwareElement):
            raise _NotDone("unavailable", f"the element of domain {order.domain} can't be opened")
        while True:
            step = _step(order, in_software(element))
            if step is None:
                return
            assert not isinstance(step, Ask)  # it takes no keys from anybody
            await asyncio.to_thread(_change, element, step, self._random)

    async def _give(self, esam: Esam, order: StageOrder, step: Ask, progress: _Progress) -> None:
        """Have one package made and given to the chip; what came of it is read back."""
        item, version = step.item, step.version
        if item in progress.taken:
            raise _NotDone(
                "wrong_key", f"the ESAM took {item} of version {version}, and shows something else"
            )
        if progress.asked[item] == TRIES:
            raise _NotDone("not_given", f"{item} of version {version} did not come or get in")
        await self._spare(esam)
        patience_s = ANSWER_S * 2 ** progress.asked[item]
        progress.asked[item] += 1
        package = await self._packages.ask(esam, order.domain, item, version, patience_s)
        if package is None:
            return
        if item is Item.KEYS and package.check_values != order.check_values:
            raise _NotDone(
                "wrong_key",
                f"the keys of version {version} have the check values {package.check_values}, and"
                f" not those that were ordered ({order.check_values})",
            )
        place = KeyPlace(esam.serial, package.index, item, version)
        challenge, body = bytes.fromhex(package.challenge), bytes.fromhex(package.body)
        try:
            await esam.write(place.header, body, challenge)
        except ChallengeOver as over:
            log.info("key_package_over", domain=order.domain, item=item, why=str(over))
        except PackageRefused as refusal:
            self._refused(esam, item, refusal)
        except EsamUnavailable as trouble:
            if trouble.reason == "worn_out":
                raise
            log.warning("key_package_torn", domain=order.domain, item=item, why=str(trouble))
        else:
            progress.taken.add(item)

    async def _spare(self, esam: Esam) -> None:
        """Raises _NotDone if the ESAM is not to be given a package now."""
        left = (await esam.state()).errors_left
        if left == 0:
            raise _NotDone("worn_out", "the ESAM takes no more keys; what it holds still works")
        since = self._refused_s.get(esam)
        now_s = self._recorder.clock.monotonic()
        if since is not None and left <= FEW_TRIES and now_s < since + SPARING_S:
            raise _NotDone(
                "failed",
                f"the ESAM has {left} tries left and is given one package an hour: its control key"
                " is another than the authority's. Import its issuing file",
            )

    def _refused(self, esam: Esam, item: Item, refusal: PackageRefused) -> None:
        """What the chip itself does not take is not tried again; but for a loss of power."""
        status = refusal.response.status
        if status is StatusWord.CHALLENGE_MISSING:
            log.info("key_package_over", item=item, why=str(refusal))
            return
        if status is StatusWord.MAC_WRONG:
            self._refused_s[esam] = self._recorder.clock.monotonic()
        raise _NotDone("full" if status is StatusWord.MEMORY_FULL else "failed", str(refusal))


def _step(order: StageOrder, held: Holding) -> Ask | Draw | Erase | None:
    """What is to be done next; None: nothing any more. Raises _NotDone."""
    step = next_step(order, held)
    if isinstance(step, Refuse):
        raise _NotDone(step.reason, step.detail)
    return None if isinstance(step, Done) else step


def _change(element: SoftwareElement, step: Draw | Erase, random: RandomBytes) -> None:
    if isinstance(step, Draw):
        element.draw(step.version, random)
    else:
        element.raise_floor(step.floor)
