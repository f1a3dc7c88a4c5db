"""What the link to the server asks of the parts around it.

The doors carry out commands and go by what changed; the TLS identity takes new certificates; the
locks' keys and the transport keys of cards come by it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

from schemas.command import Command
from schemas.enrolment import Certificate
from schemas.keys import KeyPackage, StageOrder
from schemas.report import DoorReport
from schemas.transport import TransportKey

Say = Callable[[str, bytes], Awaitable[None]]
"""Publish an envelope on one of the agent's own channels (`schemas.topics`), like `Link.say`.

Raises ConnectionError while there is no connection.
"""


class Doors(Protocol):
    """What the link asks of the doors; `edge_agent.commanding` has it."""

    async def execute(self, command: Command) -> None:
        """Carry out a command, and record `command.executed` or `command.refused`.

        It is verified, of this session and in time, and its counter is durable. Returns after the
        act. Messages wait meanwhile, so what takes long goes on in a task of its own.
        """

    async def trust_changed(self) -> None:
        """Policy, revocations, lockdowns or root changed, and are durable: go by them now.

        Returns once the strikes are where they belong; the receipt is recorded after that.
        """

    def heartbeat_heard(self) -> None:
        """A newer heartbeat is durable (`store.state.heartbeat`): freshness may have changed."""

    def reports(self) -> dict[str, DoorReport]:
        """Each door as it is now, for the report."""


class Renewals(Protocol):
    """What the link asks of the TLS identity; `edge_agent.renewal` has it."""

    @property
    def certificate_until(self) -> datetime | None:
        """End of the TLS certificate in use; None without TLS."""

    async def renewed(self, certificate: Certificate) -> None:
        """Keep a certificate whose signature, audience and time were verified; durable on return.

        Raises a refusal of `schemas.errors`: Replayed or Rollback for one that is not newer than
        the one in use, UnknownKey for one of another key. `certificate.applied` is recorded after.
        """


class Keys(Protocol):
    """What the link asks of the lock's keys; `edge_agent.keying` has it.

    What is handed over is signed by the role `keys`, for this agent, and in time.
    """

    def connected(self, say: Say, session: str) -> None:
        """From now on this is the connection."""

    def ordered(self, order: StageOrder) -> None:
        """Carry out an order, in a task of its own."""

    def packaged(self, package: KeyPackage) -> None:
        """Take a package of this session. Raises Replayed if it answers nothing."""

    def policy_changed(self) -> None:
        """A policy is in force, and may ask for other key versions."""


class TransportAnswers(Protocol):
    """What the link asks of who binds cards; `edge_agent.transport_keys` has it."""

    def connected(self, say: Say, session: str) -> None:
        """From now on this is the connection."""

    def answered(self, answer: TransportKey) -> None:
        """Take an answer of this session, verified as for `Keys`.

        Raises Replayed, BadSignature or MalformedKey for one that answers nothing that was asked.
        """
