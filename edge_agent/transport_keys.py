"""Asks the server for the transport key of one card, while an operator's window is open.

Each question has a key pair of its own, made for it and forgotten with it, that the answer is
sealed to; an answer counts for the one open question it names. The key is in memory while a card is
bound, and never in a log, an event or a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import aiomqtt

from edge_agent.card.script import TransportKeyRefused
from edge_agent.neighbours import Say
from edge_agent.secure_element.esam_chip import Esam, Lend, Loan
from edge_agent.secure_element.port import ElementUnavailable
from schemas.envelope import Signer
from schemas.errors import MalformedKey, Replayed
from schemas.names import SERVER
from schemas.sealed_to import open_sealed_to
from schemas.statement import sign_statement
from schemas.suites import PrivateKey, RandomBytes
from schemas.suites.suite import KEY_BYTES
from schemas.topics import TRANSPORT
from schemas.transport import (
    LoanRequest,
    TransportKey,
    TransportRequest,
    TransportSource,
    transport_context,
)

ANSWER_S = 5.0
"""The card lies on the reader meanwhile, and somebody holds it there."""
NO_CONNECTION = "no_connection"
NO_ANSWER = "no_answer"


@dataclass(frozen=True)
class Given:
    """One card's transport key, where it is from, and what lends it to an ESAM if asked for."""

    key: bytes = field(repr=False)
    source: TransportSource
    loan: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class _Question:
    request: TransportRequest
    key: PrivateKey = field(repr=False)
    answer: asyncio.Future[Given]


class TransportKeys:
    """The questions of one agent. `now` is the time that statements are issued at."""

    def __init__(
        self,
        site: str,
        agent: str,
        signer: Signer,
        random: RandomBytes,
        now: Callable[[], datetime],
    ) -> None:
        self._site = site
        self._agent = agent
        self._signer = signer
        self._random = random
        self._now = now
        self._say: Say | None = None
        self._session = ""
        self._count = 0
        self._open: dict[int, _Question] = {}
        self._being_bound: dict[bytes, str] = {}

    def connected(self, say: Say, session: str) -> None:
        """Ask by this connection from now on. What another one asked is answered no more."""
        self._say, self._session, self._count = say, session, 0
        for question in self._open.values():
            if not question.answer.done():
                question.answer.set_exception(_no_connection())
        self._open.clear()

    async def ask(self, command: str, card_id: bytes, loan: LoanRequest | None = None) -> Given:
        """The card's transport key, for the window that `command` opened.

        Raises TransportKeyRefused with the server's refusal, NO_CONNECTION or NO_ANSWER.
        """
        if self._say is None:
            raise _no_connection()
        self._count += 1
        key = self._signer.key.public.suite.generate(self._random)
        request = TransportRequest(
            site=self._site,
            audience=SERVER,
            issued=self._now(),
            counter=self._count,
            session=self._session,
            command=command,
            card=card_id.hex(),
            recipient=key.public.point.hex(),
            loan=loan,
        )
        question = _Question(request, key, asyncio.get_running_loop().create_future())
        self._open[request.counter] = question
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._say(TRANSPORT, sign_statement(request, self._signer))
                return await question.answer
        except TimeoutError:
            raise TransportKeyRefused(
                NO_ANSWER, f"the server did not answer within {ANSWER_S:g} s"
            ) from None
        except (aiomqtt.MqttError, OSError):
            raise _no_connection() from None
        finally:
            if self._open.get(request.counter) is question:
                del self._open[request.counter]

    def answered(self, answer: TransportKey) -> None:
        """Take an answer whose signature, audience and time were verified.

        Raises Replayed if it answers no open question, BadSignature if it was sealed for another
        one, MalformedKey if what is in it is no key. The question stays open then.
        """
        question = self._open.get(answer.request)
        asked = None if question is None else question.request
        if (
            question is None
            or asked is None
            or question.answer.done()
            or (answer.session, answer.command, answer.card)
            != (asked.session, asked.command, asked.card)
        ):
            raise Replayed(f"no such question of a transport key is open: {answer.request}")
        if answer.refusal is not None or answer.sealed is None or answer.source is None:
            refusal = TransportKeyRefused(str(answer.refusal), "by the server")
            question.answer.set_exception(refusal)
            return
        context = transport_context(
            self._site, self._agent, asked.session, asked.counter, asked.card
        )
        key = open_sealed_to(question.key, bytes.fromhex(answer.sealed), context)
        if len(key) != KEY_BYTES or (asked.loan is None) != (answer.loan is None):
            raise MalformedKey("an answer without a transport key, or without the loan asked for")
        loan = None if answer.loan is None else bytes.fromhex(answer.loan)
        question.answer.set_result(Given(key, answer.source, loan))

    @contextmanager
    def lending(self, command: str, card_id: bytes) -> Iterator[None]:
        """Meanwhile this card's key, and no other's, is lent to an ESAM that asks for it."""
        self._being_bound[card_id] = command
        try:
            yield
        finally:
            self._being_bound.pop(card_id, None)  # two may say that they are this card

    def lender(self, esam: Esam) -> Lend:
        """What is to be the ESAM's `lend`."""
        return partial(self._lend, esam.domains)

    async def _lend(
        self, domains: tuple[str, ...], serial: bytes, challenge: bytes, loan: Loan
    ) -> bytes:
        """Raises TransportKeyRefused, or ElementUnavailable for a card in no window."""
        command = self._being_bound.get(loan.card_id)
        if command is None:
            raise ElementUnavailable("no window is open in which this card is being bound")
        request = LoanRequest(
            esam=serial.hex(),
            domain=domains[loan.index - 1],
            index=loan.index,
            version=loan.version,
            challenge=challenge.hex(),
        )
        given = await self.ask(command, loan.card_id, request)
        assert given.loan is not None  # `answered` has seen to it
        return given.loan


def _no_connection() -> TransportKeyRefused:
    return TransportKeyRefused(NO_CONNECTION, "there is no connection to the server")
