"""An agent's link in this process: how it gets what it lacks, in which order, and what it says."""

import sqlite3
from datetime import timedelta

import pytest

from edge_agent import fetching
from edge_agent.database import connect
from edge_agent.outbox import OutboxFailed
from edge_agent.trust_tables import load, load_notes
from schemas.command import Action
from schemas.enrolment import Certificate
from schemas.errors import Replayed
from schemas.topics import (
    CERTIFICATE,
    CHUNK,
    COMMAND,
    HEARTBEAT,
    POLICY,
    REVOCATION,
)
from tests.link_rig import AGENT, DOOR, SITE, link_rig, unconnected
from tests.site_keys import SiteKeys
from tests.site_voice import SiteVoice

PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"


def cards(count):
    return [{"card": f"{number:016x}", "person": "ada"} for number in range(count)]


async def heard(rig):
    """The agent has the newest heartbeat."""
    await rig.say(HEARTBEAT, rig.voice.heartbeat(), retain=True)


async def connected(rig):
    await rig.broker.connections.get()
    await rig.until_heard(lambda: rig.reports)


async def test_an_agent_pulls_all_it_lacks_and_receipts_what_it_applied(tmp_path):
    async with link_rig(tmp_path) as rig:
        rig.voice.new_policy(cards(300), levels=2, doors={})
        for number in range(300):
            rig.voice.revoke(f"{number:016x}")
        rig.voice.lock_down()
        await connected(rig)
        await heard(rig)
        policy = await rig.event("policy.applied")
        revocation = await rig.event("revocation.applied")
        lockdown = await rig.event("lockdown.applied")
        assert policy["hash"] == rig.voice.policy_version.hash
        assert (revocation["sequence"], revocation["snapshot"]) == (300, True)
        assert revocation["hash"] == rig.voice.heads[-1].hash
        assert lockdown["counter"] == 1
        assert all(len(pull.chunks) <= 32 for pull in rig.pulls)
        asked = [digest for pull in rig.pulls for digest in pull.chunks]
        assert len(asked) == len(set(asked)), "each chunk once"
        await rig.until_heard(lambda: rig.reports[-1].policy == rig.voice.policy_version)
        assert rig.reports[-1].revocation == rig.voice.heads[-1]
        assert not {"policy.rejected", "statement.rejected"} & set(rig.names())


async def test_chunks_that_come_twice_or_after_their_policy_is_past_are_no_attack(tmp_path):
    async with link_rig(tmp_path) as rig:
        rig.voice.new_policy(cards(300), doors={})
        await connected(rig)
        rig.honest = False
        await heard(rig)
        await rig.until_heard(lambda: rig.pulls and rig.pulls[-1].policy)
        await rig.say(POLICY, rig.voice.policy_envelope)
        await rig.until_heard(lambda: rig.pulls[-1].chunks)
        late = [rig.voice.chunks[digest] for digest in rig.pulls[-1].chunks]
        rig.voice.new_policy([card | {"person": "bob"} for card in cards(300)], doors={})
        rig.honest = True
        await heard(rig)
        await rig.say(POLICY, rig.voice.policy_envelope)
        for body in late:
            await rig.say(CHUNK, body)
        await rig.event("policy.applied", policy_version=2)
        rig.voice.new_policy([card | {"person": "eve"} for card in cards(300)], doors={})
        for digest in rig.pulls[-1].chunks:
            await rig.say(CHUNK, rig.voice.chunks[digest])
        await heard(rig)
        await rig.event("policy.applied", policy_version=3)
        assert "policy.rejected" not in rig.names()


async def test_one_changed_card_costs_one_chunk(tmp_path):
    async with link_rig(tmp_path) as rig:
        rig.voice.new_policy(cards(1000), doors={})
        await connected(rig)
        await heard(rig)
        await rig.event("policy.applied", policy_version=1)
        before = len(rig.pulls)
        changed = cards(1000)
        changed[7]["person"] = "bob"
        rig.voice.new_policy(changed, doors={})
        await heard(rig)
        await rig.event("policy.applied", policy_version=2)
        assert sum(len(pull.chunks) for pull in rig.pulls[before:]) == 1
        assert rig.store.find(changed[7]["card"]).card.person == "bob"


async def test_a_receipt_comes_after_the_disk_and_after_the_doors(tmp_path):
    async with link_rig(tmp_path) as rig:
        seen = []

        async def trust_changed():
            on_disk = load(connect(tmp_path / "trust.db"))
            seen.append((on_disk.policy, "policy.applied" in rig.names()))

        rig.doors.trust_changed = trust_changed
        rig.voice.new_policy(doors={})
        await connected(rig)
        await heard(rig)
        await rig.event("policy.applied")
        ((policy, receipted),) = seen
        assert policy == rig.voice.policy
        assert not receipted


async def test_a_receipt_that_a_kill_cut_off_is_given_at_the_next_start_and_once(tmp_path):
    voice = SiteVoice(SiteKeys(site=SITE), AGENT)
    async with unconnected(tmp_path, voice, port=1) as killed:
        await killed.link.receipts.catch_up()
        now = voice.now()
        await killed.store.offer_policy(voice.new_policy(doors={}), now)
        await killed.store.apply_staged()
        await killed.store.take_revocation(voice.revoke("00000000000000aa"), now)
        await killed.store.take_lockdowns(voice.lock_down(), now)
        await killed.store.take_root(voice.new_root())
        assert killed.names() == []
    for receipts in (
        ["lockdown.applied", "policy.applied", "revocation.applied", "root.applied"],
        [],
    ):
        async with unconnected(tmp_path, voice, port=1) as rig:
            await rig.link.receipts.catch_up()
            assert rig.names() == receipts
            if receipts:
                await rig.event("revocation.applied", sequence=1, entries=1)


async def test_a_receipt_that_found_no_room_is_given_with_the_next_heartbeat(tmp_path, monkeypatch):
    async with link_rig(tmp_path) as rig:

        async def full(drafts):
            raise OutboxFailed("there is no room")

        rig.voice.lock_down()
        await connected(rig)
        with monkeypatch.context() as patched:
            patched.setattr(rig.outbox, "append_all", full)
            await heard(rig)
            await rig.until_heard(lambda: rig.reports[-1].lockdown == 1)
            assert "lockdown.applied" not in rig.names()
        await heard(rig)
        assert (await rig.event("lockdown.applied"))["counter"] == 1


async def test_a_receipt_that_the_disk_refused_is_given_at_the_next_start(tmp_path):
    voice = SiteVoice(SiteKeys(site=SITE), AGENT)
    async with unconnected(tmp_path, voice, port=1) as rig:
        await rig.link.receipts.catch_up()
        await rig.store.take_lockdowns(voice.lock_down(), voice.now())

        async def fail(_):
            return []

        rig.recorder.record = fail
        await rig.link.receipts.give()
    async with unconnected(tmp_path, voice, port=1) as rig:
        await rig.link.receipts.catch_up()
        assert rig.names() == ["lockdown.applied"]


async def test_a_command_is_counted_on_disk_before_it_is_carried_out(tmp_path):
    async with link_rig(tmp_path) as rig:
        counted = []

        async def execute(command):
            counted.append((command.counter, load(connect(tmp_path / "trust.db")).command))
            await rig.recorder.record([rig.recorder.about_agent("root.applied", version=9)])

        rig.doors.execute = execute
        await connected(rig)
        await rig.say(COMMAND, rig.voice.command(Action.PULSE, rig.session, DOOR))
        await rig.event("root.applied", version=9)
        assert counted == [(1, 1)]
        await rig.until_heard(lambda: rig.reports[-1].command == 1)


async def test_a_command_that_comes_too_late_has_a_result_and_once(tmp_path):
    async with link_rig(tmp_path) as rig:
        await connected(rig)
        then = rig.voice.now() - timedelta(seconds=6)
        late = rig.voice.command(
            Action.PULSE, rig.session, DOOR, issued=then, expires=then + timedelta(seconds=5)
        )
        for _ in range(3):
            await rig.say(COMMAND, late)
        refused = await rig.event("command.refused", reason="Expired")
        assert (refused["action"], refused["door"]) == ("pulse", DOOR)
        await rig.say(COMMAND, rig.voice.command(Action.PULSE, "00" * 8, DOOR))
        await rig.event("command.refused", reason="WrongSession")
        assert rig.names().count("command.refused") == 2
        assert rig.doors.commands == []


async def test_each_connection_is_a_session_of_its_own(tmp_path):
    async with link_rig(tmp_path) as rig:
        await connected(rig)
        first = rig.session
        assert load_notes(connect(tmp_path / "trust.db"))["session"] == first
        await rig.broker.publish("a/#", b"a broker that breaks the protocol loses the connection")
        await rig.until_heard(lambda: rig.session != first)
        assert [report.counter for report in rig.reports] == [1, 1]


async def test_a_gap_in_the_log_is_filled_at_once_and_is_no_refusal(tmp_path):
    async with link_rig(tmp_path) as rig:
        await connected(rig)
        rig.voice.revoke("00000000000000aa")
        rig.voice.revoke("00000000000000bb")
        rig.voice.revoke("00000000000000cc")
        await rig.until_heard(lambda: rig.pulls)  # for the root document: all that nobody names
        rig.link._fetching._unprompted_s = -1000.0  # that was a while ago
        await rig.say_to_all(REVOCATION, rig.voice.revocations_after(2))
        await rig.event("revocation.applied", sequence=3, entries=3)
        assert "statement.rejected" not in rig.names()


async def test_new_keys_that_no_heartbeat_can_tell_of_are_asked_for(tmp_path):
    async with link_rig(tmp_path) as rig:
        await connected(rig)
        await rig.until_heard(lambda: rig.pulls)  # for a root document, at the beginning
        keys = rig.voice.keys
        rig.voice.new_root(signers={**keys.signers, "online": [keys.new_signer()]})
        rig.link._fetching._unprompted_s = -1000.0
        await heard(rig)
        await rig.event("statement.rejected", reason="UnknownKey", purpose=HEARTBEAT)
        await rig.event("root.applied", version=2)
        await heard(rig)
        await rig.until_heard(lambda: rig.store.state.heartbeat is not None)


async def test_what_was_fetched_before_a_restart_is_not_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "MOST_CHUNKS", 4)
    voice = SiteVoice(SiteKeys(site=SITE), AGENT)
    voice.new_policy(cards(300), doors={})
    chunks = dict(voice.chunks)
    for digest in list(chunks)[20:]:
        del voice.chunks[digest]
    async with link_rig(tmp_path, voice=voice) as rig:
        await connected(rig)
        await heard(rig)
        await rig.until_heard(lambda: len(rig.store.missing) == len(chunks) - 20)
    voice.chunks = chunks
    async with link_rig(tmp_path, voice=voice) as rig:
        await connected(rig)
        await rig.event("policy.applied", policy_version=1)
        asked = {digest for pull in rig.pulls for digest in pull.chunks}
        assert len(asked) == len(chunks) - 20


@pytest.mark.parametrize("failure", [sqlite3.OperationalError("disk full"), OSError(5, "EIO")])
async def test_a_policy_that_could_not_be_stored_is_tried_again(tmp_path, failure):
    async with link_rig(tmp_path) as rig:
        apply = rig.store.apply_staged

        async def fail():
            raise failure

        rig.store.apply_staged = fail
        rig.voice.new_policy(doors={})
        await connected(rig)
        await heard(rig)
        await rig.event("policy.rejected", reason=type(failure).__name__)
        assert rig.store.applied is None
        rig.store.apply_staged = apply
        await heard(rig)
        await rig.event("policy.applied", policy_version=1)


async def test_the_largest_chunk_and_policy_fit_and_cost_no_connection(tmp_path):
    async with link_rig(tmp_path) as rig:
        await connected(rig)
        await rig.say(CHUNK, bytes(96 * 1024))
        chunk = await rig.event("policy.rejected", purpose=CHUNK)
        await rig.say(POLICY, bytes(192 * 1024))
        policy = await rig.event("policy.rejected", purpose=POLICY)
        assert "the limit" not in chunk["detail"] + policy["detail"], "refused for what it is"
        assert rig.broker.connections.empty(), "it is still the first one"


async def test_a_certificate_that_is_kept_is_receipted_and_one_that_is_not_is_refused(tmp_path):
    async with link_rig(tmp_path) as rig:
        await connected(rig)
        now = rig.voice.now()
        values = rig.voice.common(counter=1, certificate=PEM, until=now + timedelta(days=90))
        certificate = Certificate.model_validate(values)
        await rig.say(CERTIFICATE, rig.voice.keys.sign(certificate))
        await rig.event("certificate.applied")
        assert rig.renewals.kept == [certificate]

        async def refuse(_):
            raise Replayed("that one is in use")

        rig.renewals.renewed = refuse
        await rig.say(CERTIFICATE, rig.voice.keys.sign(certificate))
        await rig.event("statement.rejected", purpose=CERTIFICATE, reason="Replayed")
        other = certificate.model_copy(update={"audience": "all"})
        await rig.say(CERTIFICATE, rig.voice.keys.sign(other))
        await rig.event("statement.rejected", purpose=CERTIFICATE, reason="WrongAudience")
        assert rig.names().count("certificate.applied") == 1
