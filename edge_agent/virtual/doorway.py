"""A Unix socket through which people outside the process meet an agent's virtual doors.

JSON lines, both ways. A client says `{"present": {"door": "front", "direction": "in"}}`, answers
each `{"apdu": "<hex>"}` with `{"response": "<hex>"}`, and ends with `{"remove": true}`. A card may
be asked at the very moment it is taken away: so `present` may number it by `"card": 7`, which its
commands then have, and its responses should have; those of another card are let go. It moves a
contact by `{"door": "front", "contact": "open"}` and presses a button by `{"door": "front", "rex":
true}`. The agent says `{"ready": [...]}` on connect, then `{"feedback": "granted", "door":
"front"}` and `{"door": "front", "strike": "released"}` as they happen, to every client.

Whoever may open the socket stands at these doors: it has mode 0600. Doors with hardware are not
on it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge_agent.clock import Clock
from edge_agent.door_io.virtual import VirtualDoorIo
from edge_agent.readers.port import CardRemoved, Feedback
from edge_agent.readers.virtual import VirtualReader

MAX_LINE_BYTES = 8192
MAX_UNSENT_BYTES = 64 * 1024
MOST_CLIENTS = 16


class DoorwayError(Exception):
    """What a client said makes no sense; the message is told to it before it is dropped."""


@dataclass
class VirtualSide:
    """What the socket moves at one door."""

    readers: dict[str, VirtualReader] = field(default_factory=dict)
    """By direction."""
    io: VirtualDoorIo | None = None


class Doorway:
    """The socket and the virtual doors behind it. Use it as an async context manager."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._doors: dict[str, VirtualSide] = {}
        self._clients: set[_Client] = set()
        self._server: asyncio.Server | None = None

    def reader(self, door: str, direction: str) -> VirtualReader:
        """The reader to present cards to on one side of a door; a new one each time."""

        def tell(feedback: Feedback) -> None:
            self._say({"feedback": feedback.value, "door": door, "direction": direction})

        reader = VirtualReader(self._clock, tell)
        self._side(door).readers[direction] = reader
        return reader

    def door_io(self, door: str) -> VirtualDoorIo:
        """A door's virtual hardware; a new one each time."""
        io = VirtualDoorIo()
        io.watch = lambda released: self._say(
            {"door": door, "strike": "released" if released else "locked"}
        )
        self._side(door).io = io
        return io

    def _side(self, door: str) -> VirtualSide:
        return self._doors.setdefault(door, VirtualSide())

    async def __aenter__(self) -> Self:
        """Listen, if there is a virtual door. Raises OSError."""
        if self._doors:
            listener = _listen(self._path)
            self._server = await asyncio.start_unix_server(
                self._serve, sock=listener, limit=MAX_LINE_BYTES
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is None:
            return
        self._server.close()
        for client in self._clients:
            client.writer.close()
        await asyncio.gather(*(client.done.wait() for client in self._clients))
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(writer, self._doors)
        if len(self._clients) >= MOST_CLIENTS:
            writer.close()
            return
        self._clients.add(client)
        try:
            client.say({"ready": sorted(self._doors)})
            while line := await reader.readline():
                await client.heard(line)
        except DoorwayError as error:
            client.say({"error": str(error)})
        except ValueError:  # how StreamReader says that its limit is exceeded
            client.say({"error": f"a line is longer than {MAX_LINE_BYTES} bytes"})
        except OSError:
            pass  # the client is gone, which is all that it means
        finally:
            client.leave()
            self._clients.discard(client)
            writer.close()
            client.done.set()

    def _say(self, message: Mapping[str, Any]) -> None:
        for client in self._clients:
            client.say(message)


class _Client:
    """One connection: at most one card, held to one reader."""

    def __init__(self, writer: asyncio.StreamWriter, doors: Mapping[str, VirtualSide]) -> None:
        self.writer = writer
        self.done = asyncio.Event()
        self._doors = doors
        self._reader: VirtualReader | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._card: object = None

    def say(self, message: Mapping[str, Any]) -> None:
        if self.writer.is_closing():
            return
        if self.writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.writer.transport.abort()  # it does not listen
            return
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def heard(self, line: bytes) -> None:
        with suppress(ValueError, RecursionError):
            match json.loads(line):
                case {"present": {"door": str(door), **how}}:
                    return self._present(door, str(how.get("direction", "in")), how.get("card"))
                case {"response": str(response), **whose}:
                    return self._respond(bytes.fromhex(response), whose.get("card"))
                case {"remove": True}:
                    return self.leave()
                case {"door": str(door), "contact": "open" | "closed" as contact}:
                    return await self._io(door).put_contact(contact)
                case {"door": str(door), "rex": True}:
                    return await self._io(door).press_rex()
        raise DoorwayError("not a line of this protocol (docs/agent.md)")

    def leave(self) -> None:
        """Take the card away."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(CardRemoved("the card was taken away"))
        if self._reader is not None:
            self._reader.remove()
            self._reader = None

    def _present(self, door: str, direction: str, card: object) -> None:
        reader = self._doors[door].readers.get(direction) if door in self._doors else None
        if reader is None:
            raise DoorwayError(f"there is no virtual reader {direction!r} at door {door!r}")
        self.leave()
        self._reader, self._card = reader, card
        reader.present(self._exchange)

    async def _exchange(self, apdu: bytes) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        self.say({"apdu": apdu.hex()} | ({} if self._card is None else {"card": self._card}))
        return await self._answer

    def _respond(self, response: bytes, card: object) -> None:
        if card != self._card:
            return  # of one that is not there any more
        if self._answer is None or self._answer.done():
            raise DoorwayError("a response that nothing asked for")
        self._answer.set_result(response)

    def _io(self, door: str) -> VirtualDoorIo:
        io = self._doors[door].io if door in self._doors else None
        if io is None:
            raise DoorwayError(f"there is no virtual door {door!r}")
        return io


def _listen(path: Path) -> socket.socket:
    """A bound socket that was private before anyone could connect."""
    path.unlink(missing_ok=True)  # of a run that was killed; the state directory's lock is ours
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        listener.close()
        raise OSError(
            error.errno,
            f"the doorway socket can't be made ({error}); a path of at most 107 bytes is needed:"
            " choose a shorter state_dir",
            os.fspath(path),
        ) from error
    return listener
