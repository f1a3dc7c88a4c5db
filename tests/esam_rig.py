"""An ESAM in a slot that a test can reach into, its adapter, and who holds its control key."""

from __future__ import annotations

import pytest

from edge_agent.readers.port import CardRemoved
from edge_agent.secure_element.esam import EsamElement
from edge_agent.secure_element.esam_chip import Esam, EsamUnavailable, Loan
from edge_agent.secure_element.esam_slots import SlotEmpty
from edge_agent.secure_element.software import SoftwareElement
from tests.card_desk import SERIAL as CARD
from tests.esam_desk import ESAM_SERIAL, EsamDesk

CHALLENGE = b"c" * 16


class Slot:
    """A slot that chips can be put into and taken out of."""

    def __init__(self, chip=None):
        self.chip = chip
        self.powered = 0

    async def connect(self):
        if self.chip is None:
            raise SlotEmpty("the slot is empty")
        self.chip.reset()
        self.powered += 1
        return self

    async def transmit(self, apdu: bytes) -> bytes:
        if self.chip is None:
            raise CardRemoved("nothing is there")
        return self.chip.transmit(apdu)

    async def close(self) -> None:
        self.chip = None


class EsamRig:
    """An ESAM with versions 1 and 2 of domain `front`, in a slot, and its adapter."""

    def __init__(self, name: str):
        self.desk = EsamDesk(name).issue().load(1, 2)
        self.slot = Slot(self.desk.chip)
        self.esam = Esam(self.slot, ESAM_SERIAL, ["front", "back"])
        self.element = EsamElement(self.esam, "front", name)
        self.software = SoftwareElement(self.desk.suite, self.desk.secrets)
        self.changes = []
        self.esam.changed = lambda: self.changes.append(
            self.esam.trouble and self.esam.trouble.reason
        )
        self.lent: list[Loan] = []

    async def lend(self, serial: bytes, challenge: bytes, loan: Loan) -> bytes:
        assert serial == ESAM_SERIAL
        self.lent.append(loan)
        return self.desk.control.lend(
            challenge,
            index=loan.index,
            version=loan.version,
            card_id=loan.card_id,
            transport_key=loan.transport_key,
        )

    async def why(self) -> str:
        with pytest.raises(EsamUnavailable) as refused:
            await self.element.admit(CARD, 1, CHALLENGE)
        return refused.value.reason
