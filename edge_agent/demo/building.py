"""A site of real processes in one folder: broker, server, and an agent a door.

Everything goes through what an installer and an operator use: the commands, and the server's API.
Nothing reaches into the server.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import httpx

from edge_agent.demo.cast import CAST, REVOKED, site_document
from edge_agent.demo.chips import (
    SHARED,
    SHARING,
    EsamMaker,
    esam_settings,
    make_cards,
    make_shared_domain,
    transport_keys,
)
from edge_agent.demo.mosquitto import guarded_mosquitto
from edge_agent.demo.office import Office
from edge_agent.demo.processes import (
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
STAYS_S = 0.15
"""People don't snatch their card away: a reader that has more to say to it has time to begin."""
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

    def domain(self, door: str) -> str:
        """The key domain of the door: shared by the first ones, else its own."""
        return SHARED if door in self.doors[:SHARING] else door

    def config(self, door: str) -> Path:
        """The configuration of the door's agent."""
        return self.folder / "agents" / door / "agent.toml"

    def doorway(self, door: str) -> Doorway:
        """Where people meet the door."""
        return Doorway(self.config(door).parent / "state" / "doorway.sock", door)

    async def tap(self, doorway: Doorway, name: str) -> str:
        """Hold a person's card to a reader; a card can't be at two doors at once."""
        async with self._in_hand[name]:
            return await doorway.tap(self.cards[name], stays_s=STAYS_S)

    async def set_up(self) -> None:
        """Make the site, start broker and server, enrol the agents.

        The agents do not run yet.
        """
        folder = self.folder / "root-keys"
        await run(
            command(
                *("ostiary", "init", "--site", SITE, "--suite", self.suite, "--dir", self.site),
                *("--root-keys", folder),
            )
        )
        await make_shared_domain(self.site, self.suite)
        domains = sorted({self.domain(door) for door in self.doors})
        (self.folder / "cards").mkdir()
        _, self.cards = await asyncio.gather(
            self._serve(), make_cards(self.folder / "cards", self.suite, SITE, domains)
        )
        await self.office.apply(site_document(self.doors, self.agent, self.domain))
        maker = EsamMaker(self.folder / "issuing", self.suite)
        await asyncio.gather(
            *(self._enrol(door, maker) for door in self.doors),
            run(
                command(
                    *("ostiary", "cards", "transport", "import"),
                    *(transport_keys(self.folder / "cards"), "--site-dir", self.site),
                )
            ),
        )

    async def _serve(self) -> None:
        await self.start_broker()
        await self.start_server()

    async def start(self) -> None:
        """Start the agents, bind the cards; return when every door knows all that was decided."""
        await asyncio.gather(*(self.start_agent(door) for door in self.doors))
        await self.office.converged()
        await self._bind_cards(self.doors)
        now = datetime.now(UTC)
        await self.office.apply(site_document(self.doors, self.agent, self.domain, now))
        await self.office.revoke(REVOKED.serial.hex(), "revoked")
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

    async def _enrol(self, door: str, maker: EsamMaker) -> None:
        """Claim, enrol and approve: the device makes its keys, the operator compares them."""
        agent, configuration = self.agent(door), self.config(door)
        configuration.parent.mkdir(parents=True)
        settings = _AGENT_TOML.format(door=door)
        shares = self.domain(door) == SHARED
        if shares:
            chip = configuration.parent / "esam.bin"
            settings += esam_settings(chip, await maker.issue(agent, chip))
        configuration.write_text(settings)
        claim = await self.office.claim(agent)
        enrolling = asyncio.create_task(
            run(command("ostiary-agent", "enrol", claim, "--config", configuration))
        )
        try:
            await self.office.approve(agent, enrolling)
            await enrolling
        finally:
            enrolling.cancel()
        if shares:
            await maker.import_into(self.site, agent)

    async def bind(self, door: str, name: str) -> None:
        """Open a window at the door for a person, and hold up their card. Raises ProcessFailed."""
        window = await self.office.open_window(door, name)
        async with self.doorway(door) as doorway:
            outcome = await self.tap(doorway, name)
        if outcome != "bound":
            raise ProcessFailed(f"{name}'s card was not bound at {door}: {outcome}")
        await self.office.window_is(window, "bound")

    async def _bind_cards(self, doors: list[str]) -> None:
        """Each card once at each domain, so at the first of the doors that share one."""
        first = {self.domain(door): door for door in reversed(doors)}
        await asyncio.gather(*(self._bind_at(door) for door in first.values()))

    async def _bind_at(self, door: str) -> None:
        for person in CAST:
            if person.bound and person.copies is None:
                await self.bind(door, person.name)


async def healthy(url: str) -> bool:
    """Whether the server there is ready: it hears the broker, and its database answers."""
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            return (await client.get("/healthz")).is_success
    except httpx.HTTPError:
        return False
