"""The secure elements of this agent: one for each key domain its doors are in.

A domain that is on an ESAM by the configuration is served by that alone, also while it is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edge_agent.clock import Clock
from edge_agent.config import Config, PcscEsamConfig
from edge_agent.giving import Giving
from edge_agent.log import log
from edge_agent.secure_element.esam import EsamElement
from edge_agent.secure_element.esam_chip import Esam
from edge_agent.secure_element.esam_slots import PcscSlot, VirtualSlot
from edge_agent.secure_element.port import ElementUnavailable, SecureElement
from edge_agent.secure_element.software import SoftwareElement
from schemas.suites import RandomBytes, SuiteName, suite


class BrokenElement:
    """Stands where an element could not be opened: every request says so."""

    def __init__(self, why: str) -> None:
        self._why = why

    @property
    def held(self) -> frozenset[int] | None:
        """Nobody knows."""
        return None

    async def admit(self, *_: object) -> bytes:
        """Raises ElementUnavailable."""
        raise ElementUnavailable(self._why)

    async def check(self, *_: object) -> bool:
        """Raises ElementUnavailable."""
        raise ElementUnavailable(self._why)

    async def protect_key(self, *_: object, **__: object) -> bytes:
        """Raises ElementUnavailable."""
        raise ElementUnavailable(self._why)

    async def protect_next_key(self, *_: object, **__: object) -> bytes:
        """Raises ElementUnavailable."""
        raise ElementUnavailable(self._why)

    async def protect(self, *_: object, **__: object) -> bytes:
        """Raises ElementUnavailable."""
        raise ElementUnavailable(self._why)


class Elements:
    """Opens each domain's element at first use and keeps it."""

    def __init__(
        self, state_dir: Path, kek: bytes, random: RandomBytes, esams: Iterable[Esam] = ()
    ) -> None:
        self._state_dir = state_dir
        self._kek = kek
        self._random = random
        self.esams = tuple(esams)
        self.giving = Giving()
        """The cards that they give keys to now."""
        self._open: dict[tuple[str, SuiteName], SecureElement] = {}

    def get(self, domain: str, suite_name: SuiteName) -> SecureElement:
        """The domain's element. Where it can't be opened, one that is always unavailable."""
        key = (domain, suite_name)
        element = self._open.get(key)
        if element is None:
            for esam in self.esams:
                if domain in esam.domains:
                    return self._open.setdefault(key, EsamElement(esam, domain, suite_name))
            path = self._state_dir / f"element-{domain}-{suite_name}.sealed"
            try:
                element = SoftwareElement.open(
                    path,
                    kek=self._kek,
                    suite=suite(suite_name),
                    domain=domain,
                    random=self._random,
                )
            except (ElementUnavailable, OSError) as error:
                log.error("secure_element_unavailable", domain=domain, why=str(error))
                return BrokenElement(str(error))  # not kept: the next tap tries again
            self._open[key] = element
        return element

    async def close(self) -> None:
        """Let go of the ESAMs."""
        for esam in self.esams:
            await esam.close()


def open_esams(config: Config, clock: Clock, random: RandomBytes) -> list[Esam]:
    """The configured ESAMs; none is connected to before it is used."""
    return [
        Esam(
            PcscSlot(esam.name, clock)
            if isinstance(esam, PcscEsamConfig)
            else VirtualSlot(esam.path, random),
            bytes.fromhex(esam.serial),
            esam.domains,
        )
        for esam in config.esams
    ]
