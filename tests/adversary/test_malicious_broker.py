"""The broker as TUF's and Uptane's attacker: each attack is refused, changes nothing, and is named.

https://theupdateframework.github.io/specification/v1.0.33/#goals-to-protect-against-specific-attacks
https://uptane.org/docs/2.1.0/standard/uptane-standard (section 4.2)

The agent is real but for its doors; what it hears is up to the test. Where an attack needs a stolen
key, the test has it.
"""

from contextlib import asynccontextmanager

from edge_agent import fetching
from edge_agent.link import MAX_PACKET_BYTES
from schemas.command import Action
from schemas.envelope import Signer, seal_envelope
from schemas.lockdown import Lockdown
from schemas.statement import payload_type, sign_statement
from schemas.topics import (
    CHUNK,
    COMMAND,
    HEARTBEAT,
    LOCKDOWN,
    POLICY,
    REVOCATION,
    ROOT,
    SNAPSHOT,
)
from schemas.versions import LogHead
from tests.door_stand import OTHER, door_stand
from tests.link_rig import AGENT, DOOR, SITE, link_rig
from tests.site_keys import SiteKeys
from tests.site_voice import SiteVoice

ADA, BOB = "00000000000000aa", "00000000000000bb"


def cards(*ids):
    return [{"card": each, "person": f"p{each}"} for each in ids]


@asynccontextmanager
async def at_work(folder, **site):
    """An agent that has a policy with Ada's card, one revocation and an ended lockdown."""
    keys = SiteKeys(site=SITE, **site)
    async with link_rig(folder, voice=SiteVoice(keys, AGENT)) as rig:
        rig.voice.new_policy(cards(ADA), doors={DOOR: {"domain": DOOR, "suite": "intl"}})
        rig.voice.revoke(BOB)
        rig.voice.lock_down()
        await rig.broker.connections.get()
        await rig.say(HEARTBEAT, rig.voice.heartbeat(), retain=True)
        for receipt in ("policy.applied", "revocation.applied", "lockdown.applied"):
            await rig.event(receipt)
        yield rig


@asynccontextmanager
async def refusal(rig, reason, purpose):
    """What is done in the block is refused for `reason`, in an event, and changes nothing."""
    state, acts = rig.store.state, rig.doors.changes
    told = {}
    yield told
    name = "policy.rejected" if purpose in (POLICY, CHUNK) else "statement.rejected"
    told |= await rig.event(name, reason=reason, purpose=purpose)
    assert rig.store.state == state
    assert rig.doors.changes == acts
    assert rig.doors.commands == []
    assert rig.store.find(ADA).card is not None


def forged(statement, keyid, key):
    """Under the site's own keyid, by another key."""
    return sign_statement(statement, Signer(key, keyid))


async def test_arbitrary_statements_are_refused(tmp_path):
    async with at_work(tmp_path) as rig:
        stranger = SiteVoice(SiteKeys(site=SITE), AGENT, commands=9)
        stranger.new_policy(cards(BOB), counter=2, doors={})
        stranger.revoke(ADA)
        said = {
            POLICY: stranger.policy_envelope,
            HEARTBEAT: stranger.heartbeat(),
            REVOCATION: stranger.revocations_after(0),
            SNAPSHOT: stranger.snapshot(),
            LOCKDOWN: stranger.lock_down(),
            COMMAND: stranger.command(Action.PULSE, rig.session, DOOR),
        }
        for channel, envelope in said.items():
            async with refusal(rig, "UnknownKey", channel):
                await rig.say(channel, envelope)
        site = rig.voice.keys
        async with refusal(rig, "BadSignature", POLICY):
            mine = stranger.policy
            assert mine is not None
            key = stranger.keys.signer("policy").key
            await rig.say(POLICY, forged(mine, site.signer("policy").keyid, key))
        async with refusal(rig, "MalformedEnvelope", HEARTBEAT):
            await rig.say(HEARTBEAT, b'{"counter": 1}')
        async with refusal(rig, "MalformedChunk", CHUNK):
            await rig.say(CHUNK, b'{"card":"00000000000000bb"}\n')


async def test_a_rollback_is_refused(tmp_path):
    async with at_work(tmp_path) as rig:
        voice = rig.voice
        first_policy, first_lockdown = voice.policy_envelope, voice.lockdown_envelope
        first_beat = voice.heartbeat()
        await rig.say(HEARTBEAT, voice.heartbeat())
        await rig.say(POLICY, voice.new_policy(cards(ADA), doors={}))  # no heartbeat names it yet
        await rig.say_to_all(LOCKDOWN, voice.lock_down())
        await rig.event("policy.applied", policy_version=2)
        await rig.event("lockdown.applied", counter=2)
        for channel, envelope in {
            POLICY: first_policy,
            LOCKDOWN: first_lockdown,
            HEARTBEAT: first_beat,
        }.items():
            async with refusal(rig, "Rollback", channel):
                await rig.say(channel, envelope)
        await rig.say(HEARTBEAT, voice.heartbeat())
        await rig.until_heard(lambda: rig.store.state.heartbeat.policy.version == 2)
        for names_less in ({"policy": None}, {"revocation": LogHead()}, {"lockdown": 1}):
            rig.forget()
            async with refusal(rig, "Rollback", HEARTBEAT):
                await rig.say(HEARTBEAT, voice.heartbeat(**names_less))


async def test_a_freeze_is_noticed_because_the_heartbeat_names_what_is_held_back(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(fetching, "ANSWER_S", 0.2)
    async with at_work(tmp_path) as rig:
        rig.honest = False
        rig.voice.new_policy(cards(ADA, BOB), doors={})
        rig.voice.revoke(ADA)
        rig.voice.lock_down()
        await rig.say(HEARTBEAT, rig.voice.heartbeat())
        await rig.event("policy.rejected", reason="PartialBundle", purpose=POLICY)
        await rig.event("statement.rejected", reason="PartialBundle", purpose=REVOCATION)
        await rig.event("statement.rejected", reason="PartialBundle", purpose=LOCKDOWN)
        assert rig.store.state.policy.counter == 1
        assert rig.store.state.revocation.sequence == 1
        rig.honest = True
        await rig.event("policy.applied", policy_version=2)
        await rig.event("revocation.applied", sequence=2)


async def test_a_freeze_of_all_makes_doors_stale_and_then_shut(tmp_path):
    async with door_stand(tmp_path) as stand:
        await stand.start()
        await stand.policy(door={"grace_s": 900})
        await stand.watch.look()
        for passed_s, named in ((91, "policy.stale"), (810, "policy.expired")):
            stand.clock.ahead_s += passed_s
            await stand.watch.look()
            ((_, told),) = await stand.events(named)
            assert told["doors"] == [DOOR, OTHER]
        assert stand.house.freshness(DOOR) == "expired"
        await stand.ios[DOOR].press_rex()
        await stand.until(lambda: stand.ios[DOOR].released)  # whoever is inside gets out


async def test_a_fast_forward_is_refused(tmp_path):
    async with at_work(tmp_path) as rig:
        far = 2_000_000
        policy = rig.voice.policy.model_copy(update={"counter": far})
        async with refusal(rig, "FastForward", POLICY):
            await rig.say(POLICY, rig.voice.keys.sign(policy))
        lockdowns = rig.voice.lockdowns.model_copy(update={"counter": far})
        async with refusal(rig, "FastForward", LOCKDOWN):
            await rig.say(LOCKDOWN, rig.voice.keys.sign(lockdowns))
        async with refusal(rig, "FastForward", HEARTBEAT):
            await rig.say(HEARTBEAT, rig.voice.heartbeat(lockdown=far))
        first = rig.voice.command(Action.LOCK, rig.session, DOOR)
        await rig.store.take_command(first, rig.session, rig.voice.now())
        async with refusal(rig, "FastForward", COMMAND):
            command = rig.voice.command(Action.LOCK, rig.session, DOOR, counter=far)
            await rig.say(COMMAND, command)


async def test_mix_and_match_is_refused(tmp_path):
    async with at_work(tmp_path) as rig:
        rig.honest = False
        rig.voice.new_policy(cards(ADA, BOB), doors={})
        await rig.say(HEARTBEAT, rig.voice.heartbeat())
        await rig.until_heard(lambda: rig.pulls and rig.pulls[-1].policy)
        other = rig.voice.policy.model_copy(update={"cards": {}})
        async with refusal(rig, "MixAndMatch", POLICY):
            await rig.say(POLICY, rig.voice.keys.sign(other))


async def test_endless_data_is_refused(tmp_path):
    async with at_work(tmp_path) as rig:
        for channel, limit, reason in (
            (CHUNK, 96 * 1024, "MalformedChunk"),
            (HEARTBEAT, 64 * 1024, "MalformedEnvelope"),
            (POLICY, 192 * 1024, "MalformedEnvelope"),
        ):
            async with refusal(rig, reason, channel) as told:
                await rig.say(channel, bytes(limit + 1))
            assert told["detail"].endswith(f"the limit is {limit}"), "before anything else"
        async with refusal(rig, "EndlessData", "connection"):
            await rig.say(POLICY, bytes(MAX_PACKET_BYTES))
        await rig.broker.connections.get()  # it comes back


async def test_what_is_for_another_agent_is_refused(tmp_path):
    async with at_work(tmp_path) as rig:
        keys, voice = rig.voice.keys, rig.voice
        for channel, statement in {
            POLICY: voice.policy.model_copy(update={"audience": "back-agent", "counter": 2}),
            LOCKDOWN: voice.lockdowns.model_copy(update={"site": "elsewhere", "counter": 2}),
        }.items():
            async with refusal(rig, "WrongAudience", channel):
                await rig.say(channel, keys.sign(statement))
        async with refusal(rig, "WrongAudience", HEARTBEAT):
            await rig.say(HEARTBEAT, voice.heartbeat(audience="back-agent"))
        async with refusal(rig, "WrongAudience", COMMAND):
            command = voice.command(Action.PULSE, rig.session, DOOR, audience="back-agent")
            await rig.say(COMMAND, command)


async def test_a_key_signs_for_no_purpose_but_its_own(tmp_path):
    async with at_work(tmp_path) as rig:
        keys, voice = rig.voice.keys, rig.voice
        policy = voice.policy.model_copy(update={"counter": 2})
        root = keys.root_document(counter=2)
        for channel, statement, role in (
            (POLICY, policy, "online"),
            (POLICY, policy, "revoke"),
            (LOCKDOWN, voice.lockdowns.model_copy(update={"counter": 2}), "policy"),
            (LOCKDOWN, voice.lockdowns.model_copy(update={"counter": 2}), "revoke"),
        ):
            async with refusal(rig, "UnknownKey", channel):
                await rig.say(channel, sign_statement(statement, keys.signer(role)))
        async with refusal(rig, "ThresholdNotMet", ROOT):
            await rig.say(ROOT, sign_statement(root, keys.signer("online")))
        body = voice.lockdowns.model_copy(update={"counter": 2}).model_dump_json().encode()
        async with refusal(rig, "MalformedEnvelope", POLICY):
            sealed = seal_envelope(payload_type("policy"), body, [keys.signer("policy")])
            await rig.say(POLICY, sealed)


async def test_a_statement_on_another_topic_is_refused(tmp_path):
    async with at_work(tmp_path) as rig:
        command = rig.voice.command(Action.PULSE, rig.session, DOOR)
        async with refusal(rig, "WrongPurpose", HEARTBEAT):
            await rig.say(HEARTBEAT, command)
        async with refusal(rig, "WrongPurpose", COMMAND):
            await rig.say(COMMAND, rig.voice.policy_envelope)
        async with refusal(rig, "MalformedTopic", "elsewhere"):
            await rig.broker.publish(f"ostiary/{SITE}/down/back-agent/command", command)


async def test_what_a_broker_retained_is_no_command(tmp_path):
    async with at_work(tmp_path) as rig:
        command = rig.voice.command(Action.PULSE, rig.session, DOOR)
        for channel, envelope in {
            COMMAND: command,
            POLICY: rig.voice.policy_envelope,
            REVOCATION: rig.voice.revocations_after(0),
        }.items():
            async with refusal(rig, "RetainedReplay", channel):
                await rig.say(channel, envelope, retain=True)


async def test_a_bundle_without_one_of_its_chunks_is_not_applied(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "ANSWER_S", 0.3)
    async with at_work(tmp_path) as rig:
        many = [f"{number:016x}" for number in range(100)]
        before = dict(rig.voice.chunks)
        rig.voice.new_policy(cards(*many), doors={})
        new = [digest for digest in rig.voice.chunks if digest not in before]
        held_back = rig.voice.chunks.pop(new[5])
        rig.honest = False
        await rig.say(HEARTBEAT, rig.voice.heartbeat())
        await rig.until_heard(lambda: rig.pulls and rig.pulls[-1].policy)
        async with refusal(rig, "PartialBundle", CHUNK):
            rig.honest = True
            await rig.say(POLICY, rig.voice.policy_envelope)
        assert new[5] in rig.store.missing
        rig.voice.chunks[new[5]] = held_back
        await rig.event("policy.applied", policy_version=2)


async def test_a_retrieval_that_trickles_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "SLOW_AFTER_S", 0.3)
    async with at_work(tmp_path) as rig:
        many = [f"{number:016x}" for number in range(100)]
        rig.honest = False
        rig.voice.new_policy(cards(*many), doors={})
        await rig.say(HEARTBEAT, rig.voice.heartbeat())
        await rig.until_heard(lambda: rig.pulls and rig.pulls[-1].policy)
        async with refusal(rig, "SlowRetrieval", CHUNK):
            await rig.say(POLICY, rig.voice.policy_envelope)
            await rig.until_heard(lambda: rig.pulls[-1].chunks)
            await rig.say(CHUNK, rig.voice.chunks[rig.pulls[-1].chunks[0]])
        rig.honest = True
        await rig.event("policy.applied", policy_version=2)


async def test_an_old_snapshot_whose_chunks_nobody_has_keeps_no_revocation_away(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(fetching, "ANSWER_S", 0.2)
    async with at_work(tmp_path) as rig:
        voice = rig.voice
        voice.revoke(ADA)
        known = set(voice.chunks)
        old = voice.snapshot()
        for digest in set(voice.chunks) - known:
            del voice.chunks[digest]
        voice.revoke("00000000000000cc")
        await rig.say(SNAPSHOT, old)
        await rig.until_heard(lambda: rig.pulls[-1].chunks)
        await rig.say(HEARTBEAT, voice.heartbeat())
        await rig.event("revocation.applied", sequence=3)


async def test_equivocation_is_refused_and_named(tmp_path):
    async with at_work(tmp_path) as rig:
        keys, voice = rig.voice.keys, rig.voice
        other = voice.policy.model_copy(update={"timezone": "Asia/Shanghai"})
        fork = SiteVoice(keys, AGENT, entries=voice.entries[:], heads=voice.heads[:])
        fork.revoke(ADA)
        await rig.say_to_all(REVOCATION, voice.revoke("00000000000000cc"))
        await rig.event("revocation.applied", sequence=2)
        shut = Lockdown(id="x", scope="site", name=SITE, since=voice.now())
        lockdowns = voice.lockdowns.model_copy(update={"active": (shut,)})
        for channel, envelope in {
            POLICY: keys.sign(other),
            REVOCATION: fork.revocations_after(1),
            LOCKDOWN: keys.sign(lockdowns),
            HEARTBEAT: voice.heartbeat(revocation=fork.heads[-1]),
            ROOT: sign_statement(keys.root_document(issued=voice.now()), *keys.signers["root"]),
        }.items():
            async with refusal(rig, "Equivocation", channel):
                await rig.say(channel, envelope)


async def test_root_keys_below_their_threshold_change_nothing(tmp_path):
    async with at_work(tmp_path, root_keys=3, threshold=2) as rig:
        keys = rig.voice.keys
        thief = keys.new_signer()
        mine = {
            "keys": {**keys.root.keys, thief.keyid: thief.key.public.point.hex()},
            "roles": {**keys.root.roles, "policy": {"keyids": (thief.keyid,)}},
        }
        root = keys.root_document(counter=2, **mine)
        stolen = keys.signers["root"][0]
        for signers in ((stolen,), (stolen, stolen), (stolen, thief)):
            async with refusal(rig, "ThresholdNotMet", ROOT):
                await rig.say(ROOT, sign_statement(root, *signers))
            rig.forget()
        await rig.say_to_all(ROOT, rig.voice.new_root())
        await rig.event("root.applied", version=2)
