"""Signed event messages, made beforehand and then published as fast as a broker takes them.

Runs as a process of its own, so that making load does not slow what is measured:
`python -m benchmarks.load DIR PORT` reads the messages that `prepare` wrote and publishes them.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from schemas.chain import EVENTS_TYPE, Head, compose_line, join_lines
from schemas.envelope import Signer, seal_envelope
from schemas.events import agent_source, event_type
from schemas.suites import PublicKey, Suite, SuiteName, suite
from schemas.topics import EVENTS, up

SITE = "bench"


@dataclass(frozen=True)
class Load:
    """Messages of several agents, ready to publish."""

    suite: Suite
    keys: dict[str, PublicKey]
    """By agent."""
    messages: dict[str, list[bytes]]
    """Agent -> its envelopes in order."""
    events: int


def prepare(name: SuiteName, agents: int, messages: int, lines: int) -> Load:
    """`messages` envelopes of `lines` event lines for each of `agents` agents."""
    algorithms = suite(name)
    keys, sealed = {}, {}
    for number in range(agents):
        agent = f"agent-{number}"
        signer = Signer.of(algorithms.generate(secrets.token_bytes))
        keys[agent] = signer.key.public
        head = Head(secrets.token_hex(8))
        envelopes = []
        for _ in range(messages):
            batch = []
            for _ in range(lines):
                line, head = compose_line(
                    head,
                    algorithms.digest,
                    source=agent_source(SITE, agent),
                    type=event_type("access.denied"),
                    subject=f"doors/door-{number}",
                    time=datetime.now(UTC),
                    data=_data(f"door-{number}"),
                )
                batch.append(line)
            envelopes.append(seal_envelope(EVENTS_TYPE, join_lines(batch), [signer]))
        sealed[agent] = envelopes
    return Load(algorithms, keys, sealed, agents * messages * lines)


def _data(door: str) -> dict[str, object]:
    return {
        "door": door,
        "clock": {"status": "synced"},
        "direction": "in",
        "card": secrets.token_hex(8),
        "person": "somebody",
        "domain": door,
        "method": "card",
        "decided_by": "edge",
        "policy_version": 1,
        "policy_age_s": 12.5,
        "latency_ms": {"decision": 3.21},
        "reason": "no_rule",
    }


def write(load: Load, folder: Path) -> None:
    """Keep the messages for the publishing process: length-prefixed, one file an agent."""
    folder.mkdir(parents=True, exist_ok=True)
    for agent, envelopes in load.messages.items():
        with (folder / f"{agent}.load").open("wb") as file:
            for envelope in envelopes:
                file.write(struct.pack(">I", len(envelope)) + envelope)


def _read(path: Path) -> Iterator[bytes]:
    data, at = path.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


async def _publish_all(paths: list[Path], port: int) -> None:
    async with asyncio.TaskGroup() as agents:
        for path in paths:
            agents.create_task(_publish(path.stem, list(_read(path)), port))


async def _publish(agent: str, envelopes: list[bytes], port: int) -> None:
    """Write everything to the broker as fast as it reads, then wait for the last PUBACK.

    The packets are written by hand (MQTT 3.1.1, 3.1 and 3.3), since a client library would need
    more of the machine than what is measured.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x3c" + _text(f"load-{agent}")))
    await reader.readexactly(4)  # CONNACK
    topic = _text(up(SITE, agent, EVENTS))

    async def acknowledged() -> None:
        for _ in envelopes:
            await reader.readexactly(4)  # PUBACK

    async with asyncio.TaskGroup() as group:
        group.create_task(acknowledged())
        for number, envelope in enumerate(envelopes):
            writer.write(_packet(0x32, topic + struct.pack(">H", number % 65535 + 1) + envelope))
            await writer.drain()
    writer.close()
    await writer.wait_closed()


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()


def _packet(kind: int, body: bytes) -> bytes:
    length, encoded = len(body), bytearray()
    while True:  # 2.2.3: seven bits a byte, the eighth says that more follow
        length, low = divmod(length, 128)
        encoded.append(low | (0x80 if length else 0))
        if not length:
            return bytes([kind]) + bytes(encoded) + body


if __name__ == "__main__":
    asyncio.run(_publish_all(sorted(Path(sys.argv[1]).glob("*.load")), int(sys.argv[2])))
