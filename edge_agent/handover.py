"""Hands events to the server: stored first, forgotten only when signed for.

Lines go out in order, live ones at once and a backlog in batches under one signature; what is not
acknowledged is sent again (go-back-N). An acknowledgement counts if the site's online role signed
it for this agent and it names our own line.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from random import Random

from edge_agent.core.trusted_state import TrustedState
from edge_agent.log import log
from edge_agent.neighbours import Say
from edge_agent.outbox import Outbox, OutboxFailed
from schemas.acknowledgement import Acknowledgement
from schemas.chain import EVENTS_TYPE, MAX_LINES, join_lines
from schemas.envelope import Signer, seal_envelope
from schemas.statement import open_statement
from schemas.topics import EVENTS

MAX_PAYLOAD_BYTES = 256 * 1024
MOST_IN_FLIGHT = 1024
"""Lines sent and not acknowledged; go-back-N resends at most these."""
RESEND_S = 10.0
LONGEST_RESEND_S = 60.0
RARELY_S = 0.5
"""At most this often does a request to resend count."""
ANY_TIME = datetime(9000, 1, 1, tzinfo=UTC)
"""A door whose clock is behind must still be able to hand over its events. An acknowledgement is
bound to one line of one chain, so its time of issue guards nothing."""


class Handover:
    """What of the outbox is on its way to the server."""

    def __init__(self, outbox: Outbox, signer: Signer, agent: str, random: Random) -> None:
        self._outbox = outbox
        self._signer = signer
        self._agent = agent
        self._random = random
        self._sent = 0
        self._resend_s = RESEND_S
        self._resend_at: float | None = None
        """In the event loop's time, while lines are on the way."""
        self._asked_s = -RARELY_S

    async def run(self, say: Say) -> None:
        """Send what the outbox holds, as long as the connection behind `say` lasts."""
        self._sent = self._outbox.state.acknowledged
        self._resend_at = None
        while True:
            state = self._outbox.state
            self._sent = max(self._sent, state.acknowledged)
            room = MOST_IN_FLIGHT - (self._sent - state.acknowledged)
            after = self._sent
            lines = await self._outbox.lines_after(after, min(room, MAX_LINES), MAX_PAYLOAD_BYTES)
            if self._sent != after:
                continue  # meanwhile the server asked for lines before these
            if not lines:
                await self._wait(state.acknowledged)
                continue
            payload = join_lines(each.line for each in lines)
            self._sent = lines[-1].sequence
            await say(EVENTS, seal_envelope(EVENTS_TYPE, payload, [self._signer]))

    async def _wait(self, acknowledged: int) -> None:
        """Until there is something to send; without progress, go back to the oldest line."""
        if self._sent <= acknowledged:
            self._resend_at = None
        elif self._resend_at is None:
            pause_s = self._resend_s * self._random.uniform(0.5, 1.0)
            self._resend_at = asyncio.get_running_loop().time() + pause_s
        try:
            # New events end the wait, but do not put off the time to go back.
            async with asyncio.timeout_at(self._resend_at):
                await self._outbox.changed()
        except TimeoutError:
            self._resend_s = min(LONGEST_RESEND_S, self._resend_s * 2)
            self._sent = acknowledged
            self._resend_at = None
            log.warning("resending", after=acknowledged, waiting=self._outbox.state.waiting)

    async def acknowledged(self, envelope: bytes, state: TrustedState) -> None:
        """Forget what the server signed for. Raises SchemaError or AcknowledgementMismatch."""
        word = open_statement(
            envelope,
            Acknowledgement,
            state.ring,
            site=state.root.site,
            audience=self._agent,
            now=ANY_TIME,
        )
        before = self._outbox.state.acknowledged
        try:
            if word.sequence > 0:
                await self._outbox.acknowledge(word.chain, word.sequence, word.hash, word.issued)
        except OutboxFailed as error:
            log.error("acknowledgement_not_kept", why=str(error))
            return
        if self._outbox.state.acknowledged > before:
            self._resend_s = RESEND_S
            self._resend_at = None
        ours = word.chain == self._outbox.state.head.chain
        # An old word that is replayed can ask as well: it must not keep us signing all day.
        if word.resend and ours and self._rarely():
            self._sent = self._outbox.state.acknowledged
            self._outbox.nudge()

    def _rarely(self) -> bool:
        """Whether no request to resend counted just before."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._asked_s < RARELY_S:
            return False
        self._asked_s = now_s
        return True
