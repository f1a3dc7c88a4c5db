"""An ESAM as a door's secure element: each request is INIT FOR CRYPT and CRYPT of docs/esam.md."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.card import layout
from edge_agent.card.apdu import Command, Response, StatusWord
from edge_agent.secure_element import esam_layout
from edge_agent.secure_element.esam_chip import Esam, Loan
from edge_agent.secure_element.esam_layout import Operation
from edge_agent.secure_element.port import ElementUnavailable
from schemas.keys import Purpose
from schemas.suites import SuiteName
from schemas.suites.suite import BLOCK_BYTES


@dataclass(frozen=True)
class _Key:
    """Which of a card's keys."""

    card_id: bytes
    version: int
    purpose: Purpose


class EsamElement:
    """The secrets of one key domain on an ESAM."""

    def __init__(self, esam: Esam, domain: str, suite: SuiteName) -> None:
        self._esam = esam
        self._index = esam.index(domain)
        self._domain = domain
        self._suite = suite

    @property
    def held(self) -> frozenset[int] | None:
        """The versions that were there when the chip's key table was last read."""
        table = self._esam.tables.get(self._index)
        return None if table is None else frozenset(table.versions)

    async def admit(self, card_id: bytes, version: int, card_challenge: bytes) -> bytes:
        """The challenge under the card's `admit` key."""
        key = _Key(card_id, version, Purpose.ADMIT)
        return self._good(await self._crypt(key, Operation.ENCIPHER, card_challenge))

    async def check(
        self, card_id: bytes, version: int, challenge: bytes, cryptogram: bytes
    ) -> bool:
        """What the chip says to the card's answer; it compares inside."""
        if len(cryptogram) != BLOCK_BYTES:
            return False
        key = _Key(card_id, version, Purpose.AUTH)
        answer = await self._crypt(key, Operation.VERIFY, challenge + cryptogram)
        if answer.status is StatusWord.WRONG:
            return False
        self._good(answer)
        return True

    async def protect_key(
        self,
        card_id: bytes,
        version: int,
        purpose: Purpose,
        *,
        key_header: bytes,
        command_header: bytes,
        card_challenge: bytes,
        transport_key: bytes,
    ) -> bytes:
        """WRITE KEY's body. The transport key is lent to the chip first, if it is not yet."""
        data = key_header + command_header + card_challenge
        work = (_Key(card_id, version, purpose), Operation.PROTECT_KEY, data)
        answer = await self._crypt(*work)
        if answer.status is StatusWord.SECURITY_NOT_SATISFIED:
            await self._esam.lend_key(Loan(self._index, version, card_id, transport_key))
            answer = await self._crypt(*work)
        return self._good(answer)

    async def protect_next_key(
        self,
        card_id: bytes,
        version: int,
        purpose: Purpose,
        *,
        key_header: bytes,
        command_header: bytes,
        card_challenge: bytes,
        under: int,
    ) -> bytes:
        """WRITE KEY's body under the card's own `maintain` key of the version `under`."""
        data = key_header + command_header + card_challenge
        key = _Key(card_id, version, purpose)
        return self._good(await self._crypt(key, Operation.PROTECT_KEY, data, under))

    async def protect(
        self,
        card_id: bytes,
        version: int,
        *,
        plaintext: bytes,
        command_header: bytes,
        card_challenge: bytes,
    ) -> bytes:
        """A body under the card's `maintain` key."""
        key = _Key(card_id, version, Purpose.MAINTAIN)
        data = command_header + card_challenge + plaintext
        return self._good(await self._crypt(key, Operation.PROTECT, data))

    async def _crypt(
        self, key: _Key, operation: Operation, data: bytes, under: int = esam_layout.UNDER_LENT
    ) -> Response:
        cos = layout.CLA_COS
        place = bytes((self._index,)) + key.card_id
        chosen = Command(cos, esam_layout.INIT_FOR_CRYPT, key.purpose, key.version, place)
        le = None if operation is Operation.VERIFY else 256
        command = Command(cos, esam_layout.CRYPT, operation, under, data, le)
        init, answer = await self._esam.crypt(self._suite, chosen, command)
        if init.status in (StatusWord.KEY_NOT_FOUND, StatusWord.NO_SUCH_KEY):
            raise ElementUnavailable(
                f"the ESAM holds no key version {key.version} of domain {self._domain}"
            )
        return init if answer is None else answer

    def _good(self, answer: Response) -> bytes:
        if not answer.ok:
            raise ElementUnavailable(
                f"the ESAM refuses to work with keys of domain {self._domain}:"
                f" {answer.status.name} ({answer.sw:04X})"
            )
        return answer.data
