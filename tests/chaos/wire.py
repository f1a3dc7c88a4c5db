"""A hostile broker in one process, behind the part of aiomqtt's client that both sides use."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any, Self

import aiomqtt

from schemas.topics import EVENTS, up

REMEMBERED = 300
ANSWER_S = 10.0


@dataclass(frozen=True)
class Weather:
    """How often the wire does what to a message."""

    lose: float = 0.0
    double: float = 0.0
    delay: float = 0.0
    corrupt: float = 0.0
    misdirect: float = 0.0
    replay: float = 0.0

    @classmethod
    def roll(cls, dice: Random) -> Weather:
        """Any mix, from a mild to a wild one."""
        worst = dice.choice((0.02, 0.1, 0.3))
        return cls(*(dice.random() * worst * dice.choice((0, 1, 1)) for _ in range(6)))


FINE = Weather()


class Wire:
    """Carries messages between the clients that are connected, as the weather has it."""

    def __init__(self, seed: str, tally: Counter[str]) -> None:
        self.weather = FINE
        self.down = False
        self.cut: set[str] = set()
        """Who can't connect."""
        self.unheard: set[str] = set()
        """Whose messages vanish though they are connected."""
        self.clients: dict[str, Client] = {}
        self.last_carried = 0.0
        self._seed = seed
        self._tally = tally
        self._dice: dict[str, Random] = {}
        self._seen: deque[tuple[str, bytes]] = deque(maxlen=REMEMBERED)

    def client(self, _host: str, _port: int = 0, **kwargs: Any) -> Client:
        """In place of `aiomqtt.Client`."""
        return Client(self, **kwargs)

    def dice(self, identifier: str) -> Random:
        """Each client has its own, so that what happens to one does not depend on the other."""
        return self._dice.setdefault(identifier, Random(f"{self._seed} {identifier}"))

    def refuses(self, identifier: str) -> bool:
        return self.down or identifier in self.cut

    def break_off(self, *identifiers: str) -> None:
        """End connections without a goodbye; without names, all."""
        for identifier in identifiers or tuple(self.clients):
            client = self.clients.pop(identifier, None)
            if client is not None:
                client.gone.set()

    def carry(self, sender: str, topic: str, payload: bytes) -> None:
        dice, weather = self.dice(sender), self.weather
        self.last_carried = asyncio.get_running_loop().time()
        self._tally["messages"] += 1
        self._seen.append((topic, payload))
        if sender in self.unheard or self._rolled("lost", weather.lose, dice):
            return
        copies = 2 + int(dice.random() * 3) if self._rolled("doubled", weather.double, dice) else 1
        if self._rolled("corrupted", weather.corrupt, dice):
            payload = _corrupted(payload, dice)
        if self._rolled("misdirected", weather.misdirect, dice):
            topic = self._elsewhere(topic, dice)
        for _ in range(copies):
            late = self._rolled("delayed", weather.delay, dice)
            most_s = 30 * dice.random() if late else 0.02
            self._send_on(topic, payload, 0.002 + dice.random() * most_s)
        if self._rolled("replayed", weather.replay, dice):
            for _ in range(1 + int(dice.random() * 5)):
                old = self._seen[int(dice.random() * len(self._seen))]
                self._send_on(*old, dice.random() * 5)

    def _send_on(self, topic: str, payload: bytes, in_s: float) -> None:
        asyncio.get_running_loop().call_later(in_s, self._deliver, topic, payload)

    def _deliver(self, topic: str, payload: bytes) -> None:
        message = aiomqtt.Message(topic, payload, 1, False, 0, None)
        for client in self.clients.values():
            if any(message.topic.matches(each) for each in client.filters):
                client.take(message)

    def _rolled(self, what: str, odds: float, dice: Random) -> bool:
        if dice.random() >= odds:
            return False
        self._tally[what] += 1
        return True

    def _elsewhere(self, topic: str, dice: Random) -> str:
        others = [seen for seen, _ in self._seen if seen != topic]
        if others and dice.random() < 0.7:
            return others[int(dice.random() * len(others))]
        return up(topic.split("/")[1], "nobody", EVENTS)


class Client:
    """What both sides use of `aiomqtt.Client`."""

    pending_calls_threshold = 0
    _client = SimpleNamespace(_sock_recv=None, _packet_handle=None)
    """What `be_wary` guards; there are no packets here."""

    def __init__(
        self,
        wire: Wire,
        *,
        identifier: str,
        queue_type: Any = asyncio.Queue,
        max_queued_incoming_messages: int = 0,
        **_: Any,
    ) -> None:
        self.filters: list[str] = []
        self.gone = asyncio.Event()
        self._wire = wire
        self._identifier = identifier
        self._queue: asyncio.Queue[aiomqtt.Message] = queue_type(max_queued_incoming_messages)

    async def __aenter__(self) -> Self:
        wire = self._wire
        await asyncio.sleep(wire.dice(self._identifier).random() * 0.05)
        if wire.refuses(self._identifier):
            raise aiomqtt.MqttError("connection refused")
        wire.break_off(self._identifier)
        wire.clients[self._identifier] = self
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._wire.clients.get(self._identifier) is self:
            self._wire.break_off(self._identifier)

    async def subscribe(self, topic: str | list[tuple[str, int]], qos: int = 1) -> list[int]:
        await self._answer()
        wanted = [topic] if isinstance(topic, str) else [each for each, _ in topic]
        self.filters += wanted
        return [qos] * len(wanted)

    async def publish(self, topic: str, payload: bytes, qos: int, retain: bool = False) -> None:
        if self.gone.is_set():
            raise aiomqtt.MqttError("not connected")
        self._wire.carry(self._identifier, topic, payload)
        await self._answer()

    async def _answer(self) -> None:
        dice = self._wire.dice(self._identifier)
        wait_s = dice.random() * (ANSWER_S if dice.random() < self._wire.weather.delay else 0.01)
        try:
            async with asyncio.timeout(wait_s):
                await self.gone.wait()
        except TimeoutError:
            return
        raise aiomqtt.MqttError("disconnected")

    @property
    def messages(self) -> AsyncIterator[aiomqtt.Message]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[aiomqtt.Message]:
        gone = asyncio.ensure_future(self.gone.wait())
        try:
            while True:
                message = asyncio.ensure_future(self._queue.get())
                try:
                    await asyncio.wait({gone, message}, return_when=asyncio.FIRST_COMPLETED)
                    if not message.done():
                        raise aiomqtt.MqttError("disconnected")
                    yield message.result()
                finally:
                    message.cancel()
        finally:
            gone.cancel()

    def take(self, message: aiomqtt.Message) -> None:
        with contextlib.suppress(asyncio.QueueFull):  # aiomqtt drops it too
            self._queue.put_nowait(message)


def _corrupted(payload: bytes, dice: Random) -> bytes:
    place = int(dice.random() * len(payload))
    match int(dice.random() * 3):
        case 0:
            return payload[:place]
        case 1:
            flipped = bytes([payload[place] ^ 1 << int(dice.random() * 8)])
            return payload[:place] + flipped + payload[place + 1 :]
        case _:
            return bytes(int(dice.random() * 256) for _ in range(40))
