"""Commands: sent once to one live session, and believed done only by the agent's own event."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from edge_agent.core.trusted_state import TrustedState, after_command
from schemas.command import Action, Command
from server.distribution.commands import CommandResult, NoSuchDoor, Session
from tests.orders_rig import MOMENT, Orders, orders

AGENT, DOOR, SESSION = "front-agent", "front", "5e" * 8


@pytest.fixture
async def site(tmp_path):
    async with orders(tmp_path) as made:
        await made.add_door(DOOR, AGENT)
        made.sessions[AGENT] = Session(SESSION, 0)
        yield made


class Door:
    """The agent at the other end."""

    def __init__(self, site: Orders) -> None:
        self.site = site
        self.state = TrustedState.pinned(site.keys.root)

    async def take(self, count: int = 1) -> Command:
        """The newest command, once there are so many."""
        _, payload, retain = (await self.site.broker.until(count))[-1]
        assert not retain
        self.state, command = after_command(self.state, payload, AGENT, SESSION, MOMENT)
        return command

    def execute(self, command: Command, agent: str = AGENT, **data: Any) -> None:
        said = {
            "command": command.id,
            "action": command.action,
            "door": command.door,
            "latency_ms": 42.0,
            "clock": {"status": "synced"},
        }
        self.site.commands.result("command.executed", said | data, agent)


async def sent(site: Orders, action: Action = Action.PULSE, **more: Any) -> CommandResult:
    return await site.commands.send(DOOR, action, "mei", **more)


async def test_a_command_is_announced_sent_and_answered_by_the_agents_event(site):
    door = Door(site)
    asking = asyncio.create_task(sent(site))
    command = await door.take()
    assert (command.action, command.door, command.counter) == (Action.PULSE, DOOR, 1)
    assert command.expires == MOMENT + timedelta(seconds=5)
    (news,) = await site.announcements()
    assert (news.name, news.subject) == ("command.sent", "doors/front")
    assert news.data == {
        "by": "mei",
        "command": command.id,
        "agent": AGENT,
        "door": DOOR,
        "action": "pulse",
    }
    assert not asking.done()
    door.execute(command)
    result = await asking
    assert (result.state, result.command) == ("executed", command.id)
    assert result.operator_to_strike_ms == 42.0
    sample = "ostiary_operator_to_strike_seconds_sum"
    assert site.registry.get_sample_value(sample) == pytest.approx(0.042)


async def test_a_refusal_is_told_by_its_name(site):
    door = Door(site)
    asking = asyncio.create_task(sent(site))
    command = await door.take()
    site.commands.result(
        "command.refused",
        {
            "command": command.id,
            "action": "pulse",
            "door": DOOR,
            "reason": "Expired",
            "detail": "too late",
            "clock": {"status": "synced"},
        },
        AGENT,
    )
    result = await asking
    assert (result.state, result.reason, result.detail) == ("refused", "Expired", "too late")


async def test_nobody_answers_for_another_agent_and_nonsense_answers_nothing(site):
    door = Door(site)
    asking = asyncio.create_task(sent(site))
    command = await door.take()
    site.commands.result("command.executed", {"command": command.id}, AGENT)
    door.execute(command, agent="back-agent")
    site.commands.result("command.executed", {"command": "00" * 8}, AGENT)
    await asyncio.sleep(0)
    assert not asking.done()
    door.execute(command)
    door.execute(command)  # again, as after a resend
    assert (await asking).state == "executed"
    door.execute(command)


async def test_without_an_answer_it_may_have_been_done(site, monkeypatch):
    monkeypatch.setattr("server.distribution.commands.ANSWER_S", 0.01)
    result = await sent(site)
    assert result.state == "unconfirmed"
    assert result.expires == MOMENT + timedelta(seconds=5)
    assert site.registry.get_sample_value("ostiary_commands_total", {"state": "unconfirmed"}) == 1


async def test_without_a_live_session_nothing_is_sent_or_announced(site):
    del site.sessions[AGENT]
    assert (await sent(site)).state == "not_sent"
    site.sessions[AGENT] = Session(SESSION, 0)
    site.broker.away = True
    assert (await sent(site)).state == "not_sent"
    await site.add_door("cellar", None)
    assert (await site.commands.send("cellar", Action.LOCK, "mei")).state == "not_sent"
    with pytest.raises(NoSuchDoor):
        await site.commands.send("attic", Action.LOCK, "mei")
    assert await site.announcements() == []
    assert site.broker.messages == []


@pytest.mark.parametrize(
    ("action", "more"),
    [
        (Action.UNLOCK, {}),
        (Action.UNLOCK, {"until": MOMENT + timedelta(hours=25)}),
        (Action.BINDING_WINDOW, {"until": MOMENT + timedelta(minutes=1)}),
        (Action.REBOOT, {}),
    ],
)
async def test_an_order_without_what_it_needs_is_refused_before_anything_is_sent(
    site, action, more
):
    with pytest.raises(ValueError, match=r"."):
        await sent(site, action, **more)
    assert await site.announcements() == []
    assert site.broker.messages == []


async def test_counters_go_up_over_restarts_and_above_what_the_agent_has_taken(site, monkeypatch):
    monkeypatch.setattr("server.distribution.commands.ANSWER_S", 0.05)
    door = Door(site)
    await sent(site)
    assert (await door.take()).counter == 1
    again = await site.restarted()
    again.sessions[AGENT] = Session(SESSION, 1)
    door.site = again
    await sent(again, Action.LOCK)
    assert (await door.take()).counter == 2
    again.sessions[AGENT] = Session(SESSION, 700)  # this database was restored
    await sent(again, Action.LOCK)
    assert (await door.take(2)).counter == 701
    for lie in (2**63 - 1, 2**62, 20_000):  # it would have to refuse what follows
        again.sessions[AGENT] = Session(SESSION, lie)
        await sent(again, Action.LOCK)
    assert (await door.take(5)).counter == 704


async def test_one_door_that_does_not_take_its_command_holds_up_no_other(site):
    await site.add_door("back", "back-agent")
    site.sessions["back-agent"] = Session(SESSION, 0)
    site.broker.open.clear()
    first = asyncio.create_task(sent(site))
    await site.broker.until(1)
    second = asyncio.create_task(site.commands.send("back", Action.PULSE, "mei"))
    messages = await site.broker.until(2)
    assert messages[1][0].endswith("/down/back-agent/command")
    for task in (first, second):
        task.cancel()
    await asyncio.gather(first, second, return_exceptions=True)


@pytest.mark.parametrize(
    ("action", "seconds"),
    [(Action.PULSE, 5), (Action.UNLOCK, 5), (Action.LOCK, 30), (Action.IDENTIFY, 30)],
)
async def test_what_moves_a_strike_is_soon_too_late(site, action, seconds):
    until = MOMENT + timedelta(hours=1)
    asking = asyncio.create_task(sent(site, action, until=until))
    door = Door(site)
    command = await door.take()
    assert command.expires == MOMENT + timedelta(seconds=seconds)
    door.execute(command)
    await asking


async def test_commands_to_one_agent_arrive_in_the_order_of_their_counters(site):
    asking = [asyncio.create_task(sent(site, Action.IDENTIFY)) for _ in range(5)]
    door = Door(site)
    await site.broker.until(5)
    for _, payload, _ in list(site.broker.messages):
        door.state, command = after_command(door.state, payload, AGENT, SESSION, MOMENT)
        door.execute(command)
    assert {(await each).state for each in asking} == {"executed"}


async def test_a_reboot_names_no_door(site):
    asking = asyncio.create_task(site.commands.reboot(AGENT, "mei"))
    door = Door(site)
    command = await door.take()
    assert (command.action, command.door) == (Action.REBOOT, None)
    door.execute(command, latency_ms=None, more="than this server knows")
    result = await asking
    assert (result.state, result.operator_to_strike_ms) == ("executed", None)
    (news,) = await site.announcements()
    assert news.subject == f"agents/{AGENT}"
