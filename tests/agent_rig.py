"""An agent in its own process, a site to belong to, and a server that takes, signs and tells."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes
from typing import Any

import aiomqtt

from edge_agent.virtual.card_os import VirtualCard
from edge_agent.virtual.people import Doorway
from schemas.acknowledgement import Acknowledgement
from schemas.chain import EVENTS_TYPE, Head, Link, check_follows, split_lines
from schemas.command import Action
from schemas.envelope import TrustedKey, open_envelope
from schemas.events import event_name
from schemas.keys import KeyPackage, KeyRequest
from schemas.names import SERVER
from schemas.report import Pull, Report
from schemas.root import AGENT_PURPOSES
from schemas.statement import open_statement
from schemas.suites import SuiteName, suite
from schemas.topics import (
    ACKNOWLEDGEMENT,
    COMMAND,
    EVENTS,
    HEARTBEAT,
    KEYS,
    LOCKDOWN,
    POLICY,
    PULL,
    REPORT,
    REVOCATION,
    TRANSPORT,
    WILL,
    down,
    everyone,
    up,
)
from schemas.transport import TransportRequest
from tests.site_keys import SiteKeys
from tests.site_voice import ALL_WEEK, SiteVoice

SITE, AGENT, DOOR = "demo", "front-agent", "front"
PATIENCE_S = 30.0
"""How long a test waits for another process before it says that nothing comes."""


def card_id(number: int) -> str:
    return f"{number:016x}"


class Rig:
    """A site directory with one agent; every card is made and bound by `card`."""

    def __init__(self, folder: Path, suite_name: SuiteName, broker_port: int) -> None:
        self.folder = folder
        self.suite_name: SuiteName = suite_name
        self.suite = suite(suite_name)
        self.keys = SiteKeys(suite_name, SITE)
        self.voice = SiteVoice(self.keys, AGENT)
        self.config = folder / "agent.toml"
        self.broker_port = broker_port
        self.cards: dict[str, VirtualCard] = {}
        self.process: asyncio.subprocess.Process | None = None
        self.log: list[dict[str, Any]] = []
        self._logged = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        (folder / "root.json").write_bytes(self.keys.root_envelope)
        self.config.write_text(
            f'site = "{SITE}"\nagent = "{AGENT}"\nstate_dir = "state"\n'
            f"[broker]\nport = {broker_port}\ntls = false\n"
            f'[[doors]]\ndoor = "{DOOR}"\nio = {{ kind = "virtual" }}\n'
            'readers = [{ kind = "virtual", direction = "in" },'
            ' { kind = "virtual", direction = "out" }]\n'
        )

    def policy(self, **changes: Any) -> dict[str, Any]:
        """Everybody who has a card may pass at any time; what `new_policy` takes."""
        return {
            "doors": {
                DOOR: {
                    "domain": DOOR,
                    "suite": self.suite_name,
                    "strike_release_s": 10.0,
                    "max_response_ms": 5000,
                    "held_prealarm_s": 0.3,
                    "held_after_s": 0.6,
                }
            },
            "schedules": {
                "always": {"windows": [{"start": "00:00", "end": "24:00", "days": ALL_WEEK}]}
            },
            "rules": [{"group": "staff", "doors": [DOOR], "schedule": "always"}],
            "cards": [
                {"card": card, "person": f"p{card}", "groups": ["staff"], "domains": [DOOR]}
                for card in self.cards
            ],
            **changes,
        }

    def make_card(self, number: int) -> VirtualCard:
        card = VirtualCard(
            None, self.suite_name, bytes.fromhex(card_id(number)), bytes(16), token_bytes
        )
        self.cards[card_id(number)] = card
        return card

    async def command(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge_agent.cli", *arguments, "--config", str(self.config)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return output.decode()

    async def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(await self.command("status", "--json"))
        return status

    async def handed_over(self) -> None:
        """Wait until the agent knows that the server has everything."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self.status())["unacknowledged"]:
                pass  # each look is a process of its own, so this is no busy loop

    async def bind(self, *cards: VirtualCard, options: Sequence[str] = ()) -> None:
        """Through the command, as an installer would."""
        keys = self.folder / "keys.csv"
        rows = [f"{card.serial.hex()},{bytes(16).hex()}" for card in cards]
        keys.write_text("\n".join(["card,transport_key", *rows]))
        binding = asyncio.create_task(
            self.command(
                "bind", "--transport-keys", str(keys), "--count", str(len(cards)), *options
            )
        )
        try:
            await self.until(self.doorway().is_open, binding)
            async with self.doorway() as doorway:
                for card in cards:
                    assert await doorway.tap(card) == "bound"
            printed = await binding
        finally:
            binding.cancel()
        assert printed.split() == [card.serial.hex() for card in cards]

    async def until(self, ready: Any, busy: asyncio.Task[Any]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await ready():
                assert not busy.done(), busy
                await asyncio.sleep(0.02)  # another process makes a file: nothing tells us

    def doorway(self) -> Doorway:
        return Doorway(self.folder / "state" / "doorway.sock", DOOR)

    async def start(self, **environment: str) -> None:
        """Return when the agent says that it is ready."""
        self.log.clear()
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge_agent.cli", "run", "--config", str(self.config)),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **environment},
        )
        self._reading = asyncio.create_task(self._read_log(self.process))
        await self.logged("ready")

    async def _read_log(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            self.log.append(json.loads(line))
            self._logged.set()

    async def logged(self, event: str, **fields: Any) -> dict[str, Any]:
        """Wait for a line of the agent's log."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for line in self.log:
                    if {"event": event, **fields}.items() <= line.items():
                        return line
                assert self._reading is not None
                assert not self._reading.done(), self.log
                self._logged.clear()
                await self._logged.wait()

    async def end(self, number: signal.Signals) -> int:
        """Send the signal and wait for the end."""
        assert self.process is not None
        assert self._reading is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        code = await self.process.wait()
        await self._reading
        return code


class TakingServer:
    """Takes an agent's events, signs for what it has (go-back-N), and answers what it asks for."""

    def __init__(self, rig: Rig, identity: dict[str, str]) -> None:
        key = rig.suite.public_key(bytes.fromhex(identity["public_key"]))
        self._ring = {identity["keyid"]: TrustedKey(key, AGENT, AGENT_PURPOSES)}
        self._rig = rig
        self.voice = rig.voice
        self._head: Head | None = None
        self.events: list[Link] = []
        self.reports: list[Report] = []
        self.pulls: list[Pull] = []
        self.wills = 0
        self.messages = 0
        self.duplicates = 0
        self.acknowledging = True
        self.answering = True
        self.commands: list[bytes] = []
        """What was sent, for who would replay it."""
        self.key_requests: list[KeyRequest] = []
        self.package: Callable[[KeyRequest], KeyPackage | None] = lambda request: None
        """What is answered to a question for keys; nothing by default."""
        self.lend: Callable[[TransportRequest], bytes | None] = lambda request: None
        """What lends an ESAM the transport key of every card of the rig: zeros."""
        self._client: aiomqtt.Client | None = None
        self._heard = asyncio.Event()

    async def serve(self) -> None:
        """Until cancelled; a broker that dies is waited for."""
        while True:
            try:
                async with aiomqtt.Client(
                    "127.0.0.1", self._rig.broker_port, identifier="server", timeout=PATIENCE_S
                ) as client:
                    channels = (EVENTS, REPORT, PULL, KEYS, TRANSPORT, WILL)
                    await client.subscribe([(up(SITE, AGENT, each), 1) for each in channels])
                    self._client = client
                    if self._head is not None:
                        await self._acknowledge(resend=True)
                    await self.beat()
                    async for message in client.messages:
                        assert isinstance(message.payload, bytes)
                        await self._take(message.topic.value.rpartition("/")[2], message.payload)
                        self._heard.set()
            except (aiomqtt.MqttError, ConnectionError):
                await asyncio.sleep(0.05)
            finally:
                self._client = None

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Raises ConnectionError or MqttError."""
        if self._client is None:
            raise ConnectionError("the test's server has no broker")
        await self._client.publish(topic, payload, qos=1, retain=retain)
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # see edge_agent.link: it may be swallowed
            raise asyncio.CancelledError

    async def tell(self, channel: str, payload: bytes, *, retain: bool = False) -> None:
        """To the agent alone."""
        await self.publish(down(SITE, AGENT, channel), payload, retain=retain)

    async def beat(self) -> None:
        """The newest heartbeat, retained."""
        await self.tell(HEARTBEAT, self.voice.heartbeat(), retain=True)

    async def put_policy(self, **changes: Any) -> int:
        """The rig's policy with these changes, in force when `applied` says so; its version."""
        envelope = self.voice.new_policy(**self._rig.policy(**changes))
        await self.beat()
        await self.tell(POLICY, envelope)
        assert self.voice.policy is not None
        return self.voice.policy.counter

    async def applied(self, version: int) -> None:
        """Wait for the receipt of that policy."""
        await self.until(
            lambda: any(each["policy_version"] == version for each in self.named("policy.applied"))
        )

    async def revoke(self, subject: str, *arguments: Any) -> None:
        """One more entry, to all agents; returns when it is receipted."""
        await self.publish(everyone(SITE, REVOCATION), self.voice.revoke(subject, *arguments))
        sequence = self.voice.heads[-1].sequence
        await self.until(
            lambda: any(e["sequence"] >= sequence for e in self.named("revocation.applied"))
        )

    async def lock_down(self, *active: Any) -> None:
        """These lockdowns are in force, for all agents, and retained."""
        await self.publish(everyone(SITE, LOCKDOWN), self.voice.lock_down(*active), retain=True)

    async def command(self, action: Action, **changes: Any) -> None:
        """Tell the door, in the session that the newest report names."""
        session = self.reports[-1].session
        self.commands.append(self.voice.command(action, session, DOOR, **changes))
        await self.tell(COMMAND, self.commands[-1])

    async def _take(self, channel: str, payload: bytes) -> None:
        if channel == EVENTS:
            self._take_events(payload)
            await self._acknowledge()
        elif channel == REPORT:
            before = self.reports[-1].session if self.reports else None
            self.reports.append(self._open(payload, Report))
            if self.reports[-1].session != before:
                await self.beat()
        elif channel == PULL:
            self.pulls.append(self._open(payload, Pull))
            if self.answering:
                for answer, body in self.voice.answers(self.pulls[-1]):
                    await self.tell(answer, body)
        elif channel == KEYS:
            self.key_requests.append(self._open(payload, KeyRequest))
            package = self.package(self.key_requests[-1])
            if package is not None:
                await self.tell(KEYS, self._rig.keys.sign(package))
        elif channel == TRANSPORT:
            request = self._open(payload, TransportRequest)
            answer = self.voice.transport_key(request, bytes(16), loan=self.lend(request))
            await self.tell(TRANSPORT, answer)
        else:
            self.wills += 1

    def _open(self, envelope: bytes, model: Any) -> Any:
        now = datetime.now(UTC)
        return open_statement(envelope, model, self._ring, site=SITE, audience=SERVER, now=now)

    def _take_events(self, envelope: bytes) -> None:
        self.messages += 1
        payload = open_envelope(envelope, self._ring, EVENTS_TYPE).payload
        for link in split_lines(payload, self._rig.suite.digest):
            head = self._head or Head(link.event.chain)
            if link.event.number <= head.sequence:
                assert self.events[link.event.number - 1].line == link.line
                self.duplicates += 1
                continue
            if link.event.number > head.sequence + 1:
                return
            check_follows(head, link)
            self._head = Head(head.chain, link.event.number, link.hash)
            self.events.append(link)

    async def _acknowledge(self, *, resend: bool = False) -> None:
        if not self.acknowledging or self._head is None:
            return
        word = Acknowledgement(
            site=SITE,
            audience=AGENT,
            issued=datetime.now(UTC),
            counter=self._head.sequence,
            chain=self._head.chain,
            sequence=self._head.sequence,
            hash=self._head.hash,
            resend=resend,
        )
        await self.tell(ACKNOWLEDGEMENT, self._rig.keys.sign(word))

    def named(self, *names: str) -> list[dict[str, Any]]:
        """The data of the events of these names, in order."""
        return [link.event.data for link in self.events if event_name(link.event.type) in names]

    def refused(self, reason: str) -> list[dict[str, Any]]:
        """The data of the events that name this refusal."""
        rejected = self.named("statement.rejected", "policy.rejected")
        return [each for each in rejected if each["reason"] == reason]

    @property
    def names(self) -> list[str]:
        return [event_name(link.event.type) for link in self.events]

    async def until(self, there: Callable[[], bool]) -> None:
        """Wait until what was heard makes `there` true."""
        async with asyncio.timeout(PATIENCE_S):
            while not there():
                self._heard.clear()
                await self._heard.wait()


@asynccontextmanager
async def standing(rig: Rig) -> AsyncIterator[TakingServer]:
    """A server for the rig's agent while the block runs; the agent is ended after it."""
    server = TakingServer(rig, json.loads(await rig.command("identity")))
    serving = asyncio.create_task(server.serve())
    try:
        yield server
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        if rig.process is not None:
            await rig.end(signal.SIGKILL)
    if not serving.cancelled() and serving.exception() is not None:
        raise AssertionError("the server's side failed") from serving.exception()
