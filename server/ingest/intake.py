"""The bounded queue between the broker and verification."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple


class Message(NamedTuple):
    """What the broker handed over: hostile until verified."""

    topic: str
    payload: bytes


class Intake:
    """Messages in order of arrival; what finds it full is dropped and will be sent again.

    An agent has at most 1,024 lines on the way and repeats what is not acknowledged, so dropping
    costs time, never events; queueing without bound would cost the server.
    """

    def __init__(self, max_messages: int = 16_384, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._messages)

    def offer(self, message: Message) -> bool:
        """Whether there was room for it. Never waits."""
        size = _size(message)
        if (
            self._closed
            or len(self._messages) >= self._max_messages
            or self._bytes + size > self._max_bytes
        ):
            return False
        self._messages.append(message)
        self._bytes += size
        self._wake.set()
        return True

    def close(self) -> None:
        """Take nothing more in; `take` gives what is left and then nothing."""
        self._closed = True
        self._wake.set()

    async def take(self, limit: int, max_bytes: int) -> list[Message]:
        """The oldest messages: at least one, at most `limit`, and none beyond `max_bytes` in all.

        Empty once closed and all is taken.
        """
        while not self._messages and not self._closed:
            self._wake.clear()
            await self._wake.wait()
        taken: list[Message] = []
        size = 0
        while self._messages and len(taken) < limit and size < max_bytes:
            taken.append(self._messages.popleft())
            size += _size(taken[-1])
        self._bytes -= size
        return taken


def _size(message: Message) -> int:
    return len(message.topic) + len(message.payload)  # a topic alone may have 64 KiB
