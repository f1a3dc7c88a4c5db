"""One door at work: its readers, its hardware and its clock, around the pure parts in `core`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from edge_agent.config import Door
from edge_agent.core.decision import Direction
from edge_agent.core.door import (
    Cause,
    DoorState,
    Emit,
    Grant,
    Granted,
    Input,
    ModeSet,
    Output,
    Pulsed,
    SetStrike,
    Tick,
    heeds,
    initial,
    next_deadline,
    step,
)
from edge_agent.core.door_input import Contact
from edge_agent.core.mode_change import cause_of
from edge_agent.door_io.port import DoorIo
from edge_agent.house import House
from edge_agent.log import first_cause, log
from edge_agent.readers.port import CardRemoved, Feedback, Reader, ReaderUnavailable
from edge_agent.rekeying import Rekeying
from edge_agent.tap import Tap, TapOutcome
from edge_agent.window_tap import WindowTap
from edge_agent.windows import Windows
from schemas.event_data import Latency
from schemas.policy import DoorMode

READER_PAUSE_S = 2.0
RESTART_PAUSE_S = 2.0
MOST_LATENCIES = 64


Moved = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    pass


class DoorShut(Exception):
    """The door is blocked or locked down: no command lets anybody in until that has ended."""


class DoorTask:
    """Serves one door for ever; whatever goes wrong here stays here."""

    def __init__(self, door: Door, house: House, begin: asyncio.Event) -> None:
        self.name = door.door
        self.opened = asyncio.Event()
        """Set once the hardware was looked at, working or not."""
        self.changed: Callable[[], None] = lambda: None
        """Called after each change of contact or mode."""
        self.windows = Windows(door.door, house)
        """Those that operators opened here; they blink and end while it is served."""
        self._found: Contact = "unknown"
        """What the contact showed when the hardware was opened."""
        self._door = door
        self._house = house
        self._begin = begin
        self._io: DoorIo | None = None
        self._state: DoorState | None = None
        self._source: Cause = "policy"
        """What gave the mode in force."""
        self._readers: list[tuple[Direction, Reader]] = []
        self._fault: str | None = None
        self._broken: asyncio.Future[None] | None = None
        """Gets what failed outside the door's own tasks, and must end them."""
        self._moved = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._latencies: dict[str, Latency] = {}

    async def run(self) -> None:
        """Serve; after an unexpected error say so and start again."""
        while True:
            try:
                await self._serve()
            except* Exception as group:
                detail = first_cause(group)
                log.exception("door_failed", door=self.name, exc_info=detail)
                self._found = "fault"
                self.opened.set()
                self.changed()
                await self._begin.wait()
                await self._report_fault(f"{type(detail).__name__}: {detail}"[:500])
            await asyncio.sleep(RESTART_PAUSE_S)

    @property
    def contact(self) -> Contact:
        """What the contact shows; `fault` while the hardware fails."""
        if self._state is None:
            return self._found
        return self._state.contact if self.served else "fault"

    @property
    def mode(self) -> DoorMode:
        """The door's mode now. A door that is not served is never unlocked."""
        if self._state is not None and self.served:
            return self._state.mode
        mode = self._house.mode(self.name).mode
        return DoorMode.LOCKED if mode is DoorMode.UNLOCKED else mode

    @property
    def served(self) -> bool:
        """Whether its hardware works, as far as is known."""
        return self._state is not None and self._broken is not None and not self._broken.done()

    async def look(self, moved: Moved = _nothing) -> bool:
        """Go by what is in force now; False if the door can't, and is being started again.

        One that is not being served yet looks when it is. `moved` is called after the strike was.
        """
        async with self._one_at_a_time:
            return await self._try(self._told, moved)

    async def pulse(self, moved: Moved) -> bool:
        """Release the strike for one passage, as `look`. Raises DoorShut."""
        async with self._one_at_a_time:
            if self._state is not None and not heeds(self._state, Pulsed()):
                raise DoorShut(f"door {self.name} is {self._state.set_mode}: end that first")
            return await self._try(Pulsed, moved)

    async def _try(self, input: Callable[[], Input], moved: Moved) -> bool:
        """What fails here ends this door's tasks, and no one else's."""
        try:
            return await self._step(input(), moved)
        except Exception as error:
            if self._broken is not None and not self._broken.done():
                self._broken.set_exception(error)
            return False

    def reads(self, direction: Direction | None) -> bool:
        """Whether cards are read on this side."""
        return any(each.direction == direction for each in self._door.readers)

    async def identify(self) -> bool:
        """Let the readers blink; whether there is one that can."""
        return any([await reader.feedback(Feedback.IDENTIFY) for _, reader in self._readers])

    async def _serve(self) -> None:
        recorder = self._house.recorder
        async with AsyncExitStack() as hardware:
            io = self._house.open_io(self._door)
            hardware.push_async_callback(io.close)
            self._readers = []
            for each in self._door.readers:
                reader = self._house.open_reader(self._door, each.direction)
                hardware.push_async_callback(reader.close)
                self._readers.append((each.direction, reader))
            # The last in is the first out: a reader that won't close must not hold the door open.
            hardware.push_async_callback(self._lock_up)
            self._found = io.contact()
            self.opened.set()
            await self._begin.wait()
            # Not before: until then a newer policy may be applied, and it alone is to count.
            async with self._one_at_a_time:
                now_s = recorder.clock.monotonic()
                self._io, told = io, self._told()
                self._broken = asyncio.get_running_loop().create_future()
                self._state, outputs = initial(told.settings, told.mode, self._found, now_s)
                await self._carry_out(outputs)
            self.changed()
            await self._report_recovery()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch_inputs(io))
                tasks.create_task(self._watch_time())
                tasks.create_task(_raise_from(self._broken))
                tasks.create_task(self.windows.run(self._show))
                for direction, reader in self._readers:
                    tasks.create_task(self._watch_reader(direction, reader))

    async def _show(self, direction: Direction, feedback: Feedback) -> None:
        for side, reader in self._readers:
            if side == direction:
                await reader.feedback(feedback)

    async def _lock_up(self) -> None:
        io, state = self._io, self._state
        self._io = self._state = None
        self._readers = []
        if io is not None and state is not None and state.released:
            await io.set_strike(False)

    async def _report_recovery(self) -> None:
        if self._fault is not None:
            recorder = self._house.recorder
            draft = recorder.about_door("door.fault.cleared", self.name, detail=self._fault)
            self._fault = None
            await recorder.record_soon([draft])

    async def _report_fault(self, detail: str) -> None:
        if self._fault is not None:
            return
        self._fault = detail
        recorder = self._house.recorder
        await recorder.record_soon([recorder.about_door("door.fault", self.name, detail=detail)])

    async def _watch_inputs(self, io: DoorIo) -> None:
        while True:
            await self._take(await io.next_input())

    async def _watch_time(self) -> None:
        while True:
            self._moved.clear()
            deadline = None if self._state is None else next_deadline(self._state)
            try:
                now_s = self._house.recorder.clock.monotonic()
                async with asyncio.timeout(None if deadline is None else max(0, deadline - now_s)):
                    await self._moved.wait()
            except TimeoutError:
                await self._take(Tick())

    async def _watch_reader(self, direction: Direction, reader: Reader) -> None:
        house = self._house
        tap, rekeying = Tap(self.name, direction, house), Rekeying(self.name, house)
        window_tap = WindowTap(self.name, direction, house, self.windows, reader)
        while True:
            try:
                card = await reader.next_card()
            except ReaderUnavailable as error:
                log.error("reader_unavailable", door=self.name, direction=direction, why=str(error))
                await self._report_fault(f"reader {direction}: {error}"[:500])
                await asyncio.sleep(READER_PAUSE_S)
                continue
            try:
                if await window_tap.take(card):
                    await self._report_recovery()
                    continue
                outcome = await tap.decide(card)
            except (CardRemoved, TimeoutError) as error:
                log.info("card_removed", door=self.name, direction=direction, why=str(error))
                await reader.feedback(Feedback.TRY_AGAIN)
                continue
            except Exception as error:
                # Whatever it is, it must not take the strike's clock and the exit button with it.
                log.exception("tap_failed", door=self.name, direction=direction)
                await reader.feedback(Feedback.ERROR)
                detail = f"reader {direction}: {type(error).__name__}: {error}"[:500]
                await self._report_fault(detail)
                continue
            await self._report_recovery()
            passed = False
            if outcome.grant is None:
                await reader.feedback(outcome.feedback)
            else:
                passed = await self._let_pass(outcome, outcome.grant, direction, reader)
            log.info(
                "decided",
                door=self.name,
                direction=direction,
                granted=outcome.grant is not None,
                reason=outcome.reason,
                tap_to_decision_ms=outcome.decision_ms,
                event_id=outcome.event_id,
            )
            if passed and outcome.lacks is not None:
                await rekeying.give(card, outcome.lacks)

    async def _let_pass(
        self, outcome: TapOutcome, grant: Grant, direction: Direction, reader: Reader
    ) -> bool:
        """Whether the strike was moved for it."""
        granted = Granted(grant, outcome.entered_s, leaving=direction == "out")
        heeded = False

        async def strike_moved() -> None:
            nonlocal heeded
            heeded = True
            strike_ms = (self._house.recorder.clock.monotonic() - outcome.entered_s) * 1000
            self._latencies[grant.id] = Latency(
                decision=outcome.decision_ms, strike=round(strike_ms, 3)
            )
            await reader.feedback(outcome.feedback)
            log.info(
                "strike_released",
                door=self.name,
                grant=grant.id,
                tap_to_strike_ms=round(strike_ms, 3),
            )

        self._latencies[grant.id] = Latency(decision=outcome.decision_ms)
        while len(self._latencies) > MOST_LATENCIES:
            del self._latencies[next(iter(self._latencies))]
        await self._take(granted, strike_moved)
        if not heeded:  # shut since the card was held up, or being started again
            await reader.feedback(Feedback.DENIED)
        return heeded

    async def _take(self, input: Input, moved: Moved = _nothing) -> None:
        async with self._one_at_a_time:
            await self._step(input, moved)

    async def _step(self, input: Input, moved: Moved) -> bool:
        """Call it one at a time; False where the door is being started again, and locked."""
        if self._state is None:
            return False
        if isinstance(input, Granted) and not heeds(self._state, input):
            moved = _nothing
        now_s, before = self._house.recorder.clock.monotonic(), self._state
        self._state, outputs = step(before, input, now_s)
        self._moved.set()
        if (self._state.mode, self._state.contact) != (before.mode, before.contact):
            self.changed()
        await self._carry_out(outputs, moved)
        return True

    async def _carry_out(self, outputs: Sequence[Output], moved: Moved = _nothing) -> None:
        """The strike first. A disk that hangs must not hold what the door does next."""
        for output in outputs:
            if isinstance(output, SetStrike) and self._io is not None:
                await self._io.set_strike(output.released)
        await moved()
        recorder = self._house.recorder
        drafts = [
            recorder.about_door(output.name, self.name, **self._data(output))
            for output in outputs
            if isinstance(output, Emit)
        ]
        await recorder.record_soon(drafts)

    def _data(self, output: Emit) -> dict[str, Any]:
        if output.grant is None:
            return output.data
        return {**output.data, "latency_ms": self._latencies[output.grant.id]}

    def _told(self) -> ModeSet:
        """What is in force now, and why it is another than before."""
        ruling = self._house.mode(self.name)
        cause, self._source = cause_of(self._source, ruling.source), ruling.source
        return ModeSet(ruling.settings, ruling.mode, cause)


async def _raise_from(broken: asyncio.Future[None]) -> None:
    await broken
