"""A transport key is asked for once, answered once, and lent for the card that is being bound."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from edge_agent import transport_keys
from edge_agent.card.script import TransportKeyRefused
from edge_agent.secure_element.esam_chip import Loan
from edge_agent.secure_element.port import ElementUnavailable
from edge_agent.transport_keys import TransportKeys
from schemas.envelope import Signer, TrustedKey, unverified_payload
from schemas.errors import BadSignature, MalformedKey, Replayed
from schemas.names import SERVER
from schemas.root import AGENT_PURPOSES
from schemas.statement import open_statement, parse_statement, payload_type
from schemas.topics import TRANSPORT
from schemas.transport import TransportKey, TransportRefusal, TransportRequest
from tests.site_keys import SiteKeys
from tests.site_voice import SiteVoice

AGENT, SESSION, COMMAND = "front-agent", "00" * 8, "c0" * 8
CARD, KEY = bytes.fromhex("00112233445566aa"), bytes(range(16))


class Asking:
    """An agent's questions, and a server's voice that a test answers with."""

    def __init__(self, suite: str) -> None:
        self.site = SiteKeys(suite)
        self.voice = SiteVoice(self.site, AGENT)
        self.signer = Signer.of(self.site.suite.generate(secrets.token_bytes))
        self.keys = TransportKeys(
            "demo", AGENT, self.signer, secrets.token_bytes, lambda: datetime.now(UTC)
        )
        self.said: asyncio.Queue[TransportRequest] = asyncio.Queue()
        self.keys.connected(self.say, SESSION)

    async def say(self, channel: str, envelope: bytes) -> None:
        """Verified as a server does."""
        assert channel == TRANSPORT
        held = TrustedKey(self.signer.key.public, AGENT, AGENT_PURPOSES)
        self.said.put_nowait(
            open_statement(
                envelope,
                TransportRequest,
                {self.signer.keyid: held},
                site="demo",
                audience=SERVER,
                now=datetime.now(UTC),
            )
        )

    async def asked(self, *more) -> tuple[asyncio.Task, TransportRequest]:
        asking = asyncio.create_task(self.keys.ask(COMMAND, CARD, *more))
        return asking, await self.said.get()

    def answer(self, request: TransportRequest, key: bytes | None = KEY, /, **changes) -> None:
        envelope = self.voice.transport_key(request, key, **changes)
        payload = unverified_payload(envelope, payload_type("transport-key"), max_bytes=1 << 16)
        self.keys.answered(parse_statement(payload, TransportKey))


@pytest.fixture(params=["gm", "intl"])
def asking(request):
    return Asking(request.param)


async def test_the_answer_is_opened_with_the_key_made_for_the_question(asking):
    waiting, request = await asking.asked()
    assert (request.command, request.card, request.session) == (COMMAND, CARD.hex(), SESSION)
    asking.answer(request)
    given = await waiting
    assert (given.key, given.source, given.loan) == (KEY, "list", None)
    _, second = await asking.asked()
    assert second.recipient != request.recipient
    assert second.counter == request.counter + 1


async def test_a_refusal_is_the_outcome(asking):
    waiting, request = await asking.asked()
    asking.answer(request, None, refusal=TransportRefusal.OTHER_PERSON)
    with pytest.raises(TransportKeyRefused) as refused:
        await waiting
    assert refused.value.outcome == "other_person"


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"request": 99}, Replayed),
        ({"command": "c1" * 8}, Replayed),
        ({"card": "ff" * 8}, Replayed),
        ({"session": "01" * 8}, Replayed),
        ({"loan": b"unasked"}, MalformedKey),
    ],
)
async def test_an_answer_that_is_none_to_the_question_leaves_it_open(asking, changes, refusal):
    waiting, request = await asking.asked()
    with pytest.raises(refusal):
        asking.answer(request, **changes)
    assert not waiting.done()
    asking.answer(request)
    assert (await waiting).key == KEY


async def test_what_was_sealed_for_another_question_is_not_opened(asking):
    waiting, request = await asking.asked()
    earlier = request.model_copy(update={"counter": request.counter + 1})
    with pytest.raises(BadSignature):
        asking.answer(earlier, request=request.counter)
    other = Asking(asking.site.suite_name)
    _, elsewhere = await other.asked()
    swapped = request.model_copy(update={"recipient": elsewhere.recipient})
    with pytest.raises(BadSignature):
        asking.answer(swapped)
    asking.answer(request)
    assert (await waiting).key == KEY


async def test_an_answer_counts_once_and_not_after_the_question(asking):
    waiting, request = await asking.asked()
    asking.answer(request)
    with pytest.raises(Replayed):
        asking.answer(request)
    await waiting
    with pytest.raises(Replayed):
        asking.answer(request)


async def test_two_cards_are_asked_for_at_once_and_each_gets_its_own(asking):
    first, one = await asking.asked()
    second, two = await asking.asked()
    asking.answer(two, bytes(16))
    asking.answer(one)
    assert ((await first).key, (await second).key) == (KEY, bytes(16))


async def test_without_an_answer_or_a_connection_it_says_so(asking, monkeypatch):
    monkeypatch.setattr(transport_keys, "ANSWER_S", 0.01)
    waiting, request = await asking.asked()
    with pytest.raises(TransportKeyRefused) as refused:
        await waiting
    assert refused.value.outcome == "no_answer"
    with pytest.raises(Replayed):
        asking.answer(request)

    async def cut(channel: str, payload: bytes) -> None:
        raise ConnectionError("cut")

    asking.keys.connected(cut, SESSION)
    with pytest.raises(TransportKeyRefused) as refused:
        await asking.keys.ask(COMMAND, CARD)
    assert refused.value.outcome == "no_connection"


async def test_a_new_connection_ends_what_was_asked_by_the_old_one(asking):
    waiting, request = await asking.asked()
    asking.keys.connected(asking.say, "01" * 8)
    with pytest.raises(TransportKeyRefused) as refused:
        await waiting
    assert refused.value.outcome == "no_connection"
    _, again = await asking.asked()
    assert (again.session, again.counter) == ("01" * 8, request.counter)
    with pytest.raises(Replayed):  # the counter is the same, and the session is not
        asking.answer(request)


async def test_a_key_is_lent_for_the_card_that_is_being_bound_and_for_no_other(asking):
    esam = SimpleNamespace(domains=("zone-a", "zone-b"))
    lend = asking.keys.lender(esam)
    serial, challenge = bytes(8), bytes(16)
    loan = Loan(2, 3, CARD, KEY)
    with pytest.raises(ElementUnavailable):
        await lend(serial, challenge, loan)
    with asking.keys.lending(COMMAND, CARD):
        with pytest.raises(ElementUnavailable):
            await lend(serial, challenge, Loan(2, 3, bytes(8), KEY))
        lending = asyncio.create_task(lend(serial, challenge, loan))
        request = await asking.said.get()
        assert request.loan is not None
        assert (request.loan.domain, request.loan.index, request.loan.version) == ("zone-b", 2, 3)
        assert request.loan.challenge == challenge.hex()
        with pytest.raises(MalformedKey):
            asking.answer(request)  # without the loan
        asking.answer(request, loan=b"lent")
        assert await lending == b"lent"
    with pytest.raises(ElementUnavailable):
        await lend(serial, challenge, loan)


async def test_the_key_is_in_no_repr(asking):
    waiting, request = await asking.asked()
    asking.answer(request)
    given = await waiting
    assert repr(KEY) not in repr(given)
    assert KEY.hex() not in repr(given) + repr(vars(asking.keys))
