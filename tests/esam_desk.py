"""An ESAM, who holds its control key, and a pair of hands, for tests."""

from __future__ import annotations

from collections.abc import Mapping

from edge_agent.card.apdu import Response
from edge_agent.secure_element.esam_layout import AID, KeyTable, State
from edge_agent.virtual.chip import Tear
from edge_agent.virtual.esam_os import VirtualEsam
from schemas.esam import KeyPlace, check_values, seal_for_esam
from schemas.esam_issue import ControlKey
from schemas.keys import CheckValues, Item, Purpose
from schemas.suites import SuiteName, suite
from tests.card_desk import repeatable

ESAM_SERIAL = bytes.fromhex("45534d0000000001")
MAKERS_KEY = bytes.fromhex("d0d1d2d3d4d5d6d7d8d9dadbdcdddedf")
INDEX = 1
SELECT = f"00a40400{len(AID):02x}{AID.hex()}00"


class EsamDesk:
    """A blank ESAM; `issue` and `load` make it one in use. Every answer it gave is kept."""

    def __init__(self, name: SuiteName, *, serial: bytes = ESAM_SERIAL, seed: int = 7, path=None):
        self.suite = suite(name)
        self.serial = serial
        self.random = repeatable(seed)
        self.chip = VirtualEsam(path, name, serial, MAKERS_KEY, self.random)
        self.control_key = self.random(16)
        self.secrets = {
            version: {purpose: self.random(16) for purpose in Purpose} for version in (1, 2, 3)
        }
        self.answers: list[bytes] = []
        self.select()

    @property
    def control(self) -> ControlKey:
        return ControlKey(self.suite, self.serial, self.control_key)

    def send(self, apdu: str | bytes) -> Response:
        """One command, straight to the chip."""
        raw = bytes.fromhex(apdu) if isinstance(apdu, str) else apdu
        answer = self.chip.transmit(raw)
        self.answers.append(answer)
        return Response.decode(answer)

    async def transmit(self, apdu: bytes) -> bytes:
        return self.send(apdu).encode()

    def select(self) -> Response:
        return self.send(SELECT)

    def challenge(self) -> bytes:
        answer = self.send("0084000010")
        assert answer.ok
        return answer.data

    def power_on(self) -> None:
        self.chip.reset()
        self.select()

    def arm(self, tear: Tear | None) -> None:
        self.chip.arm(tear)

    def issue(self) -> EsamDesk:
        """Give it its control key, as `ostiary-agent esam issue` does."""
        makers = ControlKey(self.suite, self.serial, MAKERS_KEY)
        data = makers.successor(self.challenge(), 1, self.control_key)
        assert self.send(protected("84d40001", data)).ok
        return self

    def keys(self, version: int) -> bytes:
        """The three keys of a version, as a package has them."""
        return b"".join(self.secrets[version][purpose] for purpose in Purpose)

    def checks(self, version: int) -> CheckValues:
        return check_values(self.suite, self.keys(version))

    def package(
        self, item: Item, version: int, *, index: int = INDEX, keys: bytes | None = None, **changed
    ) -> bytes:
        """The APDU that writes keys or raises a floor, for a challenge drawn now."""
        serial = changed.get("serial", self.serial)
        challenge = changed.get("challenge") or self.challenge()
        place = KeyPlace(serial, index, item, version)
        if keys is None:
            keys = b"" if item is Item.FLOOR else self.keys(version)
        control_key = changed.get("control_key", self.control_key)
        data = seal_for_esam(self.suite, control_key, challenge, place, keys)
        return protected(place.header.hex(), data)

    def load(self, *versions: int, index: int = INDEX) -> EsamDesk:
        """Write the keys of each version."""
        for version in versions:
            assert self.send(self.package(Item.KEYS, version, index=index)).ok
        return self

    def lend(self, card_id: bytes, key: bytes, *, version: int = 1, index: int = INDEX) -> Response:
        data = self.control.lend(
            self.challenge(), index=index, version=version, card_id=card_id, transport_key=key
        )
        return self.send(protected(f"84d402{version:02x}", data))

    def init(
        self, purpose: Purpose, version: int, card_id: bytes, *, index: int = INDEX
    ) -> Response:
        return self.send(f"801a{purpose:02x}{version:02x}09{index:02x}{card_id.hex()}")

    def crypt(self, operation: int, data: bytes, under: int = 0) -> Response:
        return self.send(protected(f"80fa{operation:02x}{under:02x}", data))

    def card_key(self, purpose: Purpose, version: int, card_id: bytes) -> bytes:
        return self.suite.diversify(self.secrets[version][purpose], card_id)

    @property
    def state(self) -> State:
        return State.decode(self.send("80ca020000").data)

    def table(self, index: int = INDEX) -> Mapping[int, CheckValues]:
        return self.whole_table(index).versions

    def whole_table(self, index: int = INDEX) -> KeyTable:
        return KeyTable.decode(self.send(f"80ca01{index:02x}00").data)


def protected(header: str, data: bytes) -> bytes:
    return bytes.fromhex(header) + bytes((len(data),)) + data
