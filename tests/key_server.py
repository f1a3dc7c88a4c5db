"""The key authority's side of one ESAM, for tests: orders, and the packages that answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from schemas.esam import KeyPlace, check_value, seal_for_esam
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
        """The answer; `key` is another than the right one."""
        desk = self.desk
        place = KeyPlace(desk.serial, request.index, request.item, request.version)
        key: bytes = changes.pop("key", self.key(request.item, request.version))
        challenge = bytes.fromhex(request.challenge)
        body = seal_for_esam(desk.suite, desk.control_key, challenge, place, key)
        values = {
            **request.model_dump(include=set(_NAMED)),
            **self._common(timedelta(seconds=60)),
            "check_value": check_value(desk.suite, key).hex() if key else None,
            "body": body.hex(),
        }
        return KeyPackage.model_validate(values | changes)

    def key(self, item: Item, version: int) -> bytes:
        """None for a floor."""
        if item.purpose is None:
            return b""
        made = {purpose: bytes((version, purpose)) * 8 for purpose in Purpose}
        return self.desk.secrets.setdefault(version, made)[item.purpose]

    def checks(self, version: int) -> CheckValues:
        items = (Item.AUTH, Item.ADMIT, Item.MAINTAIN)
        values = {
            item.value: check_value(self.desk.suite, self.key(item, version)).hex()
            for item in items
        }
        return CheckValues(**values)

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
