"""A site of real processes in one folder: broker, server, and an agent a door.

Everything is done through the commands a person would type; nothing reaches into the server.
"""

from __future__ import annotations

import asyncio
import csv
import json
import secrets
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import httpx

from edge_agent.demo.cast import CAST, policy_for
from edge_agent.demo.forgery import copied_card
from edge_agent.demo.mosquitto import mosquitto_command
from edge_agent.demo.processes import (
    READY_S,
    Child,
    ProcessFailed,
    command,
    free_port,
    listens,
    run,
    stop_all,
    until,
)
from edge_agent.virtual.card_os import VirtualCard
from edge_agent.virtual.people import Doorway
from schemas.suites import SuiteName

SITE = "demo"
BrokerKind = Literal["builtin", "mosquitto"]

_AGENT_TOML = """\
site = "{site}"
agent = "{agent}"
state_dir = "state"
root = "../../site/root.json"
policy = "policy.dsse"

[broker]
host = "127.0.0.1"
port = {broker_port}

[[doors]]
door = "{door}"
io = {{ kind = "virtual" }}
readers = [{{ direction = "in", kind = "virtual" }}]
"""


@dataclass
class Building:
    """Doors, their agents, the server and the broker, and the cards of the cast."""

    folder: Path
    suite: SuiteName
    doors: list[str]
    broker_kind: BrokerKind = "builtin"
    port: int = field(default_factory=free_port)
    broker_port: int = field(default_factory=free_port)
    children: dict[str, Child] = field(default_factory=dict)
    cards: dict[str, VirtualCard] = field(default_factory=dict)
    _in_hand: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    @property
    def url(self) -> str:
        """Where the live page and the API are."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def site(self) -> Path:
        """The server's site directory."""
        return self.folder / "site"

    def agent(self, door: str) -> str:
        """The id of the agent that serves `door`."""
        return f"{door}-agent"

    def config(self, door: str) -> Path:
        """The configuration of the door's agent."""
        return self.folder / "agents" / door / "agent.toml"

    def doorway(self, door: str) -> Doorway:
        """Where people meet the door."""
        return Doorway(self.config(door).parent / "state" / "doorway.sock", door)

    async def tap(self, doorway: Doorway, name: str) -> str:
        """Hold a person's card to a reader; a card can't be at two doors at once."""
        async with self._in_hand[name]:
            return await doorway.tap(self.cards[name])

    async def set_up(self) -> None:
        """Make the site, enrol the agents, bind the cards, sign the policies. Starts nothing."""
        await run(
            command("ostiary", "init", "--site", SITE, "--suite", self.suite, "--dir", self.site)
        )
        await asyncio.gather(*(self._identify(door) for door in self.doors))
        await asyncio.gather(
            *(self._ostiary("agents", "add", "--yes", self._identity(door)) for door in self.doors)
        )
        await self._make_cards()
        await asyncio.gather(*(self._bind_cards(door) for door in self.doors))
        policy = self.folder / "policy.json"
        policy.write_text(json.dumps(policy_for(self.doors, self.suite, datetime.now(UTC))))
        await asyncio.gather(*(self._sign(policy, door) for door in self.doors))

    async def _sign(self, policy: Path, door: str) -> None:
        signed = self.config(door).parent / "policy.dsse"
        agent = self.agent(door)
        await self._ostiary("policy", "sign", policy, "--agent", agent, "--out", signed)

    async def start(self) -> None:
        """Start every process and return when the doors are ready and the server answers."""
        await self.start_broker()
        # side by side: a door needs no server
        await asyncio.gather(self.start_server(), *(self.start_agent(door) for door in self.doors))

    async def stop(self) -> None:
        """End every process."""
        await stop_all(list(self.children.values()))

    def check(self) -> None:
        """Raise ProcessFailed if a process has ended by itself."""
        for child in self.children.values():
            child.check()

    async def start_broker(self) -> None:
        """The built-in broker or mosquitto, alone in a process."""
        if self.broker_kind == "mosquitto":
            arguments = mosquitto_command(self.folder, self.broker_port)
        else:
            arguments = command("ostiary", "broker", "run", "--port", str(self.broker_port))
        broker = await self._start("broker", arguments)
        await until(broker, lambda: listens(self.broker_port))

    async def start_server(self) -> None:
        """`ostiary serve` on this building's site."""
        broker = f"mqtt://127.0.0.1:{self.broker_port}"
        port = str(self.port)
        server = await self._start(
            "server",
            command(
                "ostiary", "serve", "--site-dir", self.site, "--port", port, "--broker", broker
            ),
        )
        await until(server, lambda: healthy(self.url))

    async def start_agent(self, door: str) -> None:
        """The agent of one door."""
        agent = await self._start(
            door, command("ostiary-agent", "run", "--config", self.config(door))
        )
        await until(agent, self.doorway(door).is_open)

    async def status(self, door: str) -> dict[str, Any]:
        """What the door's agent says of its own event store."""
        answer = await run(
            command("ostiary-agent", "status", "--json", "--config", self.config(door))
        )
        status: dict[str, Any] = json.loads(answer)
        return status

    def log(self, name: str) -> Path:
        """What a process printed: `broker`, `server` or a door."""
        return self.folder / "logs" / f"{name}.log"

    async def _start(self, name: str, arguments: list[str]) -> Child:
        self.log(name).parent.mkdir(exist_ok=True)
        child = Child(name, arguments, self.log(name))
        self.children[name] = child
        await child.start()
        return child

    async def _ostiary(self, *arguments: str | Path) -> str:
        return await run(command("ostiary", *arguments, "--site-dir", self.site))

    def _identity(self, door: str) -> Path:
        return self.config(door).parent / "identity.json"

    async def _identify(self, door: str) -> None:
        configuration = self.config(door)
        configuration.parent.mkdir(parents=True)
        configuration.write_text(
            _AGENT_TOML.format(
                site=SITE, agent=self.agent(door), broker_port=self.broker_port, door=door
            )
        )
        identity = await run(command("ostiary-agent", "identity", "--config", configuration))
        self._identity(door).write_text(identity)

    async def _make_cards(self) -> None:
        folder = self.folder / "cards"
        folder.mkdir()
        with (self.folder / "transport_keys.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["card", "transport_key"])
            for person in CAST:
                path = folder / f"{person.name}.card"
                if person.copies is not None:
                    self.cards[person.name] = await copied_card(
                        path, person.serial, self.suite, SITE, self.doors
                    )
                    continue
                transport_key = secrets.token_bytes(16)
                rows.writerow([person.serial.hex(), transport_key.hex()])
                self.cards[person.name] = VirtualCard(
                    path, self.suite, person.serial, transport_key, secrets.token_bytes
                )

    async def _bind_cards(self, door: str) -> None:
        holders = [person for person in CAST if person.bound and person.copies is None]
        keys = self.folder / "transport_keys.csv"
        binding = Child(
            f"{door}-binding",
            command(
                *("ostiary-agent", "bind", "--config", self.config(door)),
                *("--transport-keys", keys, "--count", str(len(holders))),
            ),
            self.log(f"{door}-binding"),
        )
        binding.log.parent.mkdir(exist_ok=True)
        await binding.start()
        try:
            await until(binding, self.doorway(door).is_open)
            async with self.doorway(door) as doorway:
                for person in holders:
                    outcome = await self.tap(doorway, person.name)
                    if outcome != "bound":
                        raise ProcessFailed(f"{person.name}'s card was not bound: {outcome}")
            await binding.ended_well(READY_S)
        finally:
            await binding.stop()


async def healthy(url: str) -> bool:
    """Whether the server there is ready: it hears the broker, and its database answers."""
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            return (await client.get("/healthz")).is_success
    except httpx.HTTPError:
        return False
