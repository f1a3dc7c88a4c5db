"""The malicious broker on the channels of keys: what it forges, keeps, repeats or sends elsewhere.

What it can't read is tried in tests/property/test_key_packages.py; here it is about what counts.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from edge_agent.elements import Elements
from edge_agent.keying import Keying
from edge_agent.secure_element.esam_chip import Esam
from edge_agent.transport_keys import TransportKeys
from schemas.envelope import Signer
from schemas.keys import MAX_KEY_STATEMENT_BYTES, CheckValues, Item, KeyPackage, StageOrder
from schemas.statement import sign_statement
from schemas.topics import KEYS, STAGE, TRANSPORT
from schemas.transport import MAX_TRANSPORT_BYTES, TransportKey, TransportRefusal
from tests.adversary.test_malicious_broker import at_work, forged, refusal
from tests.card_desk import repeatable
from tests.esam_desk import ESAM_SERIAL, EsamDesk
from tests.esam_rig import Slot
from tests.key_server import KeyServer
from tests.link_rig import DOOR, LinkRig
from tests.site_keys import SiteKeys

CHECKS = CheckValues(auth="00aabb", admit="11aabb", maintain="22aabb")
CHANNELS = (STAGE, KEYS, TRANSPORT)
OF_A_SESSION = (KEYS, TRANSPORT)
LIMITS = {
    STAGE: MAX_KEY_STATEMENT_BYTES,
    KEYS: MAX_KEY_STATEMENT_BYTES,
    TRANSPORT: MAX_TRANSPORT_BYTES,
}


def statement(rig: LinkRig, channel: str, **changes):
    """What the server could say on this channel now; `changes` are an attacker's."""
    now = rig.voice.now()
    values = rig.voice.common(issued=now, expires=now + timedelta(seconds=20), counter=1)
    match channel:
        case "stage":
            kind = StageOrder
            values |= {"domain": DOOR, "suite": "intl", "version": 2, "check_values": CHECKS}
            values["floor"] = 1
        case "keys":
            kind = KeyPackage
            values |= {"session": rig.session, "esam": ESAM_SERIAL.hex(), "domain": DOOR}
            values |= {"index": 1, "version": 2, "item": Item.KEYS, "challenge": "00" * 16}
            values |= {"check_values": CHECKS, "body": "01" + "ab" * 56}
        case _:
            kind = TransportKey
            values |= {"session": rig.session, "command": "00" * 8, "card": "00" * 8}
            values |= {"request": 1, "refusal": TransportRefusal.UNKNOWN_KEY}
    return kind.model_validate(values | changes)


@asynccontextmanager
async def refused(rig, reason, channel):
    """As `refusal`, and nothing was handed to who works with keys."""
    async with refusal(rig, reason, channel) as told:
        yield told
    assert (rig.keys.orders, rig.keys.packages, rig.keys.answers) == ([], [], [])
    rig.forget()


async def test_what_the_server_says_is_handed_on(tmp_path):
    """Else every refusal below would prove nothing."""
    async with at_work(tmp_path) as rig:
        said = {channel: statement(rig, channel) for channel in CHANNELS}
        for channel, each in said.items():
            await rig.say(channel, rig.voice.keys.sign(each))
        await rig.say(STAGE, b"")
        await rig.event("statement.rejected", purpose=STAGE)  # so those before it were taken
        assert rig.keys.orders == [said[STAGE]]
        assert rig.keys.packages == [said[KEYS]]
        assert rig.keys.answers == [said[TRANSPORT]]


@pytest.mark.parametrize("channel", CHANNELS)
async def test_what_is_forged_is_refused(tmp_path, channel):
    async with at_work(tmp_path) as rig:
        keys, right = rig.voice.keys, statement(rig, channel)
        stranger = SiteKeys(site=keys.site)
        async with refused(rig, "UnknownKey", channel):
            await rig.say(channel, stranger.sign(right))
        async with refused(rig, "BadSignature", channel):
            thief = stranger.signer("keys").key
            await rig.say(channel, forged(right, keys.signer("keys").keyid, thief))
        async with refused(rig, "MalformedEnvelope", channel):
            await rig.say(channel, right.model_dump_json().encode())


@pytest.mark.parametrize("channel", CHANNELS)
async def test_no_other_role_and_no_agent_speaks_of_keys(tmp_path, channel):
    async with at_work(tmp_path) as rig:
        right = statement(rig, channel)
        for role in ("root", "policy", "revoke", "online"):
            async with refused(rig, "UnknownKey", channel):
                await rig.say(channel, sign_statement(right, rig.voice.keys.signer(role)))
        async with refused(rig, "UnknownKey", channel):
            await rig.say(channel, sign_statement(right, Signer(rig.signer.key, rig.signer.keyid)))


@pytest.mark.parametrize("channel", CHANNELS)
async def test_what_is_for_another_agent_or_everyone_or_another_site_is_refused(tmp_path, channel):
    async with at_work(tmp_path) as rig:
        for changes in ({"audience": "back-agent"}, {"audience": "all"}, {"site": "elsewhere"}):
            async with refused(rig, "WrongAudience", channel):
                await rig.say(channel, rig.voice.keys.sign(statement(rig, channel, **changes)))


@pytest.mark.parametrize("channel", CHANNELS)
async def test_what_is_over_or_not_yet_begun_is_refused(tmp_path, channel):
    async with at_work(tmp_path) as rig:
        for shift_s in (-21, 301):
            issued = rig.voice.now() + timedelta(seconds=shift_s)
            times = {"issued": issued, "expires": issued + timedelta(seconds=20)}
            async with refused(rig, "Expired", channel):
                await rig.say(channel, rig.voice.keys.sign(statement(rig, channel, **times)))


@pytest.mark.parametrize("channel", CHANNELS)
async def test_one_that_would_last_is_refused_though_the_right_key_signed_it(tmp_path, channel):
    async with at_work(tmp_path) as rig:
        right = statement(rig, channel)
        for expires in (None, right.issued + timedelta(seconds=61)):
            lasting = right.model_copy(update={"expires": expires})
            async with refused(rig, "MalformedEnvelope", channel):
                await rig.say(channel, rig.voice.keys.sign(lasting))


@pytest.mark.parametrize("channel", OF_A_SESSION)
async def test_an_answer_of_an_earlier_session_is_refused(tmp_path, channel):
    async with at_work(tmp_path) as rig:
        earlier = statement(rig, channel, session="ff" * 8)
        async with refused(rig, "WrongSession", channel):
            await rig.say(channel, rig.voice.keys.sign(earlier))


@pytest.mark.parametrize("channel", CHANNELS)
async def test_what_a_broker_kept_is_refused(tmp_path, channel):
    async with at_work(tmp_path) as rig, refused(rig, "RetainedReplay", channel):
        right = rig.voice.keys.sign(statement(rig, channel))
        await rig.say(channel, right, retain=True)


@pytest.mark.parametrize("channel", CHANNELS)
async def test_what_is_too_large_is_refused_before_anything_else(tmp_path, channel):
    async with at_work(tmp_path) as rig:
        async with refused(rig, "MalformedEnvelope", channel) as told:
            await rig.say(channel, bytes(LIMITS[channel] + 1))
        assert told["detail"].endswith(f"the limit is {LIMITS[channel]}")


async def test_a_statement_of_another_channel_is_refused(tmp_path):
    async with at_work(tmp_path) as rig:
        for channel in CHANNELS:
            for other in CHANNELS:
                if other != channel:
                    async with refused(rig, "WrongPurpose", channel):
                        await rig.say(channel, rig.voice.keys.sign(statement(rig, other)))


class AtTheLock:
    """A virtual ESAM, who holds its control key, and real keying behind the rig's link."""

    def __init__(self, rig: LinkRig, folder) -> None:
        self.rig = rig
        self.desk = EsamDesk("intl").issue().load(1)
        self.authority = KeyServer(self.desk, rig.voice)
        self.esam = Esam(Slot(self.desk.chip), ESAM_SERIAL, [DOOR])
        elements = Elements(folder, bytes(32), repeatable(9), [self.esam])
        self.keying = Keying(elements, rig.store, rig.recorder, rig.signer, repeatable(3))
        self.transport = TransportKeys(
            rig.voice.keys.site, "front-agent", rig.signer, repeatable(4), rig.voice.now
        )
        rig.keys.ordered = self.keying.ordered
        rig.keys.packaged = self.keying.packaged
        rig.keys.answered = self.transport.answered
        self.keying.connected(rig.link.say, rig.session)

    def order(self) -> bytes:
        return self.rig.voice.keys.sign(self.authority.order(2, floor=2))

    def package(self, at: int) -> bytes:
        """The answer to the agent's question of this number."""
        return self.rig.voice.keys.sign(self.authority.package(self.rig.key_requests[at]))

    async def asked(self, count: int) -> None:
        await self.rig.until_heard(lambda: len(self.rig.key_requests) >= count)


async def test_what_is_replayed_gets_nowhere_and_costs_the_esam_nothing(tmp_path):
    async with at_work(tmp_path) as rig:
        lock = AtTheLock(rig, tmp_path)
        work = asyncio.create_task(lock.keying.run())
        try:
            await rig.say(STAGE, order := lock.order())
            await lock.asked(1)
            await rig.say(KEYS, first := lock.package(0))
            await lock.asked(2)
            async with refusal(rig, "Replayed", KEYS):
                await rig.say(KEYS, first)
            await rig.say(KEYS, lock.package(1))
            await rig.event("keys.held", held={"2": lock.authority.checks(2).model_dump()})
            said = rig.names().count("keys.held")
            for _ in range(5):
                await rig.say(STAGE, order)
            await rig.event("statement.rejected", reason="Replayed", purpose=STAGE)
            async with refusal(rig, "Replayed", TRANSPORT):
                answer = statement(rig, TRANSPORT)
                await rig.say(TRANSPORT, rig.voice.keys.sign(answer))
            assert rig.names().count("keys.held") == said
            assert len(rig.key_requests) == 2
            assert lock.desk.state.errors_left == 15
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def test_packages_that_a_broker_keeps_back_change_nothing(tmp_path):
    async with at_work(tmp_path) as rig:
        lock = AtTheLock(rig, tmp_path)
        before = lock.desk.chip.image
        work = asyncio.create_task(lock.keying.run())
        try:
            await rig.say(STAGE, lock.order())
            await lock.asked(1)
            kept_back = lock.package(0)
        finally:
            work.cancel()  # the agent is started again meanwhile
            await asyncio.gather(work, return_exceptions=True)
        lock = AtTheLock(rig, tmp_path)
        async with refusal(rig, "Replayed", KEYS):
            await rig.say(KEYS, kept_back)
        assert lock.desk.chip.image == before
