"""The secure elements of this agent: one for each key domain its doors are in."""

from __future__ import annotations

from pathlib import Path

from edge_agent.log import log
from edge_agent.secure_element.port import ElementUnavailable, SecureElement
from edge_agent.secure_element.software import SoftwareElement
from schemas.suites import RandomBytes, SuiteName, suite


class BrokenElement:
    """Stands where an element could not be opened: every request says so."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def admit(self, *_: object) -> bytes:
        """Raises ElementUnavailable."""
        raise ElementUnavailable(self._why)

    async def check(self, *_: object) -> bool:
        """Raises ElementUnavailable."""
        raise ElementUnavailable(self._why)

    async def protect_key(self, *_: object, **__: object) -> bytes:
        """Raises ElementUnavailable."""
        raise ElementUnavailable(self._why)

    async def protect(self, *_: object, **__: object) -> bytes:
        """Raises ElementUnavailable."""
        raise ElementUnavailable(self._why)


class Elements:
    """Opens each domain's sealed element at first use and keeps it."""

    def __init__(self, state_dir: Path, kek: bytes, random: RandomBytes) -> None:
        self._state_dir = state_dir
        self._kek = kek
        self._random = random
        self._open: dict[tuple[str, SuiteName], SecureElement] = {}

    def get(self, domain: str, suite_name: SuiteName) -> SecureElement:
        """The domain's element. Where it can't be opened, one that is always unavailable."""
        key = (domain, suite_name)
        element = self._open.get(key)
        if element is None:
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
