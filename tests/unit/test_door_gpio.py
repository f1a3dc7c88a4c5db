"""The GPIO adapter against a stand-in for gpiod 2.x; no real line was ever driven."""

import asyncio
import os
import sys
import types
from dataclasses import dataclass, field
from enum import Enum

import pytest

from edge_agent.core.door_input import ContactClosed, ContactOpened, RexPressed
from edge_agent.door_io.gpio import GpioDoorIo, GpioUnavailable


class Value(Enum):
    INACTIVE = 0
    ACTIVE = 1


class EventType(Enum):
    RISING_EDGE = 1
    FALLING_EDGE = 2


@dataclass
class Event:
    line_offset: int
    event_type: EventType


@dataclass
class Request:
    settings: dict
    values: dict
    released: bool = False
    events: list = field(default_factory=list)
    broken: bool = False

    def __post_init__(self):
        self.fd, self._bell = os.pipe()

    def ring(self, *events):
        self.events += events
        os.write(self._bell, b"!")

    def read_edge_events(self):
        os.read(self.fd, 1)
        if self.broken:
            raise OSError(19, "No such device")
        events, self.events = self.events, []
        return events

    def get_value(self, line):
        return self.values[line]

    def set_value(self, line, value):
        self.values[line] = value

    def release(self):
        self.released = True
        os.close(self.fd)
        os.close(self._bell)


@pytest.fixture
def chip(monkeypatch):
    """Every request made of the stand-in, by its lines."""
    requests: dict[tuple[int, ...], Request] = {}
    gpiod = types.ModuleType("gpiod")
    gpiod.line = types.ModuleType("gpiod.line")
    gpiod.line.Value = Value
    gpiod.line.Direction = Enum("Direction", ["INPUT", "OUTPUT"])
    gpiod.line.Edge = Enum("Edge", ["RISING", "BOTH"])
    gpiod.line.Bias = Enum("Bias", ["PULL_UP"])
    gpiod.LineSettings = lambda **settings: settings
    gpiod.EdgeEvent = types.SimpleNamespace(Type=EventType)

    def request_lines(path, *, consumer, config):
        if path == "/dev/none":
            raise FileNotFoundError(2, "No such file")
        values = dict.fromkeys(config, Value.INACTIVE)
        requests[tuple(config)] = Request(config, values)
        return requests[tuple(config)]

    gpiod.request_lines = request_lines
    monkeypatch.setitem(sys.modules, "gpiod", gpiod)
    monkeypatch.setitem(sys.modules, "gpiod.line", gpiod.line)
    return requests


def open_door(chip="/dev/gpiochip0", contact=27, rex=22):
    return GpioDoorIo(
        chip, strike=17, contact=contact, rex=rex, contact_open_high=True, debounce_ms=20
    )


async def test_opening_the_hardware_leaves_the_strike_locked(chip):
    io = open_door()
    assert chip[17,].settings[17]["output_value"] is Value.INACTIVE
    assert io.contact() == "closed"
    await io.set_strike(True)
    assert chip[17,].values[17] is Value.ACTIVE
    await io.close()
    assert chip[17,].values[17] is Value.INACTIVE
    assert chip[17,].released
    assert chip[27, 22].released


async def test_edges_become_what_they_mean(chip):
    io = open_door()
    chip[27, 22].ring(
        Event(27, EventType.RISING_EDGE),
        Event(22, EventType.RISING_EDGE),
        Event(27, EventType.FALLING_EDGE),
    )
    seen = [await io.next_input() for _ in range(3)]
    assert seen == [ContactOpened(), RexPressed(), ContactClosed()]
    chip[27, 22].values[27] = Value.ACTIVE
    assert io.contact() == "open"
    await io.close()


async def test_a_door_may_have_neither_contact_nor_button(chip):
    io = open_door(contact=None, rex=None)
    assert io.contact() == "unknown"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await io.next_input()
    await io.close()


async def test_lines_that_fail_are_an_error_and_not_silence(chip):
    io = open_door()
    chip[27, 22].broken = True
    chip[27, 22].ring()
    with pytest.raises(OSError, match="No such device"):
        await io.next_input()
    await io.close()


async def test_a_chip_that_is_not_there_is_named(chip):
    with pytest.raises(GpioUnavailable, match=r"lines 17 of /dev/none .*gpioinfo"):
        open_door(chip="/dev/none")


async def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gpiod", None)
    with pytest.raises(GpioUnavailable, match=r"ostiary\[gpio\]"):
        open_door()
