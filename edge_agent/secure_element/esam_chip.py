"""The connection to an ESAM: one chip for several key domains, one request at a time.

The chip may be missing, taken out, or another one than the configuration names: then every request
is EsamUnavailable, with the reason, until it is back. Nothing is tried behind a request's back but
one new connection, since power may have failed for a moment. A request is two commands that belong
together, so one is carried out at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from edge_agent.card import layout
from edge_agent.card.apdu import MAX_LE, Command, MalformedApdu, Response, StatusWord
from edge_agent.readers.port import CardRemoved
from edge_agent.secure_element import esam_layout
from edge_agent.secure_element.esam_layout import Identity, KeyTable, State
from edge_agent.secure_element.esam_slots import EsamChannel, EsamSlot, SlotEmpty
from edge_agent.secure_element.port import ElementUnavailable
from schemas.esam import CHALLENGE_BYTES, CLA_SECURE, LENT_KEY, SERIAL_BYTES, WRITE_KEY
from schemas.suites import SuiteName

Result = TypeVar("Result")
EsamTrouble = Literal["missing", "removed", "wrong_serial", "unfit", "worn_out"]


class EsamUnavailable(ElementUnavailable):
    """The chip can't be used; `reason` is what the event says."""

    def __init__(self, reason: EsamTrouble, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class PackageRefused(Exception):
    """The chip did not take what was written for it; the challenge is used up."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"the ESAM refused it: {response.status.name} ({response.sw:04X})")
        self.response = response


class ChallengeOver(Exception):
    """Another challenge was drawn since, or the power went: the chip was given nothing."""


@dataclass(frozen=True)
class Loan:
    """What must be lent to bind a card: its transport key, for one version of one domain."""

    index: int
    version: int
    card_id: bytes
    transport_key: bytes = field(repr=False)


Lend = Callable[[bytes, bytes, Loan], Awaitable[bytes]]
"""Who holds the control key makes the data that lends it: serial, challenge, what."""


class Esam:
    """The chip with this serial; `trouble` is what keeps it from being used, as last seen."""

    def __init__(self, slot: EsamSlot, serial: bytes | None, domains: Sequence[str] = ()) -> None:
        """`domains` are at the places 1, 2, ... of the chip, in this order.

        Without a serial whatever ESAM is there is taken.
        """
        self.domains = tuple(domains)
        self.trouble: EsamUnavailable | None = None
        self.changed: Callable[[], None] = lambda: None
        """Called when `trouble` is another."""
        self.lend: Lend | None = None
        """Who lends it the transport keys of cards that are to be bound; None: nobody."""
        self.tables: dict[int, KeyTable] = {}
        """The key table at each place, as last seen."""
        self.keys_changed: Callable[[], None] = lambda: None
        """Called when a table is another than it was."""
        self._serial = serial
        self._slot = slot
        self._channel: EsamChannel | None = None
        self._suite: SuiteName | None = None
        self._known = False
        self._turn = asyncio.Lock()
        self._lending = asyncio.Lock()
        self._drawn: bytes | None = None
        """The challenge that the chip knows."""

    @property
    def serial(self) -> bytes:
        """8 bytes; zeros while any ESAM would do and none was seen."""
        return self._serial or bytes(SERIAL_BYTES)

    def index(self, domain: str) -> int:
        """The place of a domain on the chip. Raises ValueError."""
        return self.domains.index(domain) + 1

    async def state(self) -> State:
        """What the chip says of itself. Raises EsamUnavailable."""

        async def ask(channel: EsamChannel) -> State:
            command = Command(layout.CLA_COS, esam_layout.GET_DATA, esam_layout.STATE, 0, le=256)
            return State.decode((await self._ask(channel, command)).data)

        return await self._use(ask)

    async def look(self) -> None:
        """See whether it is there and takes keys; what is not well is in `trouble`.

        What keys it holds of its domains is in `tables` afterwards.
        """
        try:
            state = await self.state()
            for domain in self.domains:
                await self.table(domain)
        except EsamUnavailable:
            return
        if state.errors_left == 0:
            self._note(_worn_out())
        elif self.trouble is not None and self.trouble.reason == "unfit":
            self._note(None)

    async def table(self, domain: str) -> KeyTable:
        """Which keys the chip holds of a domain, by their check values. Raises EsamUnavailable."""
        return await self.table_at(self.index(domain))

    async def table_at(self, index: int) -> KeyTable:
        """The same by place."""

        async def ask(channel: EsamChannel) -> KeyTable:
            command = Command(
                layout.CLA_COS, esam_layout.GET_DATA, esam_layout.KEY_TABLE, index, le=256
            )
            return KeyTable.decode((await self._ask(channel, command)).data)

        table = await self._use(ask)
        if table != self.tables.get(index):
            self.tables[index] = table
            self.keys_changed()
        return table

    async def challenge(self) -> bytes:
        """A challenge for one package; it is forgotten at the next, and when the power goes.

        Who binds a card goes first: its holder waits. Raises EsamUnavailable.
        """
        async with self._lending:
            return await self._use(self._challenge)

    async def write(self, header: bytes, data: bytes, challenge: bytes) -> None:
        """Give the chip a package: CLA INS P1 P2 and data. It is never tried twice.

        One for another challenge than the chip's own would cost a try, and is not given. Raises
        ChallengeOver, PackageRefused or EsamUnavailable.
        """

        async def give(channel: EsamChannel) -> Response:
            if challenge != self._drawn:
                raise ChallengeOver("the ESAM has another challenge by now, or none")
            self._drawn = None
            return await self._ask(
                channel, Command(header[0], header[1], header[2], header[3], data)
            )

        self._accepted(await self._use(give, again=False))

    async def crypt(
        self, suite: SuiteName, chosen: Command, command: Command
    ) -> tuple[Response, Response | None]:
        """INIT FOR CRYPT, and CRYPT if that was done. Raises EsamUnavailable."""

        async def both(channel: EsamChannel) -> tuple[Response, Response | None]:
            if suite != self._suite:
                raise ElementUnavailable(
                    f"the ESAM is of suite {self._suite}, the domain of suite {suite}"
                )
            init = await self._ask(channel, chosen)
            return init, (await self._ask(channel, command)) if init.ok else None

        return await self._use(both)

    async def lend_key(self, loan: Loan) -> None:
        """Have the card's transport key lent to the chip. Raises ElementUnavailable."""
        if self.lend is None:
            raise ElementUnavailable(
                "an ESAM writes keys to a new card only with what the holder of its control key"
                " lends it; bind cards where that key is"
            )
        header = bytes((CLA_SECURE, WRITE_KEY, LENT_KEY, loan.version))
        try:
            async with self._lending:
                challenge = await self._use(self._challenge)
                data = await self.lend(self.serial, challenge, loan)
                await self.write(header, data, challenge)
        except (ChallengeOver, PackageRefused) as error:
            raise ElementUnavailable(f"the card's key was not lent: {error}") from None

    async def close(self) -> None:
        """Let go of the slot."""
        async with self._turn:
            self._channel = None
            await self._slot.close()

    async def _use(
        self, work: Callable[[EsamChannel], Awaitable[Result]], *, again: bool = True
    ) -> Result:
        async with self._turn:
            try:
                try:
                    result = await work(await self._connected())
                except CardRemoved:
                    self._channel = None
                    if not again:
                        raise
                    result = await work(await self._connected())
            except CardRemoved as error:
                self._channel = None
                raise self._noted("removed", f"the ESAM was taken out: {error}") from None
            except SlotEmpty as error:
                self._channel = None
                raise self._noted("removed" if self._known else "missing", str(error)) from None
            except MalformedApdu as error:
                self._channel = None
                raise self._noted("unfit", f"the chip is no ESAM of ours: {error}") from None
        if self.trouble is not None and self.trouble.reason not in _SEEN_BY_LOOKING:
            self._note(None)
        return result

    async def _connected(self) -> EsamChannel:
        if self._channel is not None:
            return self._channel
        self._drawn = None
        channel = await self._slot.connect()
        aid = esam_layout.AID
        selected = await self._ask(
            channel, Command(layout.CLA_ISO, layout.SELECT, 0x04, 0x00, aid, le=256)
        )
        if not selected.ok:
            raise MalformedApdu(f"it refuses to be selected ({selected.sw:04X})")
        identity = Identity.decode(selected.data)
        if self._serial is None:
            self._serial = identity.serial
        if identity.serial != self._serial:
            raise self._noted(
                "wrong_serial",
                f"the ESAM in the slot is {identity.serial.hex()}, and should be"
                f" {self._serial.hex()}",
            )
        self._channel, self._suite, self._known = channel, identity.suite, True
        return channel

    async def _challenge(self, channel: EsamChannel) -> bytes:
        command = Command(layout.CLA_ISO, layout.GET_CHALLENGE, 0x00, 0x00, le=CHALLENGE_BYTES)
        answer = await self._ask(channel, command)
        if not answer.ok or len(answer.data) != CHALLENGE_BYTES:
            raise MalformedApdu(f"it gives no challenge ({answer.sw:04X})")
        self._drawn = answer.data
        return answer.data

    async def _ask(self, channel: EsamChannel, command: Command) -> Response:
        """The chip's answer, fetched where T=0 makes two exchanges of one (ISO/IEC 7816-3)."""
        answer = Response.decode(await channel.transmit(command.encode()))
        if answer.sw >> 8 == _WRONG_LE and not answer.data:
            le = answer.sw & 0xFF or 256
            fixed = Command(command.cla, command.ins, command.p1, command.p2, command.data, le)
            answer = Response.decode(await channel.transmit(fixed.encode()))
        data = b""
        while answer.sw >> 8 == _MORE:
            data += answer.data
            fetch = Command(layout.CLA_ISO, _GET_RESPONSE, 0, 0, le=answer.sw & 0xFF or 256)
            answer = Response.decode(await channel.transmit(fetch.encode()))
            if not answer.data or len(data) + len(answer.data) > MAX_LE:
                raise MalformedApdu("it announces an answer and does not give it")
        return Response(data + answer.data, answer.sw)

    def _accepted(self, answer: Response) -> None:
        if answer.ok:
            return
        if answer.status in (StatusWord.BLOCKED, StatusWord.MEMORY_FAILURE):
            error = _worn_out()
            self._note(error)
            raise error
        raise PackageRefused(answer)

    def _noted(self, reason: EsamTrouble, detail: str) -> EsamUnavailable:
        error = EsamUnavailable(reason, detail)
        self._note(error)
        return error

    def _note(self, trouble: EsamUnavailable | None) -> None:
        before, self.trouble = self.trouble, trouble
        if (before and before.reason) != (trouble and trouble.reason):
            self.changed()


_SEEN_BY_LOOKING = ("unfit", "worn_out")
"""One answer that makes sense does not end these."""
_WRONG_LE, _MORE, _GET_RESPONSE = 0x6C, 0x61, 0xC0


def _worn_out() -> EsamUnavailable:
    return EsamUnavailable(
        "worn_out", "the ESAM takes no more keys; what it holds still works. Replace it"
    )
