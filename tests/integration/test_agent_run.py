"""The agent as it is run: a real process, a real broker, cards over its doorway."""

import signal
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from edge_agent.virtual.chip import Tear, TearMoment
from schemas.lockdown import Lockdown
from schemas.topics import POLICY
from tests.agent_rig import DOOR, Rig, card_id, standing

pytestmark = pytest.mark.system


async def enrolled(tmp_path, mosquitto, suite="intl", people=1):
    rig = Rig(tmp_path, suite, mosquitto.port)
    cards = [rig.make_card(number) for number in range(1, people + 1)]
    await rig.bind(*cards)
    return rig, cards


async def started(rig, server, **changes):
    """Start the agent, and let it have a policy; what it ran with before is still there."""
    await rig.start()
    version = await server.put_policy(**changes)
    await server.applied(version)


@pytest.mark.parametrize("suite", ["intl", "gm"])
async def test_a_tap_opens_the_door_and_is_signed_for(tmp_path, mosquitto, suite):
    rig, (card,) = await enrolled(tmp_path, mosquitto, suite)
    async with standing(rig) as server:
        await started(rig, server)
        async with rig.doorway() as doorway:
            assert await doorway.tap(card) == "granted"
            await doorway.strike(released=True)
            await doorway.contact("open")
            await doorway.contact("closed")
            await doorway.strike(released=False)
        await server.until(lambda: server.names.count("door.mode_changed") == 2)
        await rig.handed_over()
        assert await rig.end(signal.SIGTERM) == 0
        assert [name for name in server.names if name != "policy.fresh"] == [
            "card.bound",
            "agent.started",
            "policy.applied",
            "access.granted",
            "door.mode_changed",
            "door.opened",
            "access.taken",
            "door.closed",
            "door.mode_changed",
        ]
        (granted,) = server.named("access.granted")
        assert granted["person"] == f"p{card_id(1)}"
        assert granted["policy_version"] == 1
        assert granted["key_version"] == 1
        assert granted["response_ms"] > 0
        decided = await rig.logged("decided", granted=True)
        assert granted["latency_ms"]["decision"] == decided["tap_to_decision_ms"]
        (taken,) = server.named("access.taken")
        strike = await rig.logged("strike_released")
        assert taken["grant"] == strike["grant"] == decided["event_id"]
        assert taken["latency_ms"]["strike"] == strike["tap_to_strike_ms"]
        assert server.named("agent.started")[0]["cause"] == "first_start"
        assert server.named("agent.started")[0]["doors"] == {DOOR: "closed"}


async def test_denials_say_why(tmp_path, mosquitto):
    rig, cards = await enrolled(tmp_path, mosquitto, people=4)
    stranger, copy = rig.make_card(9), rig.make_card(1)
    policy = rig.policy()
    del rig.cards[card_id(9)]
    policy["cards"] = [each for each in policy["cards"] if each["card"] != card_id(9)]
    policy["cards"][1]["groups"] = []
    policy["cards"][2]["valid_until"] = datetime.now(UTC) - timedelta(days=1)
    async with standing(rig) as server:
        await started(rig, server, **policy)
        await server.revoke(card_id(4))
        async with rig.doorway() as doorway:
            for card in [*cards[1:], stranger, copy]:
                assert await doorway.tap(card) == "denied"
            assert not doorway.released
        await server.until(lambda: len(server.named("access.denied")) == 5)
        assert [each["reason"] for each in server.named("access.denied")] == [
            "no_rule",
            "expired",
            "card_lost",
            "unknown_card",
            "card_auth_failed",
        ]


async def test_a_forced_and_a_held_door_alarm_and_clear(tmp_path, mosquitto):
    rig, _ = await enrolled(tmp_path, mosquitto)
    async with standing(rig) as server:
        await started(rig, server)
        async with rig.doorway() as doorway:
            await doorway.contact("open")
            await doorway.contact("closed")
            await doorway.press_rex()
            await doorway.contact("open")
            await server.until(lambda: "door.held" in server.names)
            await doorway.contact("closed")
        await server.until(lambda: "door.held.cleared" in server.names)
        doors = [name for name in server.names if name.startswith("door.")]
        for before, after in [
            ("door.forced", "door.forced.cleared"),
            ("door.held_prealarm", "door.held"),
            ("door.held", "door.held.cleared"),
        ]:
            assert doors.index(before) < doors.index(after)
        assert doors.count("door.forced") == 1
        assert [each["after"] for each in server.named("door.opened")] == ["nothing", "rex"]


async def test_events_of_a_broken_connection_arrive_once(tmp_path, mosquitto):
    rig, (card,) = await enrolled(tmp_path, mosquitto)
    async with standing(rig) as server:
        await started(rig, server)
        async with rig.doorway() as doorway:
            await doorway.tap(card)
            await server.until(lambda: "access.granted" in server.names)
            mosquitto.kill()
            for _ in range(10):
                assert await doorway.tap(card) == "granted"
            mosquitto.start()
            await doorway.tap(card)
        await server.until(lambda: len(server.named("access.granted")) == 12)
        await rig.end(signal.SIGTERM)
        ids = [link.event.id for link in server.events]
        assert len(set(ids)) == len(ids)


async def test_nothing_is_lost_when_the_agent_is_killed(tmp_path, mosquitto):
    rig, (card,) = await enrolled(tmp_path, mosquitto)
    async with standing(rig) as server:
        decided = []
        for _ in range(3):
            await started(rig, server)
            async with rig.doorway() as doorway:
                for _ in range(3):
                    await doorway.tap(card)
            await rig.end(signal.SIGKILL)
            decided += [line["event_id"] for line in rig.log if line["event"] == "decided"]
        await rig.start()
        last = (await rig.status())["sequence"]
        await server.until(lambda: len(server.events) >= last)
        assert set(decided) <= {link.event.id for link in server.events}
        causes = [each["cause"] for each in server.named("agent.started")]
        assert causes == ["first_start", *["restart_after_kill"] * 3]
        assert "door.forced" not in server.names
        assert len({link.event.chain for link in server.events}) == 1


async def test_a_backlog_goes_out_in_batches_and_stays_until_it_is_signed_for(tmp_path, mosquitto):
    rig, (card,) = await enrolled(tmp_path, mosquitto)
    async with standing(rig) as server:
        await started(rig, server)
        await rig.handed_over()
        mosquitto.kill()
        server.acknowledging = False
        async with rig.doorway() as doorway:
            for _ in range(20):
                await doorway.tap(card)
            mosquitto.start()
            await server.until(lambda: len(server.named("access.granted")) == 20)
            assert server.messages < len(server.events)
            assert (await rig.status())["unacknowledged"] >= 20
            server.acknowledging = True
            await doorway.tap(card)
            await server.until(lambda: len(server.named("access.granted")) == 21)
        await rig.end(signal.SIGTERM)


async def test_policies_are_applied_as_they_come_and_never_go_back(tmp_path, mosquitto):
    rig, (card,) = await enrolled(tmp_path, mosquitto)
    async with standing(rig) as server:
        await started(rig, server)
        first = server.voice.policy_envelope
        async with rig.doorway() as doorway:
            await server.applied(await server.put_policy(rules=[]))
            assert await doorway.tap(card) == "denied"
            await server.tell(POLICY, first)
            await server.until(lambda: server.refused("Rollback"))
            await server.tell(POLICY, b"{}")
            await server.until(lambda: server.refused("MalformedEnvelope"))
            assert await doorway.tap(card) == "denied"
            await rig.end(signal.SIGTERM)
        await rig.start()
        assert (await rig.status())["policy_version"] == 2


async def test_what_the_agent_has_applied_is_what_it_reports(tmp_path, mosquitto):
    rig, (card,) = await enrolled(tmp_path, mosquitto)
    async with standing(rig) as server:
        await started(rig, server)
        await server.revoke(card_id(7))
        await server.lock_down(
            Lockdown(id="drill", scope="door", name=DOOR, since=server.voice.now())
        )
        await server.until(lambda: "lockdown.applied" in server.names)
        await server.until(lambda: server.reports[-1].doors[DOOR].mode == "locked_down")
        report = server.reports[-1]
        assert report.policy == server.voice.policy_version
        assert report.revocation == server.voice.heads[-1]
        assert report.lockdown == 1
        assert report.doors[DOOR].freshness == "fresh"
        status = await rig.status()
        assert status["session"] == report.session
        assert status["locked_down"] == [DOOR]
        assert status["freshness"] == {DOOR: "fresh"}
        assert status["revocation"] == 1
        async with rig.doorway() as doorway:
            assert await doorway.tap(card) == "denied"
            await doorway.press_rex()
            await doorway.strike(released=True)
        assert await rig.end(signal.SIGTERM) == 0
        await server.until(lambda: server.reports[-1].leaving)
        assert (await rig.status())["session"] is None


async def test_an_agent_that_dies_leaves_its_will(tmp_path, mosquitto):
    rig, _ = await enrolled(tmp_path, mosquitto)
    async with standing(rig) as server:
        await rig.start()
        await server.until(lambda: server.reports)
        await rig.end(signal.SIGKILL)
        await server.until(lambda: server.wills)


async def test_what_came_while_the_agent_was_away_is_asked_for(tmp_path, mosquitto):
    rig, (card,) = await enrolled(tmp_path, mosquitto)
    async with standing(rig) as server:
        await started(rig, server)
        await rig.end(signal.SIGTERM)
        voice = server.voice
        voice.new_root()
        for number in range(300):
            voice.revoke(card_id(1000 + number))
        voice.revoke(card_id(1))
        voice.new_policy(**rig.policy())
        voice.lock_down()
        await server.beat()
        await rig.start()
        await server.until(
            lambda: {"root.applied", "lockdown.applied", "revocation.applied"} <= {*server.names}
        )
        await server.applied(2)
        assert server.named("revocation.applied")[0]["snapshot"]
        async with rig.doorway() as doorway:
            assert await doorway.tap(card) == "denied"


async def test_a_failing_disk_does_not_hold_the_door_and_the_loss_is_declared(tmp_path, mosquitto):
    rig, (card,) = await enrolled(tmp_path, mosquitto)
    async with standing(rig) as server:
        await started(rig, server)
        blocker = sqlite3.connect(rig.folder / "state" / "outbox.db", isolation_level=None)
        async with rig.doorway() as doorway:
            await server.until(lambda: "policy.applied" in server.names)
            blocker.execute("BEGIN IMMEDIATE")
            assert await doorway.tap(card) == "granted"
            await doorway.strike(released=True)
            await rig.logged("event_lost")
            blocker.execute("ROLLBACK")
            blocker.close()
            await doorway.tap(card)
        await server.until(lambda: "agent.events_lost" in server.names)
        (lost,) = server.named("agent.events_lost")
        assert lost["why"] == "storage_error"
        assert lost["count"] >= 1


async def test_a_card_pulled_away_is_asked_to_try_again(tmp_path, mosquitto):
    rig, (card,) = await enrolled(tmp_path, mosquitto)
    async with standing(rig) as server:
        await started(rig, server)
        async with rig.doorway() as doorway:
            card.arm(Tear(TearMoment.AFTER_APDU, 2))
            assert await doorway.tap(card) == "try_again"
            assert await doorway.tap(card) == "granted"


async def test_five_wrong_answers_lock_a_card_out(tmp_path, mosquitto):
    rig, (card,) = await enrolled(tmp_path, mosquitto)
    respond = card.transmit

    def lie(apdu):
        answer = respond(apdu)
        return bytes(16) + answer[-2:] if apdu[1] == 0x88 and len(answer) == 18 else answer

    async with standing(rig) as server:
        await started(rig, server)
        async with rig.doorway() as doorway:
            card.transmit = lie
            for _ in range(5):
                assert await doorway.tap(card) == "denied"
            card.transmit = respond
            assert await doorway.tap(card) == "denied"
        await server.until(lambda: len(server.named("access.denied")) == 6)
        reasons = [each["reason"] for each in server.named("access.denied")]
        assert reasons == ["card_auth_failed"] * 5 + ["locked_out"]


async def test_the_exit_reader_opens_though_the_server_is_not_heard(tmp_path, mosquitto):
    rig, (card,) = await enrolled(tmp_path, mosquitto)
    async with standing(rig) as server:
        door = {**rig.policy()["doors"][DOOR], "grace_s": 0}
        await started(rig, server, doors={DOOR: door})
        async with rig.doorway() as doorway:
            assert await doorway.tap(card) == "denied"
            assert await doorway.tap(card, direction="out") == "granted"
        await server.until(lambda: "access.granted" in server.names)
        (denied,) = server.named("access.denied")
        assert denied["reason"] == "policy_expired"
        assert denied["freshness"] == "expired"
