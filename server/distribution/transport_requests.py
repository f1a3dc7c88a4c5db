"""Transport keys for agents that ask, while an operator's window is open at their door.

Which window it is, whose card it is for and how it stands is what the server itself recorded. The
key that is given is committed as an event before the answer leaves; it is sealed to a key pair that
the agent made for this one question. A stop in between leaves a record of an answer that nobody
got: the agent asks again. What no honest agent asks is an alarm; each question gets an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.envelope import Signer
from schemas.errors import MalformedKey
from schemas.policy import CardState
from schemas.sealed_to import seal_to
from schemas.server_event_data import TransportKeyGiven
from schemas.statement import sign_statement
from schemas.suites import RandomBytes, Suite
from schemas.topics import TRANSPORT, down
from schemas.transport import (
    TRANSPORT_LIFE,
    LoanRequest,
    TransportKey,
    TransportRefusal,
    TransportRequest,
    TransportSource,
    transport_context,
)
from server.clock import Clock, microseconds
from server.core.allowance import Allowance
from server.core.clones import Clones, Sighting
from server.distribution.publish import Publish
from server.distribution.windows import may_ask
from server.ingest.verify import AlarmKind, Refusal
from server.keys.esams import EsamState
from server.keys.home import KeysError, LoanPlace
from server.keys.homes import Homes
from server.keys.transport import TransportKeys
from server.model.bindings import is_bound
from server.store import keys as key_rows
from server.store.announcements import announce
from server.store.database import DATABASE_ERRORS
from server.store.model_tables import cards
from server.store.revocations import find_entries
from server.store.windows import Window, count_given, is_given, note_given, read_window

MOST_CARDS = 5
"""In one window, of which the transport key is given: somebody took the wrong card, and again."""
BURST, RATE_S = 32.0, 0.5
"""Questions of one agent. A card takes two at a lock with an ESAM."""


log = structlog.get_logger(__name__)


class _Refused(Exception):
    """Nothing is given. `alarm`: an honest agent would not have asked."""

    def __init__(self, refusal: TransportRefusal, detail: str, *, alarm: bool = False) -> None:
        super().__init__(detail)
        self.refusal, self.alarm = refusal, alarm


@dataclass(frozen=True)
class _Given:
    source: TransportSource
    key: bytes = field(repr=False)
    loan: bytes | None = field(repr=False)


class TransportRequests:
    """`asked` what the inbox verified; `run` answers."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        suite: Suite,
        keys: TransportKeys,
        homes: Homes,
        signer: Signer,
        publish: Publish,
        executor: Executor,
        clock: Clock,
        random: RandomBytes,
        session: Callable[[str], str | None],
        alarm: Callable[[Refusal], None],
        announced: Callable[[], None],
    ) -> None:
        """`signer` holds the role `keys`; `session` gives an agent's present session."""
        self._engine, self._suite, self._keys, self._homes = engine, suite, keys, homes
        self._signer, self._publish, self._executor = signer, publish, executor
        self._clock, self._random = clock, random
        self._session, self._alarm, self._announced = session, alarm, announced
        self._allowance = Allowance(BURST, RATE_S)
        self._sightings = Clones()
        self._counter = 0
        self._waiting: dict[tuple[str, str], TransportRequest] = {}
        """By agent and command, in order of asking: a lock may have two readers."""
        self._work = asyncio.Event()

    def asked(self, agent: str, request: TransportRequest) -> None:
        """Answer when its turn comes, unless it asks anew in the same window before."""
        if self._sightings.seen(agent, request.session, request.counter) is Sighting.REPLAY:
            detail = f"question {request.counter} of a transport key came again"
            self._alarm(Refusal(AlarmKind.REPLAYED, agent, detail))
        elif not self._allowance.spend(agent, self._clock.monotonic()):
            self._refuse(agent, f"agent {agent} asks for too many transport keys")
        else:
            self._waiting.pop((agent, request.command), None)
            self._waiting[agent, request.command] = request
            self._work.set()

    async def run(self) -> None:
        """Answer, until cancelled."""
        while True:
            while not self._waiting:
                self._work.clear()
                await self._work.wait()
            agent, command = next(iter(self._waiting))
            request = self._waiting.pop((agent, command))
            try:
                await self._answer(agent, request)
            except ConnectionError as error:
                log.info("transport_key_not_sent", agent=agent, why=str(error))
            except Exception as error:  # whatever it is: the other agents get their answers
                # by its name alone: what such an error says of its place may show a key
                log.error("transport_key_not_given", agent=agent, why=type(error).__name__)
                with contextlib.suppress(Exception):  # that it failed is told above
                    await self._say(agent, request, TransportRefusal.FAILED)

    async def _answer(self, agent: str, request: TransportRequest) -> None:
        if request.session != self._session(agent):
            log.info("transport_key_of_another_session", agent=agent, next_step="it asks again")
            return
        try:
            answer: _Given | TransportRefusal = await self._give(agent, request)
        except _Refused as refused:
            answer = refused.refusal
            said = f"agent {agent} asked for the transport key of card {request.card}: {refused}"
            log.info("transport_key_refused", agent=agent, why=answer, detail=str(refused))
            if refused.alarm:
                self._refuse(agent, said)
        except KeysError as error:
            answer = TransportRefusal.FAILED
            self._refuse(agent, str(error))
        except DATABASE_ERRORS as error:
            answer = TransportRefusal.FAILED
            log.error("transport_key_not_given", agent=agent, why=str(error)[:500])
        await self._say(agent, request, answer)

    async def _give(self, agent: str, request: TransportRequest) -> _Given:
        async with self._engine.begin() as connection:
            window = await _window(connection, agent, request, self._clock)
            if window.kind == "bind":
                await _check_card(connection, window, request.card)
            new = not await is_given(connection, window.command, request.card)
            if new and await count_given(connection, window.command) >= MOST_CARDS:
                raise _Refused(
                    TransportRefusal.WINDOW_CLOSED,
                    f"it was given those of {MOST_CARDS} cards in the window {window.command}",
                    alarm=True,
                )
            found = await self._keys.give(connection, request.card)
            if found is None:
                raise _Refused(TransportRefusal.UNKNOWN_KEY, "it is not known")
            esam = None
            if request.loan is not None:
                esam = await _borrower(connection, agent, window, request.card, request.loan)
            if new:
                await note_given(connection, window.command, request.card)
        # the home may be slow, so no transaction waits for it
        lent = None if esam is None else await self._lend(esam, request, found.key)
        said = TransportKeyGiven(
            by=f"agent {agent}",
            agent=agent,
            card=request.card,
            command=window.command,
            source=found.source,
            lent_to=None if request.loan is None else request.loan.esam,
        )
        async with self._engine.begin() as connection:
            now_us = microseconds(self._clock.now())
            subject = f"cards/{request.card}"
            await announce(connection, "keys.transport_given", subject, said, now_us)
        self._announced()
        return _Given(found.source, found.key, lent)

    async def _lend(self, esam: key_rows.EsamRow, request: TransportRequest, key: bytes) -> bytes:
        loan = request.loan
        assert loan is not None
        home = self._homes.of(esam.home)
        place = LoanPlace(
            bytes.fromhex(loan.esam), loan.index, loan.version, bytes.fromhex(request.card)
        )
        challenge = bytes.fromhex(loan.challenge)
        return await self._homes.ask(home.lend, esam.suite, esam.control, challenge, place, key)

    async def _say(
        self, agent: str, request: TransportRequest, answer: _Given | TransportRefusal
    ) -> None:
        now = self._clock.now()
        self._counter = max(self._counter + 1, microseconds(now))
        more: dict[str, object] = {"refusal": answer}
        if isinstance(answer, _Given):
            sealed = self._sealed(agent, request, answer.key)
            more = {"refusal": TransportRefusal.FAILED}
            if sealed is not None:
                loan = None if answer.loan is None else answer.loan.hex()
                more = {"source": answer.source, "sealed": sealed.hex(), "loan": loan}
        statement = TransportKey.model_validate(
            {
                "purpose": "transport-key",
                "site": request.site,
                "audience": agent,
                "issued": now,
                "expires": now + TRANSPORT_LIFE,
                "counter": self._counter,
                "session": request.session,
                "command": request.command,
                "card": request.card,
                "request": request.counter,
                **more,
            }
        )
        envelope = await asyncio.get_running_loop().run_in_executor(
            self._executor, sign_statement, statement, self._signer
        )
        await self._publish(down(request.site, agent, TRANSPORT), envelope, False)

    def _sealed(self, agent: str, request: TransportRequest, key: bytes) -> bytes | None:
        context = transport_context(
            request.site, agent, request.session, request.counter, request.card
        )
        try:
            return seal_to(
                self._suite, bytes.fromhex(request.recipient), key, context, self._random
            )
        except MalformedKey:
            self._refuse(agent, f"agent {agent} asked for a transport key by a malformed key")
            return None

    def _refuse(self, agent: str, detail: str) -> None:
        self._alarm(Refusal(AlarmKind.KEY_REFUSED, agent, detail))


async def _window(
    connection: AsyncConnection, agent: str, request: TransportRequest, clock: Clock
) -> Window:
    """The window in which it is asked, if it is the agent's and open. Raises _Refused."""
    closed = TransportRefusal.WINDOW_CLOSED
    window = await read_window(connection, request.command)
    if window is None or window.agent != agent:
        raise _Refused(closed, f"it has no window {request.command}", alarm=True)
    if not may_ask(window, clock.now()):
        raise _Refused(closed, f"the window {request.command} is over")
    if window.card not in (None, request.card):
        raise _Refused(TransportRefusal.OTHER_CARD, f"the window is for card {window.card}")
    return window


async def _check_card(connection: AsyncConnection, window: Window, card: str) -> None:
    """Whether the card may become, or is, the person's. Raises _Refused."""
    query = select(cards.c.person, cards.c.state, cards.c.cleared).where(cards.c.id == card)
    known = (await connection.execute(query)).one_or_none()
    if known is not None and known.person != window.person:
        raise _Refused(TransportRefusal.OTHER_PERSON, f"it is {known.person}'s")
    if known is not None and known.state != CardState.ACTIVE:
        raise _Refused(TransportRefusal.CARD_NOT_ACTIVE, f"it is {known.state}")
    cleared = 0 if known is None else known.cleared
    if await find_entries(connection, after=cleared, limit=1, kind="card", subject=card):
        raise _Refused(TransportRefusal.CARD_NOT_ACTIVE, "it is revoked")


async def _borrower(
    connection: AsyncConnection, agent: str, window: Window, card: str, loan: LoanRequest
) -> key_rows.EsamRow:
    """The ESAM that asks to be lent the card's key. Raises _Refused."""
    if await is_bound(connection, card, window.domain):
        # Whoever is lent its transport key could read the keys it opens doors with.
        detail = f"it has keys of {window.domain}"
        raise _Refused(TransportRefusal.ESAM_REFUSED, detail, alarm=True)

    def refused(why: str) -> _Refused:
        return _Refused(TransportRefusal.ESAM_REFUSED, f"ESAM {loan.esam} {why}", alarm=True)

    found = await key_rows.read_esams(connection, [loan.esam])
    if not found or found[0].agent != agent:
        raise refused("is not of this agent")
    esam = found[0]
    if esam.state != EsamState.IN_SERVICE:
        raise refused(f"is {esam.state}")
    if window.kind != "bind":
        raise refused("is to be lent a key to unbind a card, which writes none")
    if loan.domain != window.domain or esam.domains.get(loan.domain) != loan.index:
        raise refused(f"has not domain {loan.domain} at place {loan.index}, or not this window's")
    domain = await key_rows.read_domain(connection, loan.domain)
    versions = await key_rows.read_versions(connection, loan.domain)
    there = {each.version for each in versions if each.destroyed is None}
    if domain is None or loan.version < domain.floor or loan.version not in there:
        raise refused(f"is not to write version {loan.version} of {loan.domain}: it is retired")
    return esam
