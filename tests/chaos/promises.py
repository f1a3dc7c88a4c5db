"""What must hold when the faults have ended: at the server's store, and at each agent."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.chain import Head
from schemas.events import event_name
from schemas.names import SERVER
from server.assembly import Assembly
from server.core.standing import behind
from server.site import Site
from server.store.agents import event_ring, list_agents
from server.store.audit import BadPlace, ChainAudit, StoredRow, list_chains, read_chain
from tests.chaos.agent_side import Agent
from tests.chaos.operator import Operator
from tests.chaos.witness import Violated

EXPECTED_ALARMS = {
    "bad_signature",
    "malformed",
    "unknown_key",
    "wrong_topic",
    "gap",
    "events_lost",
    "replayed",
    "identity_cloned",
}
"""What corruption, misdirection, silence, replay and full stores may raise; a report that comes
after its session has ended looks like a second device. A fork, a broken or a second chain would be
the fault of one of the two sides, and so would an agent that knows more than the server."""
_MARK = re.compile(r"m\d+")


def lacks(agent: Agent, parts: Assembly | None) -> str | None:
    """What is between what the server wants at an agent and what is there; None: nothing."""
    store = agent.store
    if parts is None or store is None or not agent.up:
        return "it does not run"
    state = store.state
    desired = parts.convergence.desired(agent.name)
    policy = None if state.policy is None else (state.policy.counter, state.policy_hash)
    wanted = None if desired.policy is None else (desired.policy.version, desired.policy.hash)
    there = {
        "root": (state.root.version, desired.root),
        "policy": (policy, wanted),
        "revocations": (state.revocation, desired.revocation),
        "lockdowns": (state.lockdowns.counter if state.lockdowns else 0, desired.lockdown),
        "a door that hears": (agent.freshness, "fresh"),
    }
    wrong = {what: f"{has} of {wants}" for what, (has, wants) in there.items() if has != wants}
    applied = parts.convergence.applied().get(agent.name)
    for part in behind(desired, applied):
        wrong[f"receipt for {part}"] = str(applied)
    return ", ".join(f"{what}: {how}" for what, how in wrong.items()) or None


def check_promised(operator: Operator, agents: Iterable[Agent], parts: Assembly) -> None:
    """What the server said is durable is at every agent. All have converged."""
    active = {each.id for each in parts.lockdowns.active}
    if lost := operator.locked - active:
        raise Violated(f"lockdowns {lost} were begun, never ended, and are not in force")
    if back := operator.ended & active:
        raise Violated(f"lockdowns {back} were ended, and are in force")
    for agent in agents:
        witness, store = agent.witness, agent.store
        for subject, sequence in operator.revoked.items():
            if witness.denied.get(subject, (0, 0.0))[0] < sequence:
                raise Violated(f"{agent.name} does not know that {subject} is denied ({sequence})")
        if store is not None and {each.id for each in store.lockdowns} != active:
            raise Violated(f"{agent.name} has lockdowns {store.lockdowns}, not {active}")
        for name, command in operator.executed:
            if name == agent.name and command not in witness.commands:
                raise Violated(f"{name} says that it executed {command}, and did not")


async def stored_chains(engine: AsyncEngine, site: Site) -> dict[str, list[StoredRow]]:
    """The server's store, chain by chain, verified."""
    ring = {**event_ring(await list_agents(engine), site.suite)}
    for keyid, trusted in site.keys_ever().items():
        ring[keyid] = type(trusted)(trusted.key, SERVER, trusted.payload_types)
    stored: dict[str, list[StoredRow]] = {}
    try:
        for (source, chain), head in (await list_chains(engine)).items():
            if source in stored:
                raise Violated(f"{source} has two chains")
            audit = ChainAudit(source, chain, site.name, site.suite, ring)
            rows = [row async for page in read_chain(engine, source, chain) for row in page]
            audit.check(rows)
            audit.finish(head)
            stored[source] = rows
    except BadPlace as bad:
        raise Violated(f"the store does not verify: {bad!r}") from bad
    return stored


def check_agent(agent: Agent, head: Head, rows: list[StoredRow]) -> None:
    """Everything that the agent stored is at the server, once and as it was."""
    witness = agent.witness
    lines = {row.sequence: row.line for row in rows}
    if head.sequence != len(rows) or head.chain != rows[0].chain:
        raise Violated(f"{agent.name} is at {head}, the server has {len(rows)} lines")
    if sorted(rows, key=lambda row: row.position) != rows:
        raise Violated(f"{agent.name}: lines were stored out of order")
    for sequence, line in witness.lines.items():
        if lines.get(sequence) != line:
            raise Violated(f"{agent.name}: line {sequence} was stored and is not at the server")
    data = [(event_name(row.type), json.loads(row.line)["data"]) for row in rows]
    _check_marks(agent, data)
    causes = [each["cause"] for name, each in data if name == "agent.started"]
    if any(cause != "restart_after_kill" for cause in causes[1:]):
        raise Violated(f"{agent.name} says it started so: {causes}")
    done = Counter(each["command"] for name, each in data if name == "command.executed")
    if twice := [command for command, times in done.items() if times > 1]:
        raise Violated(f"{agent.name}: commands were executed twice: {twice}")
    if unknown := done.keys() - witness.commands.keys():
        raise Violated(f"{agent.name}: nobody gave the commands {unknown}")


def _check_marks(agent: Agent, data: list[tuple[str, Any]]) -> None:
    witness = agent.witness
    details = [each["detail"] for name, each in data if name == "door.fault"]
    marks = Counter(detail for detail in details if _MARK.fullmatch(detail))
    if twice := [mark for mark, times in marks.items() if times > 1]:
        raise Violated(f"{agent.name}: there twice: {twice}")
    if unknown := marks.keys() - witness.attempted:
        raise Violated(f"{agent.name}: nobody did {unknown}")
    if both := marks.keys() & witness.refused:
        raise Violated(f"{agent.name}: refused, and stored all the same: {both}")
    gone = witness.attempted - marks.keys() - witness.refused - witness.unanswered
    if gone:
        raise Violated(f"{agent.name}: neither stored nor refused: {gone}")


def check_server(rows: list[StoredRow], operator: Operator, tally: Counter[str]) -> None:
    """The server tells of what was asked for, and raises no alarm for what it did itself."""
    told: set[int] = set()
    for row in rows:
        data = json.loads(row.line)["data"]
        match event_name(row.type):
            case "alarm.raised":
                tally[f"alarm {data['kind']}"] += 1
                if data["kind"] not in EXPECTED_ALARMS:
                    raise Violated(f"the server raised a false alarm: {data}")
            case "revocation.requested":
                if data["sequence"] in told:
                    raise Violated(f"revocation {data['sequence']} is told of twice")
                told.add(data["sequence"])
    if silent := set(operator.revoked.values()) - told:
        raise Violated(f"no event tells of the revocations {silent}")
