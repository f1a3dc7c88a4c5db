"""Carries out orders about keys: the lock gets them, reads back what it has, and says so, signed.

An order is worked on step by step (`core.key_staging`), each step from what was just read from the
element. What is asked of the server is asked with a fresh challenge of the ESAM, and a package is
given to it once at most. Taps go on meanwhile: the ESAM is taken for one exchange at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiomqtt

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
from edge_agent.log import log
from edge_agent.neighbours import Say
from edge_agent.recorder import Recorder
from edge_agent.secure_element.esam_chip import Esam, EsamUnavailable, PackageRefused
from edge_agent.secure_element.esam_layout import KeyTable
from edge_agent.secure_element.software import SoftwareElement
from edge_agent.trust_store import TrustStore
from schemas.envelope import Signer
from schemas.errors import Replayed
from schemas.esam import KeyPlace
from schemas.keys import Item, KeyPackage, KeyRequest, StageOrder
from schemas.names import SERVER
from schemas.policy import DoorSettings
from schemas.statement import sign_statement
from schemas.suites import RandomBytes, SuiteName
from schemas.topics import KEYS

ANSWER_S = 20.0
"""How long a package may take; a server that serves many locks works on them in turn."""
TRIES = 3
"""How often one package is asked for; then the server is told, which orders again."""
LOOK_S = 5.0
"""How often it is seen to whether another chip, or another table of keys, is there."""


class _NotDone(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason


@dataclass(frozen=True)
class _Question:
    request: KeyRequest
    answer: asyncio.Future[KeyPackage]


class Keying:
    """The keys of all domains of one agent. `carried_out` is called after each order."""

    def __init__(
        self,
        elements: Elements,
        store: TrustStore,
        recorder: Recorder,
        signer: Signer,
        random: RandomBytes,
    ) -> None:
        self._elements = elements
        self._store = store
        self._recorder = recorder
        self._signer = signer
        self._random = random
        self._say: Say | None = None
        self._session = ""
        self._count = 0
        self._open: _Question | None = None
        self._orders: dict[str, StageOrder] = {}
        """The newest of each domain that was not worked on yet."""
        self._told: dict[str, dict[str, Any]] = {}
        self._wake = asyncio.Event()

    def connected(self, say: Say, session: str) -> None:
        """Ask by this connection from now on."""
        self._say, self._session, self._count = say, session, 0

    def ordered(self, order: StageOrder) -> None:
        """Take an order whose signature, audience and time were verified."""
        waiting = self._orders.get(order.domain)
        if waiting is None or waiting.counter < order.counter:
            self._orders[order.domain] = order
            self._wake.set()

    def packaged(self, package: KeyPackage) -> None:
        """Take a package whose signature, audience and time were verified.

        Raises Replayed if it is not the one that is waited for.
        """
        question = self._open
        if question is None or question.answer.done() or not _answers(question.request, package):
            raise Replayed(f"no such package of keys for domain {package.domain} is waited for")
        question.answer.set_result(package)

    def policy_changed(self) -> None:
        """Doors may ask for other versions now."""
        self._wake.set()

    async def run(self) -> None:
        """Carry out orders and say what changes, for ever."""
        while True:
            self._wake.clear()
            while self._orders:
                await self._carry_out(self._orders.pop(next(iter(self._orders))))
            await self._tell_changes()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _carry_out(self, order: StageOrder) -> None:
        try:
            await self._work(order)
        except _NotDone as refusal:
            reason, detail = refusal.reason, str(refusal)
        except EsamUnavailable as trouble:
            reason = "worn_out" if trouble.reason == "worn_out" else "unavailable"
            detail = str(trouble)
        except OSError as error:
            reason, detail = "failed", f"the disk does not keep it: {error}"
        else:
            log.info("keys_held", domain=order.domain, version=order.version, floor=order.floor)
            await self._tell(order.domain, order.suite, again=True)
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
        element = self._element(order)
        asked = dict.fromkeys(Item, 0)
        while True:
            step = next_step(order, await self._holding(element, order.domain))
            match step:
                case Done():
                    return
                case Refuse():
                    raise _NotDone(step.reason, step.detail)
                case Draw() | Erase():
                    assert isinstance(element, SoftwareElement)
                    await asyncio.to_thread(_change, element, step, self._random)
                case Ask():
                    assert isinstance(element, Esam)
                    asked[step.item] += 1
                    if asked[step.item] > TRIES:
                        raise _NotDone(
                            "not_given", f"{step.item} of version {step.version} did not get in"
                        )
                    await self._ask(element, order, step)

    def _element(self, order: StageOrder) -> Esam | SoftwareElement:
        for esam in self._elements.esams:
            if order.domain in esam.domains:
                return esam
        if (order.domain, order.suite) not in {(s.domain, s.suite) for s in self._settings()}:
            raise _NotDone("failed", f"no door here is of domain {order.domain} ({order.suite})")
        element = self._elements.get(order.domain, order.suite)
        if not isinstance(element, SoftwareElement):
            raise _NotDone("unavailable", f"the element of domain {order.domain} can't be opened")
        return element

    async def _holding(self, element: Esam | SoftwareElement, domain: str) -> Holding:
        if isinstance(element, Esam):
            return _on_chip(await element.table(domain))
        return _in_software(element)

    async def _ask(self, esam: Esam, order: StageOrder, step: Ask) -> None:
        """Have one package made and give it to the chip, whatever comes of that."""
        if (suite := (await esam.state()).suite) != order.suite:
            raise _NotDone(
                "failed", f"the ESAM is of suite {suite}, domain {order.domain} of {order.suite}"
            )
        package = await self._package(esam, order, step)
        if package is None:
            return
        if package.check_value != _ordered(order, step.item):
            raise _NotDone(
                "wrong_key",
                f"{step.item} of version {step.version} is {package.check_value}, and not the key"
                f" that was ordered ({_ordered(order, step.item)})",
            )
        place = KeyPlace(esam.serial, package.index, package.item, package.version)
        try:
            await esam.write(place.header, bytes.fromhex(package.body))
        except PackageRefused as refusal:
            log.warning("package_refused", domain=order.domain, item=step.item, why=str(refusal))

    async def _package(self, esam: Esam, order: StageOrder, step: Ask) -> KeyPackage | None:
        if self._say is None:
            raise _NotDone("not_given", "there is no connection to the server")
        self._count += 1
        challenge = await esam.challenge()
        request = KeyRequest(
            site=self._store.state.root.site,
            audience=SERVER,
            issued=self._recorder.judge_time()[0],
            counter=self._count,
            session=self._session,
            esam=esam.serial.hex(),
            domain=order.domain,
            index=esam.index(order.domain),
            version=step.version,
            item=step.item,
            challenge=challenge.hex(),
        )
        self._open = _Question(request, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._say(KEYS, sign_statement(request, self._signer))
                return await self._open.answer
        except TimeoutError:
            log.warning("package_late", domain=order.domain, item=step.item, after_s=ANSWER_S)
        except (aiomqtt.MqttError, OSError) as error:
            raise _NotDone("not_given", f"the connection broke: {error}") from None
        finally:
            self._open = None
        return None

    async def _tell_changes(self) -> None:
        for domain, suite in self._domains():
            await self._tell(domain, suite)

    async def _tell(self, domain: str, suite: SuiteName, *, again: bool = False) -> None:
        """Record what the lock has of a domain, if that is news; `again`: in any case."""
        held = self._held(domain, suite)
        if held is None or (not again and self._told.get(domain, _untold(held)) == held):
            return
        if await self._recorder.record_soon([self._recorder.about_agent("keys.held", **held)]):
            self._told[domain] = held

    def _held(self, domain: str, suite: SuiteName) -> dict[str, Any] | None:
        """What `keys.held` says of a domain; None while the chip was not looked at."""
        esam = next((e for e in self._elements.esams if domain in e.domains), None)
        if esam is not None:
            table = esam.tables.get(esam.index(domain))
            if table is None:
                return None
            holding = _on_chip(table)
        else:
            element = self._elements.get(domain, suite)
            if not isinstance(element, SoftwareElement):
                return None
            holding = _in_software(element)
        asked = next((s for s in self._settings() if s.domain == domain), None)
        return {
            "domain": domain,
            "suite": suite,
            "esam": None if esam is None else esam.serial.hex(),
            "held": holding.whole(),
            "floor": holding.floor,
            "preferred": 1 if asked is None else asked.key_version,
            "accepted": () if asked is None else asked.accepted_key_versions,
        }

    def _domains(self) -> Iterator[tuple[str, SuiteName]]:
        seen = {}
        for settings in self._settings():
            seen[settings.domain] = settings.suite
        yield from seen.items()

    def _settings(self) -> Iterator[DoorSettings]:
        applied = self._store.applied
        if applied is not None:
            for view in applied.doors.values():
                yield view.settings


def _untold(held: dict[str, Any]) -> dict[str, Any] | None:
    """What goes without saying: a lock with a secret of its own, as it is from the start."""
    asked = (held["preferred"], held["accepted"], held["floor"])
    return held if held["esam"] is None and asked == (1, (), 1) else None


def _answers(request: KeyRequest, package: KeyPackage) -> bool:
    names = ("session", "esam", "domain", "index", "version", "item", "challenge")
    return all(getattr(request, name) == getattr(package, name) for name in names)


def _ordered(order: StageOrder, item: Item) -> str | None:
    if item is Item.FLOOR or order.check_values is None:
        return None
    value: str = getattr(order.check_values, item.value)
    return value


def _on_chip(table: KeyTable) -> Holding:
    return Holding(
        table.floor or 1,
        {
            version: {Item[purpose.name]: value.hex() for purpose, value in checks.items()}
            for version, checks in table.versions.items()
        },
    )


def _in_software(element: SoftwareElement) -> Holding:
    versions = {
        version: {Item(name): str(value) for name, value in checks.model_dump().items()}
        for version, checks in element.check_values().items()
    }
    return Holding(element.floor, versions, draws=True)


def _change(element: SoftwareElement, step: Draw | Erase, random: RandomBytes) -> None:
    if isinstance(step, Draw):
        element.draw(step.version, random)
    else:
        element.raise_floor(step.floor)
