"""Carries out commands. What comes here is verified, in time, of this session, and counted.

A command is done once or not at all: its counter is durable before, so a crash in between leaves it
undone. Each ends in a signed event that names it; one that is refused moves no strike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from edge_agent.core.door_mode import Override
from edge_agent.door_task import DoorShut, DoorTask, Moved
from edge_agent.house import House
from edge_agent.log import log
from schemas.command import Action, Command
from schemas.policy import DoorMode

EXIT_TO_RESTART = 75
"""How the process ends for `reboot`: not in failure, but to be started again (EX_TEMPFAIL)."""


_KEPT = (Action.LOCK, Action.BLOCK, Action.NORMAL)
"""What these set or end is durable with their counter, and in force."""


class NotDone(Exception):
    """Why a command was not carried out; its name is the reason in the result."""


class UnknownDoor(NotDone):
    """No door of this agent has that name."""


class Unsupported(NotDone):
    """The agent, or the hardware of the door, can't do that."""


class TooLate(NotDone):
    """The command ended while the disk counted it, or what it is to begin would be over already."""


class NotFresh(NotDone):
    """The server was not heard for too long, or the clock can't be trusted: nothing is unlocked."""


class NoReader(NotDone):
    """The door has no reader on that side."""


class Failed(NotDone):
    """The door's hardware, or the disk, does not do it."""


class Commanding:
    """`restart` is to end the process in order, with EXIT_TO_RESTART."""

    def __init__(
        self, doors: Mapping[str, DoorTask], house: House, restart: Callable[[], None]
    ) -> None:
        self._doors = doors
        self._house = house
        self._restart = restart

    async def execute(self, command: Command) -> None:
        """Carry it out and record what came of it. Never raises."""
        try:
            acted = await self._act(command)
        except (NotDone, DoorShut) as refusal:
            await self._refused(command, type(refusal).__name__, str(refusal))
        except Exception as error:
            log.exception("command_failed", command=command.id, action=command.action)
            await self._refused(command, Failed.__name__, f"{type(error).__name__}: {error}")
        else:
            await self._executed(command, acted)

    async def _act(self, command: Command) -> datetime:
        """Do it; when it was done, as far as the clock knows. Raises NotDone or DoorShut."""
        acted = self._now()
        in_time = command.expires is None or acted < command.expires
        if not in_time and command.action not in _KEPT:  # it was when it came, but disks take long
            raise TooLate(f"it ended at {command.expires}, while the disk still counted it")

        async def moved() -> None:
            nonlocal acted
            acted = self._now()

        match command.action:
            case Action.PULSE:
                door = self._door(command)
                if not await door.pulse(moved):
                    raise _out_of_order(door)
            case Action.UNLOCK:
                await self._unlock(self._door(command), command.until, moved)
            case Action.LOCK | Action.BLOCK | Action.NORMAL:
                # The mode this sets or ends is durable already, together with the counter.
                await self._door(command).look(moved)
            case Action.IDENTIFY:
                door = self._door(command)
                if not door.served:
                    raise _out_of_order(door)
                if not await door.identify():
                    raise Unsupported(f"no reader of door {door.name} can blink or beep")
            case Action.REBOOT:
                pass  # as soon as that is recorded
            case Action.BINDING_WINDOW | Action.UNBINDING_WINDOW:
                await self._open_window(self._door(command), command)
        return acted

    def _now(self) -> datetime:
        return self._house.recorder.judge_time()[0]

    def _door(self, command: Command) -> DoorTask:
        door = None if command.door is None else self._doors.get(command.door)
        if door is None:
            raise UnknownDoor(
                f"this agent has no door {command.door}, only {', '.join(self._doors)}"
            )
        return door

    async def _unlock(self, door: DoorTask, until: datetime | None, moved: Moved) -> None:
        house, name = self._house, door.name
        if house.mode(name).mode is DoorMode.LOCKED_DOWN:
            raise DoorShut(f"door {name} is locked down: end that first")
        if until is None or until <= self._now():
            raise TooLate(f"door {name} was to be unlocked until {until}, which is past")
        if not house.in_time(name):
            raise NotFresh(f"door {name}: no recent word of the server, or no clock to trust")
        before = house.store.overrides.get(name)
        await house.store.set_override(name, Override(DoorMode.UNLOCKED, until))
        if not await door.look(moved):  # it must not come to be unlocked later
            await house.store.set_override(name, before)
            raise _out_of_order(door)

    async def _open_window(self, door: DoorTask, command: Command) -> None:
        house, name, until = self._house, door.name, command.until
        if not door.reads(command.direction):
            raise NoReader(f"door {name} has no reader in direction {command.direction}")
        mode = house.mode(name).mode
        if mode in (DoorMode.LOCKED_DOWN, DoorMode.BLOCKED):
            raise DoorShut(f"door {name} is {mode}: end that first")
        if until is None or until <= self._now():
            raise TooLate(f"the window at door {name} was to end at {until}, which is past")
        if not house.in_time(name):
            raise NotFresh(f"door {name}: no recent word of the server, or no clock to trust")
        if not door.served:
            raise _out_of_order(door)
        await door.windows.open(command)

    async def _executed(self, command: Command, acted: datetime) -> None:
        recorder = self._house.recorder
        latency_ms = None
        if recorder.judge_time()[1].status != "untrusted":  # server's and door's clocks may differ
            latency_ms = max(0.0, round((acted - command.issued).total_seconds() * 1000, 3))
        log.info("command_executed", latency_ms=latency_ms, **_named(command))
        result = recorder.about_agent("command.executed", latency_ms=latency_ms, **_named(command))
        await recorder.record_soon([result])
        if command.action is Action.REBOOT:
            self._restart()

    async def _refused(self, command: Command, reason: str, detail: str) -> None:
        log.warning("command_refused", reason=reason, detail=detail, **_named(command))
        recorder = self._house.recorder
        result = recorder.about_agent(
            "command.refused", reason=reason, detail=detail[:500], **_named(command)
        )
        await recorder.record_soon([result])


def _out_of_order(door: DoorTask) -> Failed:
    return Failed(f"the hardware of door {door.name} does not work at the moment")


def _named(command: Command) -> dict[str, Any]:
    return {"command": command.id, "action": command.action.value, "door": command.door}
