"""What the lock has of its domains' keys, read back from its elements, and said in `keys.held`.

It is said when it is another than was said last, also before a restart: which that was is noted
after the event is durable. So it is said at least once, and not at each start again.

That another version is preferred is said once no card is being given the one of before any more:
until then the lock says what that card was asked.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from typing import Any

from edge_agent.core.key_staging import Holding
from edge_agent.elements import Elements
from edge_agent.log import log
from edge_agent.recorder import Recorder
from edge_agent.secure_element.esam_chip import Esam
from edge_agent.secure_element.esam_layout import KeyTable
from edge_agent.secure_element.software import SoftwareElement
from edge_agent.trust_store import TrustStore
from schemas.policy import DoorSettings
from schemas.suites import SuiteName


class KeysHeld:
    """The keys of all domains of one agent, and what was said of them."""

    def __init__(self, elements: Elements, store: TrustStore, recorder: Recorder) -> None:
        self._elements = elements
        self._store = store
        self._recorder = recorder
        self._turn = asyncio.Lock()  # else the same is said twice

    def esam_of(self, domain: str) -> Esam | None:
        """The chip that serves a domain; None: it is served in software."""
        return next((esam for esam in self._elements.esams if domain in esam.domains), None)

    def settings(self, domain: str) -> DoorSettings | None:
        """What the policy in force says of a domain; None: no door here is of it."""
        return next((each for each in self._settings() if each.domain == domain), None)

    async def tell_changes(self) -> bool:
        """Say what is news of the domains of all doors; whether all of it is durable."""
        domains = {each.domain: each.suite for each in self._settings()}
        told = [await self.tell(domain, suite) for domain, suite in domains.items()]
        return all(told)

    async def tell(self, domain: str, suite: SuiteName, *, again: bool = False) -> bool:
        """Say what the lock has of a domain, if that is news; `again`: in any case.

        Whether that is durable.
        """
        async with self._turn:
            return await self._tell(domain, suite, again)

    async def _tell(self, domain: str, suite: SuiteName, again: bool) -> bool:
        held = self._held(domain, suite)
        if held is None:
            return True  # of what was not seen nothing is said
        draft = self._recorder.about_agent("keys.held", **held)
        what = f"keys {domain}"
        said = self._store.notes.get(what)
        mark = self._store.state.digest(draft.data.model_dump_json(exclude={"clock"}).encode())
        if not again and (said == mark or (said is None and _goes_without_saying(held))):
            return True
        if not await self._recorder.record_soon([draft]):
            return False
        try:
            await self._store.note({what: mark})
        except sqlite3.Error as error:
            log.error("keys_held_not_noted", why=str(error))  # it is said again at the next start
        return True

    def _held(self, domain: str, suite: SuiteName) -> dict[str, Any] | None:
        """What `keys.held` says of a domain; None while its element was not seen."""
        esam = self.esam_of(domain)
        if esam is not None:
            table = esam.tables.get(esam.index(domain))
            if table is None:
                return None
            holding = on_chip(table)
        else:
            element = self._elements.get(domain, suite)
            if not isinstance(element, SoftwareElement):
                return None
            holding = in_software(element)
        asked = self.settings(domain)
        preferred, accepted = 1, tuple[int, ...]()
        if asked is not None:
            preferred, accepted = asked.key_version, asked.accepted_key_versions
        before = self._elements.giving.other_than(preferred, domain)
        if before is not None:
            preferred, accepted = before.key_version, before.accepted_key_versions
        return {
            "domain": domain,
            "suite": suite,
            "esam": None if esam is None else esam.serial.hex(),
            "held": holding.versions,
            "floor": holding.floor,
            "preferred": preferred,
            "accepted": accepted,
        }

    def _settings(self) -> Iterator[DoorSettings]:
        applied = self._store.applied
        if applied is not None:
            for view in applied.doors.values():
                yield view.settings


def on_chip(table: KeyTable) -> Holding:
    """What an ESAM has of one domain."""
    return Holding(max(1, table.floor), table.versions)


def in_software(element: SoftwareElement) -> Holding:
    """What a lock's own secret has."""
    return Holding(element.floor, element.check_values(), draws=True)


def _goes_without_saying(held: dict[str, Any]) -> bool:
    """A lock with a secret of its own, as each is from the start."""
    if held["esam"] is not None or set(held["held"]) != {1}:
        return False
    return (held["preferred"], held["accepted"], held["floor"]) == (1, (), 1)
