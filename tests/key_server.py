"""The key authority's side of one ESAM, for tests: orders, and the packages that answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from schemas.esam import KeyPlace, check_values, seal_for_esam
from schemas.keys import (
    PACKAGE_LIFE,
    CheckValues,
    Item,
    KeyPackage,
    KeyRequest,
    Purpose,
    StageOrder,
)
from tests.agent_rig import AGENT, DOOR, SITE
from tests.esam_desk import EsamDesk
from tests.site_voice import SiteVoice


class KeyServer:
    """Who holds the ESAM's control key, and the secrets of the domain of its first place."""

    def __init__(self, desk: EsamDesk, voice: SiteVoice) -> None:
        self.desk, self.voice = desk, voice
        self.counter = 0

    def order(self, version: int, floor: int = 1, **changes: Any) -> StageOrder:
        """The next order."""
        self.counter += 1
        values = {
            **self._common(PACKAGE_LIFE),
            "domain": DOOR,
            "suite": self.desk.suite.name,
            "version": version,
            "check_values": self.checks(version),
            "floor": floor,
        }
        return StageOrder.model_validate(values | changes)

    def package(self, request: KeyRequest, **changes: Any) -> KeyPackage:
        """The answer; `keys` are others than the right ones."""
        desk = self.desk
        place = KeyPlace(desk.serial, request.index, request.item, request.version)
        right = b"" if request.item is Item.FLOOR else self.keys(request.version)
        keys: bytes = changes.pop("keys", right)
        challenge = bytes.fromhex(request.challenge)
        body = seal_for_esam(desk.suite, desk.control_key, challenge, place, keys)
        values = {
            **request.model_dump(include=set(_NAMED)),
            **self._common(timedelta(seconds=60)),
            "check_values": check_values(desk.suite, keys) if keys else None,
            "body": body.hex(),
        }
        return KeyPackage.model_validate(values | changes)

    def keys(self, version: int) -> bytes:
        made = {purpose: bytes((version, purpose)) * 8 for purpose in Purpose}
        self.desk.secrets.setdefault(version, made)
        return self.desk.keys(version)

    def checks(self, version: int) -> CheckValues:
        return check_values(self.desk.suite, self.keys(version))

    def _common(self, life: timedelta) -> dict[str, Any]:
        now = self.voice.now()
        return {
            "site": SITE,
            "audience": AGENT,
            "issued": now,
            "expires": now + life,
            "counter": self.counter,
        }


_NAMED = ("session", "esam", "domain", "index", "version", "item", "challenge")
