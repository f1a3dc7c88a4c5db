"""A reader behind PC/SC (pcscd on Linux), through pyscard.

PC/SC calls block, so they all run on one named thread; while no card is there that thread waits
inside pcscd, which wakes it when a reader or a card comes or goes. PC/SC has no common way to light
a lamp on a reader, so feedback is only logged.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from edge_agent.clock import Clock
from edge_agent.log import log
from edge_agent.readers.port import CardRemoved, Feedback, ReaderUnavailable

Result = TypeVar("Result")

PNP = "\\\\?PnP?\\Notification"
"""The reader name that stands for readers coming and going (pcsclite)."""
WAIT_MS = 1000
"""The longest wait in pcscd: how late a cancellation that raced with a wait can be noticed."""

COUNTER_BITS = 16
"""Above these bits of a reader's state pcsclite counts its insertions and removals."""


@dataclass(frozen=True)
class _Connection:
    handle: Any
    protocol: int


class PcscCardChannel:
    """A card in a PC/SC reader."""

    def __init__(self, reader: PcscReader, connection: _Connection, entered: float) -> None:
        self._reader = reader
        self._connection = connection
        self._entered = entered

    @property
    def entered(self) -> float:
        """When pcscd told of the card."""
        return self._entered

    async def transmit(self, apdu: bytes) -> bytes:
        """The card's answer. Raises CardRemoved, also for a reader that was pulled out."""
        return await self._reader.on_thread(self._reader.transmit, self._connection, apdu)


class PcscReader:
    """The first reader whose name contains `name`, whenever it is plugged in."""

    def __init__(self, name: str, clock: Clock) -> None:
        """Raises ReaderUnavailable if pyscard is not installed."""
        self._scard = _load_scard()
        self._name = name
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"pcsc-{name}")
        self._context: Any = None
        self._connection: _Connection | None = None
        self._stop_waiting = threading.Event()
        self._given: int | None = None
        """pcscd's count of insertions and removals when this reader's card was given out."""

    async def next_card(self) -> PcscCardChannel:
        """The next card to enter the field. Raises ReaderUnavailable if pcscd can't be used."""
        self._stop_waiting = threading.Event()  # one a call: an older wait stays stopped
        try:
            found = await self.on_thread(self._wait_for_card, self._stop_waiting)
        except asyncio.CancelledError:
            self._wake()
            raise
        if found is None:
            raise ReaderUnavailable(f"reader {self._name!r} was closed")
        connection, entered, self._given = found  # set here: a card that was never handed over
        return PcscCardChannel(self, connection, entered)  # because of a cancellation comes again

    async def card_now(self) -> PcscCardChannel | None:
        """The card that is there now, whether it was given out before or not.

        A channel given out before is worth nothing after. Raises ReaderUnavailable.
        """
        found = await self.on_thread(self._connect_now)
        return None if found is None else PcscCardChannel(self, *found)

    async def feedback(self, feedback: Feedback) -> bool:
        """Log it: PC/SC readers show nothing that all of them understand."""
        log.debug("reader_feedback", reader=self._name, feedback=feedback.value)
        return False

    async def close(self) -> None:
        """Release the card and pcscd, and end the thread."""
        self._wake()
        await self.on_thread(self._release)
        self._thread.shutdown(wait=False)

    async def on_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run `function` on the reader's own thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, functools.partial(function, *arguments))

    def _wake(self) -> None:
        self._stop_waiting.set()
        if self._context is not None:
            self._scard.SCardCancel(self._context)

    # What follows runs on the reader's thread.

    def transmit(self, connection: _Connection, apdu: bytes) -> bytes:
        """One APDU there and back."""
        if connection is not self._connection:
            raise CardRemoved("the card was taken away")
        protocol = (
            self._scard.SCARD_PCI_T0
            if connection.protocol == self._scard.SCARD_PROTOCOL_T0
            else self._scard.SCARD_PCI_T1
        )
        code, answer = self._scard.SCardTransmit(connection.handle, protocol, list(apdu))
        if code != self._scard.SCARD_S_SUCCESS or not answer:  # some drivers call nothing a success
            self._disconnect()
            raise CardRemoved(f"the card is gone: {self._scard.SCardGetErrorMessage(code)}")
        return bytes(answer)

    def _wait_for_card(self, stopped: threading.Event) -> tuple[_Connection, float, int] | None:
        self._disconnect()
        context = self._establish()
        while not stopped.is_set():
            reader, state = self._find_reader(context)
            watched = [(PNP, self._scard.SCARD_STATE_UNAWARE)]
            if reader is None or not state & self._scard.SCARD_STATE_PRESENT:
                self._given = None
            elif state >> COUNTER_BITS != self._given:
                entered = self._clock.monotonic()
                connection = self._connect(context, reader)
                if connection is not None:
                    return connection, entered, state >> COUNTER_BITS
                self._given = state >> COUNTER_BITS
            if reader is not None:
                watched.append((reader, state))
            self._wait(context, watched)
        return None

    def _connect_now(self) -> tuple[_Connection, float] | None:
        self._disconnect()
        context = self._establish()
        reader, state = self._find_reader(context)
        if reader is None or not state & self._scard.SCARD_STATE_PRESENT:
            return None
        connection = self._connect(context, reader)
        return None if connection is None else (connection, self._clock.monotonic())

    def _find_reader(self, context: Any) -> tuple[str | None, int]:
        """The reader and its state now, without waiting."""
        code, names = self._scard.SCardListReaders(context, [])
        if code == self._scard.SCARD_E_NO_READERS_AVAILABLE:
            return None, 0
        self._check(code, "list readers")
        for name in names:
            if self._name in name:
                states = self._wait(context, [(name, self._scard.SCARD_STATE_UNAWARE)], 0)
                return name, states[0] if states else 0
        return None, 0

    def _wait(
        self, context: Any, readers: list[tuple[str, int]], timeout_ms: int = WAIT_MS
    ) -> list[int]:
        """Wait until a reader's state differs from the one given; the states without CHANGED."""
        s = self._scard
        code, states = s.SCardGetStatusChange(context, timeout_ms, readers)
        if code in (s.SCARD_E_TIMEOUT, s.SCARD_E_CANCELLED, s.SCARD_E_UNKNOWN_READER):
            return []
        self._check(code, "wait for a card")
        return [state & ~s.SCARD_STATE_CHANGED for _, state, _ in states]

    def _connect(self, context: Any, reader: str) -> _Connection | None:
        s = self._scard
        code, handle, protocol = s.SCardConnect(
            context, reader, s.SCARD_SHARE_EXCLUSIVE, s.SCARD_PROTOCOL_T0 | s.SCARD_PROTOCOL_T1
        )
        if code != s.SCARD_S_SUCCESS:  # taken away again, mute, or in another program's hands
            log.info("card_not_connected", reader=reader, detail=s.SCardGetErrorMessage(code))
            return None
        self._connection = _Connection(handle, protocol)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            handle, self._connection = self._connection.handle, None
            # Fails if the card is gone already; then there is nothing to let go of. No reset: the
            # card is mostly just leaving, and a reset that fails so confuses pcscd about the slot.
            self._scard.SCardDisconnect(handle, self._scard.SCARD_LEAVE_CARD)

    def _establish(self) -> Any:
        s = self._scard
        if self._context is not None and s.SCardIsValidContext(self._context) != 0:
            self._release()
        if self._context is None:
            code, context = s.SCardEstablishContext(s.SCARD_SCOPE_USER)
            self._check(code, "reach pcscd")
            self._context = context
        return self._context

    def _release(self) -> None:
        self._disconnect()
        if self._context is not None:
            context, self._context = self._context, None
            self._given = None  # another pcscd counts anew
            self._scard.SCardReleaseContext(context)

    def _check(self, code: int, what: str) -> None:
        if code == self._scard.SCARD_S_SUCCESS:
            return
        self._release()
        raise ReaderUnavailable(
            f"PC/SC can't {what} for reader {self._name!r}:"
            f" {self._scard.SCardGetErrorMessage(code)}. Is pcscd installed and running"
            " (apt-get install pcscd; systemctl start pcscd)?"
        )


def _load_scard() -> ModuleType:
    try:
        return importlib.import_module("smartcard.scard")
    except ImportError as error:
        raise ReaderUnavailable(
            "PC/SC readers need pyscard, which is not installed: pip install 'ostiary[pcsc]'"
        ) from error
