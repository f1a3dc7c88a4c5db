"""Who has a lock with a secret of its own, its disk and all its keys, against every other lock.

He holds what is in the state directory: element secrets and the sealing key, the policy with card
ids and names, the agent's signing key. That opens the one door it was taken from. What he can ask
the server is in test_leaked_agent_key.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_agent.card import layout
from edge_agent.card.application import UnlockQuestion
from edge_agent.card.binding import BindOutcome
from edge_agent.card.rekeying import RekeyOutcome, rekey
from edge_agent.elements import Elements
from edge_agent.secure_element.port import Purpose
from edge_agent.secure_element.software import SoftwareElement
from edge_agent.virtual.card_memory import Application
from schemas.command import Action
from schemas.envelope import Signer
from schemas.reasons import Reason
from schemas.secure_messaging import protect
from schemas.statement import sign_statement
from schemas.topics import (
    COMMAND,
    HEARTBEAT,
    KEYS,
    LOCKDOWN,
    POLICY,
    REVOCATION,
    SNAPSHOT,
    STAGE,
)
from tests.adversary.test_malicious_broker import ADA, BOB, at_work, cards, refusal
from tests.adversary.test_malicious_broker_keys import statement
from tests.card_desk import SERIAL, Desk, repeatable, send
from tests.copy_desk import HOLDERS, Lock
from tests.link_rig import AGENT, DOOR, SITE
from tests.site_keys import SiteKeys
from tests.site_voice import SiteVoice

SEALING_KEY = bytes(range(32))


class Theft:
    """A lock of `front`, stolen with its files, and one of `back`; one card bound in both."""

    def __init__(self, name: str, folder) -> None:
        true = Elements(folder, SEALING_KEY, repeatable(3)).get("front", name)
        assert isinstance(true, SoftwareElement)
        self.front, self.back = Desk(name), Desk(name, seed=2, domain="back")
        self.front.element = true
        # The thief starts from the files, and from another machine.
        self.thief = Desk(name, seed=9)
        self.thief.element = Elements(folder, SEALING_KEY, repeatable(4)).get("front", name)
        self.front_lock = Lock(self.front)
        self.back_lock = Lock(self.back, domain="back")
        self.card = self.front.card()

    async def bind(self) -> Theft:
        for desk in (self.front, self.back):
            assert (await desk.bind(self.card)).outcome is BindOutcome.BOUND
        self.card.reset()
        return self

    def back_application(self) -> Application:
        """What the card has of `back`, but for the tries that anybody can use up."""
        name = layout.application_id("demo", "back")
        (application,) = (a for a in self.card.image.applications.values() if a.name == name)
        keys = {at: replace(k, tries_left=0) for at, k in application.keys.items()}
        return replace(application, keys=keys)

    def asks(self, domain: str) -> UnlockQuestion:
        return replace(self.thief.question, domain=domain)


@pytest.fixture(params=["gm", "intl"])
async def theft(request, tmp_path):
    return await Theft(request.param, tmp_path).bind()


async def forged(theft: Theft, domain: str, serial: bytes):
    """A card of the thief's own making, with the stolen secret, for a domain and a card id."""
    card = theft.thief.card()
    card._memory.write(replace(card.image, serial=serial))
    theft.thief.transport_keys = {serial.hex(): card.image.transport.key}
    assert (await theft.thief.bind(card, theft.asks(domain))).outcome is BindOutcome.BOUND
    card.reset()
    return card


async def test_what_was_stolen_opens_the_door_it_was_stolen_from(theft):
    """It is the whole secret of that domain: so what fails below fails for a reason."""
    for serial in map(bytes.fromhex, HOLDERS):
        card = await forged(theft, "front", serial)
        assert await theft.front_lock.reason(card.transmit) is None


async def test_no_card_is_forged_for_another_lock_by_any_id_in_the_stolen_policy(theft):
    for serial in map(bytes.fromhex, HOLDERS):
        card = await forged(theft, "back", serial)
        assert await theft.back_lock.reason(card.transmit) is Reason.CARD_AUTH_FAILED
        for version in (1, 2, 3):
            lock = Lock(theft.back, domain="back", key_version=version)
            assert not (await lock.present(card.transmit)).granted
    assert await theft.back_lock.reason(theft.card.transmit) is None


async def test_the_files_without_the_sealing_key_are_no_secret(tmp_path):
    """And the sealing key is of this one lock."""
    Elements(tmp_path, SEALING_KEY, repeatable(3)).get("front", "intl")
    guessed = Elements(tmp_path, bytes(32), repeatable(3)).get("front", "intl")
    assert not isinstance(guessed, SoftwareElement)


async def test_it_is_admitted_to_its_own_application_on_a_card_and_to_no_other(theft):
    assert (await theft.thief.tap(theft.card)).outcome == "proved"
    for version in (1, 2, 3):
        question = replace(theft.asks("back"), key_version=version)
        before = theft.back_application()
        assert (await theft.thief.tap(theft.card, question)).outcome != "proved"
        assert theft.back_application() == before
    theft.card.reset()
    send(theft.card, f"00a4040010{theft.asks('back').aid.hex()}00")
    challenge = send(theft.card, "0084000010").data
    for version in theft.thief.element.held or ():
        block = await theft.thief.element.admit(SERIAL, version, challenge)
        assert send(theft.card, f"0082001210{block.hex()}").sw & 0xFFF0 == 0x63C0
    # An answer of the card is nothing that it gives to who was not admitted.
    assert send(theft.card, f"0088001110{bytes(16).hex()}10").sw == 0x6982


async def test_other_applications_of_a_card_are_not_re_keyed_written_or_erased(theft):
    """He is admitted to his own, has its `maintain` key, and then turns to the other."""
    thief, card, before = theft.thief, theft.card, theft.back_application()
    thief.element.draw(2, thief.random)
    await thief.tap(card)
    question = replace(theft.asks("back"), key_version=2, accepted_key_versions=(1,))
    send(card, f"00a4040010{question.aid.hex()}00")
    outcome = await thief.run(rekey(SERIAL, question, 1, thief.random), card.transmit)
    assert outcome is not RekeyOutcome.REKEYED
    assert theft.back_application() == before
    maintain = thief.suite.diversify(thief.element._versions[1][Purpose.MAINTAIN], SERIAL)
    for admitted in (False, True):
        card.reset()
        send(card, f"00a4040010{theft.asks('front').aid.hex()}00")
        if admitted:
            challenge = send(card, "0084000010").data
            block = await thief.element.admit(SERIAL, 1, challenge)
            assert send(card, f"0082001210{block.hex()}").ok
        send(card, f"00a4040010{theft.asks('back').aid.hex()}00")
        for header, plaintext in (
            ("04d68100", bytes(16)),
            ("84d40111", layout.key_header(Purpose.AUTH, 1, use=layout.Right.ADMIT) + bytes(16)),
            ("84d40121", layout.key_header(Purpose.AUTH, 2, use=layout.Right.ADMIT) + bytes(16)),
        ):
            challenge = send(card, "0084000010").data
            raw = bytes.fromhex(header)
            body = protect(thief.suite, maintain, challenge, raw, plaintext)
            assert not send(card, f"{header}{len(body):02x}{body.hex()}").ok
        assert not send(card, "800e0000").ok
        assert theft.back_application() == before
    thief.transport_keys = {SERIAL.hex(): bytes(16)}
    assert (await thief.unbind(card)).outcome is not BindOutcome.UNBOUND
    card.reset()
    assert not send(card, "800e0000").ok  # the whole card
    assert theft.back_application() == before
    card.reset()
    assert await theft.back_lock.reason(card.transmit) is None


async def test_what_it_writes_to_its_own_application_is_of_no_use_elsewhere(theft):
    """He fills the idle slot. At the worst the card must be bound again at the true lock."""
    theft.thief.element.draw(2, theft.thief.random)
    proof = await theft.thief.tap(theft.card)
    question = replace(theft.asks("front"), key_version=2, accepted_key_versions=(1,))
    assert await theft.thief.rekey(theft.card, question, proof) is RekeyOutcome.REKEYED
    for lock in (theft.back_lock, theft.front_lock):
        theft.card.reset()
        assert await lock.reason(theft.card.transmit) is None
    theft.front.element.draw(2, theft.front.random)  # the true lock draws another version 2
    theft.card.reset()
    lock = Lock(theft.front, key_version=2, accepted_key_versions=(1,))
    assert await lock.reason(theft.card.transmit) is Reason.CARD_AUTH_FAILED
    await theft.front.bind(theft.card, lock.question)
    theft.card.reset()
    assert await lock.reason(theft.card.transmit) is None


async def test_nothing_signed_with_a_stolen_agent_key_counts_at_another_lock(tmp_path):
    """All that a server says, each in the very words it would use, signed by an agent's key."""
    async with at_work(tmp_path) as rig:
        stolen = Signer.of(rig.voice.keys.suite.generate(lambda n: b"7" * n))
        lying = SiteKeys(site=SITE)
        lying.signers |= {role: [stolen] for role in lying.signers}
        voice = SiteVoice(lying, AGENT, commands=9)
        voice.new_policy(cards(BOB), counter=2, doors={DOOR: {"domain": DOOR, "suite": "intl"}})
        voice.revoke(ADA)
        said = {
            POLICY: voice.policy_envelope,
            HEARTBEAT: voice.heartbeat(),
            REVOCATION: voice.revocations_after(0),
            SNAPSHOT: voice.snapshot(),
            LOCKDOWN: voice.lock_down(),
            COMMAND: voice.command(Action.PULSE, rig.session, DOOR),
            STAGE: sign_statement(statement(rig, STAGE), stolen),
            KEYS: sign_statement(statement(rig, KEYS), stolen),
        }
        for channel, envelope in said.items():
            async with refusal(rig, "UnknownKey", channel):
                await rig.say(channel, envelope)
        assert (rig.keys.orders, rig.keys.packages) == ([], [])
