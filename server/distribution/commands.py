"""Commands: signed for one session of one agent, and answered by the agent's own signed event.

Nothing here is repeated or queued: a command that finds no live session is not sent, and one that
gets no answer may have been carried out or not. Only a person may decide to say it again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.command import MOVES_THE_STRIKE, PATIENT, PROMPT, WINDOWS, Action, Command
from schemas.envelope import Signer
from schemas.event_data import CommandExecuted, CommandRefused
from schemas.events import agent_subject, door_subject
from schemas.server_event_data import CommandSent
from schemas.statement import sign_statement
from schemas.topics import COMMAND, down
from server.clock import Clock, microseconds
from server.distribution.publish import Publish
from server.model.revisions import next_revision
from server.store.announcements import announce
from server.store.counters import next_command
from server.store.model_questions import agent_of
from server.store.windows import add_window

ANSWER_S = 7.0
"""An agent that is there answers within a second; after this a strike command can't be executed."""
RESULTS = frozenset({"command.executed", "command.refused"})
_TOP = 2**63 - 1

State = Literal["executed", "refused", "unconfirmed", "not_sent"]

log = structlog.get_logger(__name__)


class NoSuchDoor(LookupError):
    """The management model has no door of this name."""


@dataclass(frozen=True)
class CommandResult:
    """What became of a command.

    `unconfirmed`: it was sent, and no answer came; until `expires` it may yet be carried out.
    `operator_to_strike_ms` is from the request, when the command is issued, to the act at the door:
    by the agent's clock, if that is known to be right.
    """

    state: State
    detail: str
    command: str | None = None
    agent: str | None = None
    expires: datetime | None = None
    reason: str | None = None
    operator_to_strike_ms: float | None = None


@dataclass(frozen=True)
class Session:
    """The connection an agent has now, and the last command it has taken by its own report."""

    name: str
    command: int


class CommandMetrics:
    """One set of counters per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.results = Counter(
            "ostiary_commands_total",
            "Commands by what became of them",
            ["state"],
            registry=registry,
        )
        self.operator_to_strike = Histogram(
            "ostiary_operator_to_strike_seconds",
            "From an operator's request to the act at the door",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2, 5),
            registry=registry,
        )


@dataclass(frozen=True)
class _Waiting:
    agent: str
    answer: asyncio.Future[CommandExecuted | CommandRefused]


class Commands:
    """Sends commands and waits for what the agents say of them."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        site: str,
        signer: Signer,
        publish: Publish,
        executor: Executor,
        clock: Clock,
        announced: Callable[[], None],
        connected: Callable[[], bool],
        session: Callable[[str], Session | None],
        new_id: Callable[[], str],
        metrics: CommandMetrics,
    ) -> None:
        self._engine, self._site, self._signer = engine, site, signer
        self._publish, self._executor, self._clock = publish, executor, clock
        self._announced, self._connected, self._session = announced, connected, session
        self._new_id, self._metrics = new_id, metrics
        self._waiting: dict[str, _Waiting] = {}
        self._turn: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def send(
        self,
        door: str,
        action: Action,
        by: str,
        *,
        until: datetime | None = None,
        person: str | None = None,
        card: str | None = None,
        direction: Literal["in", "out"] | None = None,
    ) -> CommandResult:
        """Have `action` done at a door, and say what came of it.

        Raises NoSuchDoor, ValueError if the action needs something that is not given or forbids
        what is, or what the database raises: in each case nothing was sent.
        """
        asked = self._clock.now()
        agent = await self._agent_of(door)
        if agent is None:
            return self._counted(CommandResult("not_sent", f"no agent serves the door {door}"))
        return await self._send(
            agent,
            door,
            action,
            by,
            asked,
            until=until,
            person=person,
            card=card,
            direction=direction,
        )

    async def reboot(self, agent: str, by: str) -> CommandResult:
        """End an agent's process; its supervisor starts it again.

        Raises what the database raises: then nothing was sent.
        """
        return await self._send(agent, None, Action.REBOOT, by, self._clock.now())

    async def _send(
        self,
        agent: str,
        door: str | None,
        action: Action,
        by: str,
        asked: datetime,
        *,
        until: datetime | None = None,
        person: str | None = None,
        card: str | None = None,
        direction: Literal["in", "out"] | None = None,
    ) -> CommandResult:
        session = self._session(agent)
        if not self._connected() or session is None:
            who = f"agent {agent}" if self._connected() else "the server itself"
            detail = f"{who} has no connection to the broker now"
            return self._counted(CommandResult("not_sent", detail, agent=agent))
        command = Command(
            site=self._site,
            audience=agent,
            issued=asked,
            expires=asked + (PROMPT if action in MOVES_THE_STRIKE else PATIENT),
            counter=0,
            id=self._new_id(),
            session=session.name,
            action=action,
            door=door,
            until=until,
            person=person,
            card=card,
            direction=direction,
        )
        answer: asyncio.Future[CommandExecuted | CommandRefused]
        answer = asyncio.get_running_loop().create_future()
        self._waiting[command.id] = _Waiting(agent, answer)
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._publish_counted(command, session, by)
                return self._counted(_told(command, await answer))
        except ConnectionError as error:
            detail = f"the broker's connection broke while it was sent: {error}"
        except TimeoutError:
            detail = f"agent {agent} has not answered within {ANSWER_S:.0f} s"
        finally:
            del self._waiting[command.id]
        return self._counted(
            CommandResult("unconfirmed", detail, command.id, agent=agent, expires=command.expires)
        )

    async def _agent_of(self, door: str) -> str | None:
        async with self._engine.connect() as connection:
            there, agent = await agent_of(connection, door)
        if not there:
            raise NoSuchDoor(f"there is no door {door}: `ostiary doors status` shows what there is")
        return agent

    def result(self, name: str, data: Mapping[str, Any], agent: str) -> None:
        """Take an event that `agent` has signed and that is committed now."""
        model = CommandExecuted if name == "command.executed" else CommandRefused
        waiting = self._waiting.get(str(data.get("command")))
        # another agent can't answer for this one; nor can anything that is no answer
        if name not in RESULTS or waiting is None or waiting.agent != agent:
            return
        try:
            # a newer agent may say more
            told = model.model_validate({k: v for k, v in data.items() if k in model.model_fields})
        except ValidationError as error:
            log.warning("command_result_not_understood", agent=agent, why=str(error)[:300])
            return
        if not waiting.answer.done():
            waiting.answer.set_result(told)

    async def _publish_counted(self, command: Command, session: Session, by: str) -> None:
        agent, door = command.audience, command.door
        news = CommandSent(by=by, command=command.id, agent=agent, door=door, action=command.action)
        subject = agent_subject(agent) if door is None else door_subject(door)
        async with self._turn[agent]:  # in order of their counters, or the agent refuses the lower
            async with self._engine.begin() as connection:
                counter = await next_command(connection, agent, session.command)
                await announce(
                    connection, "command.sent", subject, news, microseconds(command.issued)
                )
                if command.action in WINDOWS:  # what its door says later counts by this alone
                    await add_window(connection, command, by, await next_revision(connection))
            self._announced()
            signed = await asyncio.get_running_loop().run_in_executor(
                self._executor,
                sign_statement,
                command.model_copy(update={"counter": min(counter, _TOP)}),
                self._signer,
            )
            await self._publish(down(self._site, agent, COMMAND), signed, False)

    def _counted(self, result: CommandResult) -> CommandResult:
        self._metrics.results.labels(result.state).inc()
        if result.operator_to_strike_ms is not None:
            self._metrics.operator_to_strike.observe(result.operator_to_strike_ms / 1000)
        return result


def _told(command: Command, told: CommandExecuted | CommandRefused) -> CommandResult:
    if isinstance(told, CommandRefused):
        return CommandResult(
            "refused", told.detail, command.id, command.audience, reason=told.reason
        )
    return CommandResult(
        "executed",
        f"agent {command.audience} has done it",
        command.id,
        command.audience,
        operator_to_strike_ms=told.latency_ms,
    )
