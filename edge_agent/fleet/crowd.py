"""The members of a fleet, each with a connection of its own, and how they come back to a broker.

A device verifies on its own processor. Here one processor stands for thousands, so a signature of
a statement to all is verified once (`Remembered`), and what a delta of the revocation log makes of
a log is found out once (`Verdicts`). What is one agent's own is verified each time, and each signs
its own events and reports. `--verify-each` of the command switches both shortcuts off.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

from edge_agent.core.trusted_state import TrustedState
from edge_agent.fleet.chip import Chip
from edge_agent.fleet.connection import KEEPALIVE_S, Connection
from edge_agent.fleet.member import Member, Verdicts
from schemas import topics
from schemas.envelope import Signer, TrustedKey
from schemas.report import INTERVAL_S
from schemas.root import Root
from schemas.suites import PublicKey, Suite

LONGEST_PAUSE_S = 60.0
CONNECTS_AT_ONCE = 64
MOST_REMEMBERED = 4096


class Remembered:
    """A public key that verifies the same signature of the same message once."""

    def __init__(self, key: PublicKey) -> None:
        self._key = key
        self._good: dict[tuple[bytes, bytes], None] = {}

    @property
    def suite(self) -> Suite:
        """The key's suite."""
        return self._key.suite

    @property
    def point(self) -> bytes:
        """The key's point."""
        return self._key.point

    def verify(self, message: bytes, signature: bytes) -> None:
        """As the key itself; a refusal is not remembered."""
        if (message, signature) in self._good:
            return
        self._key.verify(message, signature)
        self._good[message, signature] = None
        if len(self._good) > MOST_REMEMBERED:
            del self._good[next(iter(self._good))]


@dataclass(frozen=True)
class Identity:
    """Who a member is: its agent, its door, its key, and its ESAM if it has one."""

    agent: str
    door: str
    signer: Signer
    chip: Chip | None = None


class Crowd:
    """All members; `run` keeps them connected until cancelled."""

    def __init__(
        self,
        identities: Sequence[Identity],
        root: Root,
        *,
        host: str,
        port: int,
        random: Random,
        tell: Callable[[str, str, int], None] = lambda _agent, _what, _number: None,
        verify_each: bool = False,
        spread_s: float = LONGEST_PAUSE_S,
        crashes: float = 0.0,
    ) -> None:
        """`spread_s`: how far the crowd spreads when it comes back, at most.

        `crashes`: the share of orders about keys in the midst of which a member crashes.
        """
        trust = TrustedState.pinned(root)
        if not verify_each:
            ring = {
                name: TrustedKey(Remembered(trusted.key), trusted.holder, trusted.payload_types)
                for name, trusted in trust.ring.items()
            }
            trust = TrustedState(root, ring)
        shared: dict[str, bytes] = {}
        verdicts: Verdicts | None = None if verify_each else {}
        self.members = [
            Member(
                agent=each.agent,
                door=each.door,
                signer=each.signer,
                trust=trust,
                chain=secrets.token_hex(8),
                shared=shared,
                tell=tell,
                verdicts=verdicts,
                chip=each.chip,
                random=random,
                crashes=crashes,
            )
            for each in identities
        ]
        self._host, self._port = host, port
        self._random, self._spread_s = random, spread_s
        self._gate = asyncio.Semaphore(CONNECTS_AT_ONCE)
        self._away: set[Member] = set()
        self._back = asyncio.Event()
        self.connected = 0
        self.taps = self.lockouts = 0
        self.changed = asyncio.Event()
        """Set whenever a member connects or is lost; whoever waits clears it."""

    async def run(self) -> None:
        """Connect every member, and again whenever it is lost."""
        async with asyncio.TaskGroup() as tasks:
            for member in self.members:
                tasks.create_task(self._keep(member))

    def cut_off(self, count: int) -> None:
        """Let so many members, chosen at random, be without a network until they `come_back`."""
        self._back.clear()
        for member in self._random.sample(self.members, count):
            self._away.add(member)
            member.cut()

    def come_back(self) -> None:
        """Give everybody their network again."""
        self._away.clear()
        self._back.set()

    async def hold_up(self, cards: Mapping[str, set[int]], per_s: float) -> None:
        """Hold cards up at doors, both chosen at random, until cancelled.

        Each card has keys of these versions. A card of ours that is refused is a lock-out.
        """
        names = list(cards)
        while True:
            await asyncio.sleep(self._random.expovariate(per_s))
            card, member = self._random.choice(names), self._random.choice(self.members)
            if member.keys is None:
                continue
            opened = member.keys.tap(card, cards[card], datetime.now(UTC))
            self.taps += opened is not None
            self.lockouts += opened is False

    async def _keep(self, member: Member) -> None:
        attempt = 0
        while True:
            while member in self._away:
                await self._back.wait()
            reported = await self._once(member)
            attempt = 0 if reported else attempt + 1
            # as the link of a real agent: full jitter, 1 to 60 s
            longest_s = min(self._spread_s, LONGEST_PAUSE_S, 2.0 ** min(attempt, 6))
            await asyncio.sleep(self._random.uniform(0, longest_s))

    async def _once(self, member: Member) -> bool:
        """One connection, from its opening to its loss; whether it ever stood."""
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[None] = loop.create_future()
        began: asyncio.Future[bool] = loop.create_future()
        """Whether the connection stands, or was lost before."""

        def up() -> None:
            began.set_result(True)
            self.connected += 1
            self.changed.set()
            member.cut = connection.cut
            member.connected(connection.publish, secrets.token_hex(8), datetime.now(UTC))

        def over(_why: str) -> None:
            if not lost.done():
                lost.set_result(None)
            if not began.done():
                began.set_result(False)

        connection = Connection(
            member.agent,
            member.downward,
            up=up,
            message=lambda topic, payload: member.take(topic, payload, datetime.now(UTC)),
            lost=over,
            will=topics.up(member.trust.root.site, member.agent, topics.WILL),
        )
        try:
            async with self._gate:
                await connection.open(self._host, self._port)
                await asyncio.wait([began], timeout=LONGEST_PAUSE_S)
            await self._report_until(lost, member, connection)
        except OSError:
            pass  # nobody listens there yet
        finally:
            member.disconnected()
            if not lost.done():
                connection.close()
            stood = began.done() and began.result()
            if stood:
                self.connected -= 1
                self.changed.set()
        return stood

    async def _report_until(
        self, lost: asyncio.Future[None], member: Member, connection: Connection
    ) -> None:
        kept_s = 0.0
        while not lost.done():
            pause_s = INTERVAL_S * self._random.uniform(0.8, 1.2)
            await asyncio.wait([lost], timeout=pause_s)
            if lost.done():
                return
            member.report(datetime.now(UTC))
            kept_s += pause_s
            if kept_s > KEEPALIVE_S / 3:
                connection.keep_alive()
                kept_s = 0.0
