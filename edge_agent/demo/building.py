"""A site of real processes in one folder: broker, server, and an agent a door.

Everything goes through what an installer and an operator use: the commands, and the server's API.
Nothing reaches into the server.
"""

from __future__ import annotations

import asyncio
import csv
import json
import secrets
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import httpx

from edge_agent.demo.cast import CAST, REVOKED, site_document
from edge_agent.demo.forgery import copied_card
from edge_agent.demo.mosquitto import guarded_mosquitto
from edge_agent.demo.office import Office
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
state_dir = "state"

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
    enrol_port: int = field(default_factory=free_port)
    children: dict[str, Child] = field(default_factory=dict)
    cards: dict[str, VirtualCard] = field(default_factory=dict)
    _in_hand: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    @property
    def url(self) -> str:
        """Where the live page and the API are."""
        return f"http://127.0.0.1:{self.port}/"

    @cached_property
    def office(self) -> Office:
        """The operator: speaks to the server as `ostiary` does, once it runs."""
        return Office(self.url, self.site)

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
        """Make the site, start broker and server, enrol the agents, bind the cards.

        The agents do not run yet.
        """
        folder = self.folder / "root-keys"
        await run(
            command(
                *("ostiary", "init", "--site", SITE, "--suite", self.suite, "--dir", self.site),
                *("--root-keys", folder),
            )
        )
        await asyncio.gather(self._serve(), self._make_cards())
        document = site_document(self.doors, self.agent, datetime.now(UTC))
        await self.office.apply(document)
        await asyncio.gather(*(self._enrol(door) for door in self.doors))
        await self.office.revoke(REVOKED.serial.hex(), "revoked")
        await asyncio.gather(*(self._bind_cards(door) for door in self.doors))

    async def _serve(self) -> None:
        await self.start_broker()
        await self.start_server()

    async def start(self) -> None:
        """Start the agents; return when every door has its policy, and all that was decided."""
        await asyncio.gather(*(self.start_agent(door) for door in self.doors))
        await self.office.converged()

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
            arguments = await guarded_mosquitto(self.site, self.broker_port)
        else:
            arguments = command(
                *("ostiary", "broker", "run", "--site-dir", self.site),
                *("--port", str(self.broker_port)),
            )
        broker = await self._start("broker", arguments)
        await until(broker, lambda: listens(self.broker_port))

    async def start_server(self) -> None:
        """`ostiary serve` on this building's site."""
        server = await self._start(
            "server",
            command(
                *("ostiary", "serve", "--site-dir", self.site, "--port", str(self.port)),
                *("--broker", f"mqtts://localhost:{self.broker_port}"),
            ),
            OSTIARY_BROKER_RIGHTS="mosquitto" if self.broker_kind == "mosquitto" else "file",
            OSTIARY_ENROL_PORT=str(self.enrol_port),
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

    async def _start(self, name: str, arguments: list[str], **environment: str) -> Child:
        self.log(name).parent.mkdir(exist_ok=True)
        child = Child(name, arguments, self.log(name), environment)
        self.children[name] = child
        await child.start()
        return child

    async def _enrol(self, door: str) -> None:
        """Claim, enrol and approve: the device makes its keys, the operator compares them."""
        agent, configuration = self.agent(door), self.config(door)
        configuration.parent.mkdir(parents=True)
        configuration.write_text(_AGENT_TOML.format(door=door))
        claim = await self.office.claim(agent)
        enrolling = asyncio.create_task(
            run(command("ostiary-agent", "enrol", claim, "--config", configuration))
        )
        try:
            await self.office.approve(agent, enrolling)
            await enrolling
        finally:
            enrolling.cancel()

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
