"""The people at the server: they change the model, revoke, lock down, command, and rotate keys.

Each act goes on by itself, and remembers what it was promised and what it only asked for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, get_args

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.command import WINDOWS, Action
from schemas.revocation import RevocationReason, RevokedKind
from server.distribution.lockdowns import NoSuchLockdown
from server.distribution.revocations import Stopped
from server.feed.hub import Hub
from server.link_status import LinkStatus
from server.model.bindings import bind
from server.model.changing import changing
from server.model.document import SiteDocument, apply
from server.model.kinds import CARDS, PERSONS
from server.root_keys import default_place, read_root_keys
from server.rotation import accept, propose
from server.site import Site, open_site
from server.state import ServerState
from server.store.announcements import waiting
from tests.chaos.server_side import Server
from tests.chaos.sides import CANNOT_START

PATIENCE_S = 30.0
PERSONS_THERE = ("ada", "bo", "cy")
_DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
STARTED = datetime(2026, 11, 24, 8, tzinfo=UTC)


def card_ids(count: int) -> list[str]:
    """The cards that people carry."""
    return [f"{0xC0FFEE00 + n:016x}" for n in range(count)]


class Operator:
    """Does one thing after another, and knows what came of each."""

    def __init__(
        self, server: Server, doors: list[str], cards: list[str], dice: Random, tally: Counter[str]
    ) -> None:
        self.cleared: dict[tuple[str, str], int] = {}
        """(kind, id) -> the revocations that were answered, or may have been."""
        self.revoked: dict[tuple[str, str], int] = {}
        """(kind, subject) -> sequence: the server said that this is durable."""
        self.locked: set[str] = set()
        """Lockdowns that the server said are in force, and nobody asked to end."""
        self.ended: set[str] = set()
        """Lockdowns that the server said are ended."""
        self.executed: list[tuple[str, str]] = []
        """(agent, command) that the server said were executed."""
        self._server, self._doors, self._cards = server, doors, cards
        self._dice, self._tally = dice, tally
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked = 0

    # Before the storm

    async def set_up(self, engine: AsyncEngine, site: Site) -> None:
        """Describe the site, with every card bound at every door."""
        state = ServerState(engine, Hub(), site.name, site.suite, LinkStatus(""))
        state.registry, state.clock = CollectorRegistry(), self._server.clock
        state.announced = state.model_changed = lambda: None
        document = SiteDocument.model_validate(self._document())
        await apply(state, "operator", document, prune=True, dry_run=False)
        async with engine.begin() as connection:
            for card in self._cards:
                for door in self._doors:
                    await bind(connection, card, door, 1, "0" * 16 + "-1", STARTED)

    def _document(self) -> dict[str, Any]:
        dice = self._dice
        more = {f"{0xBEEF0000 + n:016x}": {"person": "ada"} for n in range(dice.choice((0, 3, 40)))}
        return {
            "site": {"timezone": dice.choice(("UTC", "Asia/Shanghai"))},
            "schedules": {
                "always": {"windows": [{"start": "00:00", "end": "24:00", "days": _DAYS}]}
            },
            "doors": {
                door: {"agent": door, "settings": {"grace_s": dice.choice((60, 3600, 86_400))}}
                for door in self._doors
            },
            "groups": {"staff": {}, "guests": {}},
            "persons": {
                name: {"groups": ["staff"] if dice.random() < 0.8 else ["guests"]}
                for name in PERSONS_THERE
            },
            "cards": {
                card: {
                    "person": PERSONS_THERE[n % len(PERSONS_THERE)],
                    "offline": dice.random() < 0.3,
                }
                for n, card in enumerate(self._cards)
            }
            | more,
            "rules": {"r": {"group": "staff", "schedule": "always", "doors": self._doors}},
        }

    # In the storm

    def act(self) -> None:
        """Begin something."""
        deed: Callable[[], Awaitable[None]] = self._dice.choice(
            (
                self._change,
                self._change,
                self._revoke,
                self._revoke,
                self._reinstate,
                self._lock_down,
                self._end,
                self._command,
                self._command,
                self._command,
                self._rotate,
            )
        )
        if deed == self._rotate and self._dice.random() < 0.5:
            deed = self._command
        task = asyncio.create_task(self._try(deed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def leave(self) -> None:
        """Wait for no answer any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for done in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(done, Exception):
                raise done

    async def _try(self, deed: Callable[[], Awaitable[None]]) -> None:
        name = deed.__name__.strip("_")
        try:
            async with asyncio.timeout(PATIENCE_S):
                await deed()
        except (*CANNOT_START, TimeoutError, Stopped, NoSuchLockdown) as error:
            self._tally[f"operator: {name} failed: {type(error).__name__}"] += 1
        else:
            self._tally[f"operator: {name}"] += 1

    async def _change(self) -> None:
        if (parts := self._server.parts) is not None:
            document = SiteDocument.model_validate(self._document())
            await apply(parts.state, "operator", document, prune=True, dry_run=False)

    async def _revoke(self) -> None:
        if (parts := self._server.parts) is None:
            return
        kind: RevokedKind = self._dice.choice(get_args(RevokedKind))
        subject = {
            "card": self._dice.choice(self._cards),
            "person": self._dice.choice(PERSONS_THERE),
            "key-version": f"{self._doors[0]}/{2 + int(self._dice.random() * 100)}",
        }[kind]
        reason = self._dice.choice(list(RevocationReason))
        entry = await parts.revocations.revoke(kind, subject, reason, "operator")
        self.revoked[kind, subject] = max(self.revoked.get((kind, subject), 0), entry.sequence)

    async def _reinstate(self) -> None:
        if (parts := self._server.parts) is None:
            return
        kind = self._dice.choice((CARDS, PERSONS))
        name = self._dice.choice(self._cards if kind is CARDS else PERSONS_THERE)
        head = parts.revocations.head.sequence
        self.cleared[kind.name, name] = max(head, self.cleared.get((kind.name, name), 0))
        async with changing(parts.state, "operator") as change:
            await change.clear(kind, name, head)

    async def _lock_down(self) -> None:
        if (parts := self._server.parts) is None:
            return
        self._asked += 1
        scope, name = self._dice.choice((("site", parts.site.name), ("door", self._doors[0])))
        started = await parts.lockdowns.start(scope, name, (), "operator", id=f"l{self._asked}")
        self.locked.add(started.id)

    async def _end(self) -> None:
        if (parts := self._server.parts) is None or not parts.lockdowns.active:
            return
        name = self._dice.choice([each.id for each in parts.lockdowns.active])
        self.locked.discard(name)
        await parts.lockdowns.end(name, "operator")
        self.ended.add(name)

    async def _command(self) -> None:
        if (parts := self._server.parts) is None:
            return
        action = self._dice.choice((*Action, Action.PULSE, Action.PULSE, Action.NORMAL))
        if action in WINDOWS:
            return
        door = self._dice.choice(self._doors)
        if action is Action.REBOOT:
            result = await parts.commands.reboot(door, "operator")
        else:
            until = None
            if action is Action.UNLOCK:
                until = self._server.clock.now() + timedelta(seconds=5 + 60 * self._dice.random())
            result = await parts.commands.send(door, action, "operator", until=until)
        self._tally[f"command {result.state}"] += 1
        if result.state == "executed":
            assert result.command is not None
            self.executed.append((door, result.command))

    async def _rotate(self) -> None:
        site = open_site(self._server.site.path)
        signers = read_root_keys([default_place(site.path)], site.name, site.suite, lambda _: "")
        roles = self._dice.sample(("policy", "revoke", "online"), self._dice.choice((1, 1, 3)))
        now = self._server.clock.now()
        proposal = propose(site, roles, {}, random=self._dice.randbytes, now=now)
        accept(site, proposal.signed_by(signers), {})


async def untold(engine: AsyncEngine) -> int:
    """How many announcements no event tells of."""
    return len(await waiting(engine, 100_000))
