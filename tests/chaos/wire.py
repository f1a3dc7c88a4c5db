"""A hostile broker in one process, behind the part of aiomqtt's client that both sides use.

It keeps retained messages, says the last will of who is gone, and now and then hands out something
old as if it had kept it.
"""

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
from paho.mqtt.enums import MQTTErrorCode

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
    hoard: float = 0.0
    """Old messages that are handed to a new subscriber as retained ones."""

    @classmethod
    def roll(cls, dice: Random) -> Weather:
        """Any mix, from a mild to a wild one."""
        worst = dice.choice((0.02, 0.1, 0.3))
        return cls(*(dice.random() * worst * dice.choice((0, 1, 1)) for _ in range(7)))


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
        self._seed = seed
        self._tally = tally
        self._dice: dict[str, Random] = {}
        self._seen: deque[tuple[str, bytes, bool]] = deque(maxlen=REMEMBERED)
        self._retained: dict[str, bytes] = {}

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
                if client.will is not None:
                    self._send_on(client.will, b"", 0.01)

    def forget(self) -> None:
        """Lose what is retained, as a broker without a disk does."""
        self._tally["retained messages forgotten"] += len(self._retained)
        self._retained.clear()

    def subscribed(self, client: Client, identifier: str) -> None:
        """Hand out what is retained, and what the weather adds."""
        dice = self.dice(identifier)
        for topic, payload in tuple(self._retained.items()):
            self._send_on(topic, payload, dice.random() * 0.02, to=client)
        while self._seen and self._rolled("replayed as retained", self.weather.hoard, dice):
            topic, payload, _ = self._seen[int(dice.random() * len(self._seen))]
            self._send_on(topic, payload, dice.random() * 5, to=client)

    def carry(self, sender: str, topic: str, payload: bytes, retain: bool) -> None:
        dice, weather = self.dice(sender), self.weather
        self._tally["messages"] += 1
        self._seen.append((topic, payload, retain))
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
            self._send_on(topic, payload, 0.002 + dice.random() * most_s, retain=retain)
        if self._rolled("replayed", weather.replay, dice):
            for _ in range(1 + int(dice.random() * 5)):
                old_topic, old, kept = self._seen[int(dice.random() * len(self._seen))]
                self._send_on(old_topic, old, dice.random() * 5, retain=kept)

    def _send_on(
        self,
        topic: str,
        payload: bytes,
        in_s: float,
        *,
        retain: bool = False,
        to: Client | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(in_s, self._deliver, topic, payload, retain, to)

    def _deliver(self, topic: str, payload: bytes, retain: bool, to: Client | None) -> None:
        if retain and not self.down:
            self._retained[topic] = payload
        # MQTT 3.1.1 3.3.1.3: the flag is for what was there before the subscription
        message = aiomqtt.Message(topic, payload, 1, to is not None, 0, None)
        for client in self.clients.values() if to is None else (to,):
            if any(message.topic.matches(each) for each in client.filters):
                client.take(message)

    def _rolled(self, what: str, odds: float, dice: Random) -> bool:
        if dice.random() >= odds:
            return False
        self._tally[what] += 1
        return True

    def _elsewhere(self, topic: str, dice: Random) -> str:
        others = [seen for seen, _, _ in self._seen if seen != topic]
        if others and dice.random() < 0.7:
            return others[int(dice.random() * len(others))]
        return up(topic.split("/")[1], "nobody", EVENTS)


class Client:
    """What both sides use of `aiomqtt.Client`."""

    pending_calls_threshold = 0

    def __init__(
        self,
        wire: Wire,
        *,
        identifier: str,
        will: aiomqtt.Will | None = None,
        queue_type: Any = asyncio.Queue,
        max_queued_incoming_messages: int = 0,
        **_: Any,
    ) -> None:
        self._client = _Below(self)
        self._pending_publishes: dict[int, asyncio.Event] = {}
        self.filters: list[str] = []
        self.gone = asyncio.Event()
        self.will = None if will is None else will.topic
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
            self.will = None  # said goodbye
            self._wire.break_off(self._identifier)

    async def subscribe(self, topic: str | list[tuple[str, int]], qos: int = 1) -> list[int]:
        await self._answer()
        wanted = [topic] if isinstance(topic, str) else [each for each, _ in topic]
        self.filters += wanted
        self._wire.subscribed(self, self._identifier)
        return [qos] * len(wanted)

    async def publish(self, topic: str, payload: bytes, qos: int, retain: bool = False) -> None:
        if self.gone.is_set():
            raise aiomqtt.MqttError("not connected")
        self._wire.carry(self._identifier, topic, payload, retain)
        await self._answer()

    def send(self, message: int, topic: str, payload: bytes, retain: bool) -> bool:
        """Carry a message and confirm it some time; False if there is no connection."""
        if self.gone.is_set():
            return False
        self._wire.carry(self._identifier, topic, payload, retain)
        asyncio.get_running_loop().call_later(self._answer_s(), self._confirm, message)
        return True

    def _confirm(self, message: int) -> None:
        told = self._pending_publishes.pop(message, None)
        if told is not None and not self.gone.is_set():
            told.set()

    def _answer_s(self) -> float:
        dice = self._wire.dice(self._identifier)
        return dice.random() * (ANSWER_S if dice.random() < self._wire.weather.delay else 0.01)

    async def _answer(self) -> None:
        try:
            async with asyncio.timeout(self._answer_s()):
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


class _Below:
    """Publishes; what `be_wary` and `in_bulk` change there are no packets here for."""

    def __init__(self, client: Client) -> None:
        self._owner = client
        self._messages = 0

    def __getattr__(self, name: str) -> None:
        if not name.startswith("_"):
            raise AttributeError(name)

    def publish(self, topic: str, payload: bytes, _qos: int, retain: bool) -> SimpleNamespace:
        self._messages += 1
        sent = self._owner.send(self._messages, topic, payload, retain)
        rc = MQTTErrorCode.MQTT_ERR_SUCCESS if sent else MQTTErrorCode.MQTT_ERR_NO_CONN
        return SimpleNamespace(rc=rc, mid=self._messages)


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
