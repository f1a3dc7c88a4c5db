"""Virtual card and virtual ESAM against published vectors: diversification and MAC.

GB/T 32907's example is PBOC's dispersion of that key for card 0123456789abcdef, and the example of
NXP's AN10922 is ours for another system's name: 8 bytes of its input stand for the card.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

from edge_agent.card.application import UnlockQuestion, unlock
from edge_agent.card.binding import BindOutcome, bind
from edge_agent.card.session import listed, perform
from edge_agent.core.proof import ProofOutcome
from edge_agent.secure_element.esam_layout import Operation
from edge_agent.secure_element.port import Purpose
from edge_agent.secure_element.software import SoftwareElement
from edge_agent.virtual.card_os import VirtualCard
from schemas.keys import Item
from schemas.suites import SuiteName, intl, suite
from tests.card_desk import TRANSPORT_KEY, Channel, TickingClock, repeatable
from tests.esam_desk import EsamDesk, protected

VECTORS = Path(__file__).parents[1] / "vectors"
_ALGORITHMS = {"gm": algorithms.SM4, "intl": algorithms.AES128}


def vectors(name: str, kind: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads((VECTORS / f"{name}.json").read_text())[kind]
    return found


@dataclass(frozen=True)
class Published:
    """A master key, a card, and the card's key."""

    suite: SuiteName
    master: bytes
    card: bytes
    key: bytes


@pytest.fixture(params=["gm", "intl"])
def published(request, monkeypatch):
    if request.param == "gm":
        (vector,) = vectors("gm", "sm4_block")
        text = bytes.fromhex(vector["plaintext"])
        card = text[:8]
        assert text[8:] == bytes(b ^ 0xFF for b in card)
        return Published("gm", bytes.fromhex(vector["key"]), card, h(vector["ciphertext"]))
    (vector,) = vectors("intl", "an10922_aes128")
    text = bytes.fromhex(vector["diversification_input"])
    assert text[0] == 1
    card, system = text[1:9], text[9:]
    monkeypatch.setattr(intl, "SYSTEM_ID", system)
    return Published("intl", h(vector["master_key"]), card, h(vector["diversified_key"]))


def h(text: str) -> bytes:
    return bytes.fromhex(text)


def enciphered(name: str, key: bytes, block: bytes) -> bytes:
    """One block, by a library that is not ours."""
    work = Cipher(_ALGORITHMS[name](key), modes.ECB()).encryptor()
    return work.update(block) + work.finalize()


def test_an_esam_works_with_the_published_key_of_the_card(published):
    desk = EsamDesk(published.suite).issue()
    assert desk.send(desk.package(Item.KEYS, 1, keys=published.master * 3)).ok
    block = bytes(range(16))
    expected = enciphered(published.suite, published.key, block)
    desk.init(Purpose.ADMIT, 1, published.card)
    assert desk.crypt(Operation.ENCIPHER, block).data == expected
    desk.init(Purpose.AUTH, 1, published.card)
    assert desk.crypt(Operation.VERIFY, block + expected).ok
    desk.init(Purpose.AUTH, 1, published.card)
    assert not desk.crypt(Operation.VERIFY, block + bytes(16)).ok


async def test_a_card_holds_the_published_key_and_proves_it(published):
    name = published.suite
    element = SoftwareElement(suite(name), {1: dict.fromkeys(Purpose, published.master)})
    card = VirtualCard(None, name, published.card, TRANSPORT_KEY, repeatable(1))
    question = UnlockQuestion("demo", "front", name, 1)
    keys, channel = listed({published.card.hex(): TRANSPORT_KEY}), Channel(card.transmit)
    script = bind(question, repeatable(2))
    bound = await perform(script, channel, element, TickingClock(), keys)
    assert bound.outcome is BindOutcome.BOUND
    (application,) = card.image.applications.values()
    assert {record.key for record in application.keys.values()} == {published.key}
    card.reset()
    channel = Channel(card.transmit)
    proof = await perform(unlock(question, repeatable(3)), channel, element, TickingClock())
    assert proof.outcome is ProofOutcome.PROVED
    asked = channel.commands[-1].data
    assert channel.responses[-1] == enciphered(name, published.key, asked) + b"\x90\x00"


def test_the_foreign_cmac_that_the_chips_are_held_to_gives_the_published_macs():
    for vector in vectors("intl", "aes_cmac"):
        assert cmac("intl", h(vector["key"]), h(vector["message"])) == h(vector["mac"])


@pytest.mark.parametrize("vector", vectors("intl", "aes_cmac"), ids=lambda v: v["mac"][:8])
def test_our_cmac_gives_the_published_macs(vector):
    assert suite("intl").cmac(h(vector["key"]), h(vector["message"])) == h(vector["mac"])


@pytest.mark.parametrize("name", ["gm", "intl"])
def test_an_esam_takes_a_floor_under_a_mac_of_a_foreign_library_and_no_other(name):
    desk = EsamDesk(name).issue().load(1, 2)
    for spoilt in (True, False):
        challenge = desk.challenge()
        header, serial, index = h("84d60002"), desk.serial, b"\x01"
        key = cmac(name, desk.control_key, b"\x02" + challenge)
        mac = bytearray(cmac(name, key, header + serial + index + b"\x08")[:8])
        mac[7] ^= spoilt
        answer = desk.send(protected("84d60002", index + bytes(mac)))
        assert answer.ok is not spoilt
    assert set(desk.table()) == {2}


def cmac(name: str, key: bytes, data: bytes) -> bytes:
    work = CMAC(_ALGORITHMS[name](key))
    work.update(data)
    return work.finalize()
