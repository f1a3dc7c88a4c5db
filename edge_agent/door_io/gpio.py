"""A door on GPIO lines, by libgpiod 2 (Linux character device, so no root is needed).

Wiring: the strike's relay on an output that is active when released, so a dead agent leaves it
locked; contact and exit button between line and ground, with the pull-up of the chip.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from edge_agent.core.door_input import Contact, ContactClosed, ContactOpened, DoorInput, RexPressed

CONSUMER = "ostiary-agent"
MOST_INPUTS = 256


class GpioUnavailable(OSError):
    """The gpiod package is missing, or a line can't be had; the message says what to do."""


class GpioDoorIo:
    """One door on the lines of one chip. `contact` and `rex` may be absent."""

    def __init__(
        self,
        chip: str,
        *,
        strike: int,
        contact: int | None,
        rex: int | None,
        contact_open_high: bool,
        debounce_ms: int,
    ) -> None:
        """Request the lines: the strike stays locked. Raises GpioUnavailable."""
        gpiod = self._gpiod = _import_gpiod()
        line = gpiod.line
        debounce = timedelta(milliseconds=debounce_ms)
        inputs: dict[int, Any] = {}
        if contact is not None:
            inputs[contact] = gpiod.LineSettings(
                direction=line.Direction.INPUT,
                edge_detection=line.Edge.BOTH,
                bias=line.Bias.PULL_UP,
                active_low=not contact_open_high,  # active means open
                debounce_period=debounce,
            )
        if rex is not None:
            inputs[rex] = gpiod.LineSettings(
                direction=line.Direction.INPUT,
                edge_detection=line.Edge.RISING,
                bias=line.Bias.PULL_UP,
                active_low=True,  # active means pressed: the button pulls the line to ground
                debounce_period=debounce,
            )
        self._strike, self._contact, self._rex = strike, contact, rex
        self._queue: asyncio.Queue[DoorInput | OSError] = asyncio.Queue(MOST_INPUTS)
        output = gpiod.LineSettings(
            direction=line.Direction.OUTPUT, output_value=line.Value.INACTIVE
        )
        self._output = self._request(chip, {strike: output})
        self._input: Any = None
        try:
            if inputs:
                self._input = self._request(chip, inputs)
                asyncio.get_running_loop().add_reader(self._input.fd, self._read)
        except BaseException:
            self._output.release()
            raise

    def _request(self, chip: str, lines: dict[int, Any]) -> Any:
        numbers = ", ".join(str(each) for each in lines)
        try:
            return self._gpiod.request_lines(chip, consumer=CONSUMER, config=lines)
        except (OSError, ValueError) as error:
            raise GpioUnavailable(
                f"lines {numbers} of {chip} can't be had: {error}. Check `gpioinfo`, that no other"
                " program holds them, and that the agent's user is in the group of the device"
            ) from error

    async def set_strike(self, released: bool) -> None:
        """Drive the relay; a register write, so it doesn't block."""
        value = self._gpiod.line.Value
        self._output.set_value(self._strike, value.ACTIVE if released else value.INACTIVE)

    def contact(self) -> Contact:
        """Read the line."""
        if self._contact is None:
            return "unknown"
        try:
            value = self._input.get_value(self._contact)
        except OSError:
            return "fault"
        return "open" if value is self._gpiod.line.Value.ACTIVE else "closed"

    async def next_input(self) -> DoorInput:
        """The next debounced edge. Raises OSError if the lines can't be read any more."""
        item = await self._queue.get()
        if isinstance(item, OSError):
            raise item
        return item

    def _read(self) -> None:
        try:
            events = self._input.read_edge_events()
        except OSError as error:
            asyncio.get_running_loop().remove_reader(self._input.fd)
            self._put(error)
            return
        for event in events:
            if event.line_offset == self._rex:
                self._put(RexPressed())
            elif event.event_type is self._gpiod.EdgeEvent.Type.RISING_EDGE:
                self._put(ContactOpened())
            else:
                self._put(ContactClosed())

    def _put(self, item: DoorInput | OSError) -> None:
        if self._queue.full():  # a chattering line: what the door is like now is what counts
            self._queue.get_nowait()
        self._queue.put_nowait(item)

    async def close(self) -> None:
        """Lock the strike, then release the lines."""
        try:
            await self.set_strike(False)
        finally:
            self._output.release()
            if self._input is not None:
                asyncio.get_running_loop().remove_reader(self._input.fd)
                self._input.release()


def _import_gpiod() -> Any:
    try:
        import gpiod
        import gpiod.line
    except ImportError as error:
        raise GpioUnavailable(
            "door_io.gpio needs the gpiod package (libgpiod 2): pip install 'ostiary[gpio]'"
        ) from error
    return gpiod
