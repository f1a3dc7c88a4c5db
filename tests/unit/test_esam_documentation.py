from __future__ import annotations

import re
from pathlib import Path

from edge_agent.secure_element.esam_layout import Operation
from schemas.keys import Item, Purpose
from tests.card_desk import SERIAL as CARD
from tests.card_desk import TRANSPORT_KEY
from tests.esam_desk import EsamDesk

ESAM_MD = Path(__file__).parents[2] / "docs" / "esam.md"
CHALLENGE = bytes.fromhex("000102030405060708090a0b0c0d0e0f")


class Scribe(EsamDesk):
    """Writes down what is said."""

    def __init__(self) -> None:
        self.said = ""
        super().__init__("gm")

    def send(self, apdu):
        raw = bytes.fromhex(apdu) if isinstance(apdu, str) else apdu
        answer = super().send(raw)
        self.said += f"> {raw.hex()}\n< {answer.encode().hex()}\n"
        return answer


def conversation() -> Scribe:
    desk = Scribe()
    desk.control_key = bytes.fromhex("c0c1c2c3c4c5c6c7c8c9cacbcccdcecf")
    desk.secrets = {1: {p: bytes(p << 4 | n for n in range(16)) for p in Purpose}}
    desk.issue().load(1)
    desk.send("80ca020000")
    desk.send("80ca010100")
    desk.init(Purpose.ADMIT, 1, CARD)
    desk.crypt(Operation.ENCIPHER, CHALLENGE)
    cryptogram = desk.suite.encrypt_block(desk.card_key(Purpose.AUTH, 1, CARD), CHALLENGE)
    desk.init(Purpose.AUTH, 1, CARD)
    desk.crypt(Operation.VERIFY, CHALLENGE + cryptogram)
    desk.lend(CARD, TRANSPORT_KEY)
    desk.init(Purpose.AUTH, 1, CARD)
    desk.crypt(Operation.PROTECT_KEY, bytes.fromhex("3400010584d40111") + CHALLENGE)
    desk.send(desk.package(Item.FLOOR, 1))
    return desk


def test_the_conversation_in_the_documentation_is_what_is_said():
    [written] = re.findall(r"```apdu\n(.*?)```", ESAM_MD.read_text(), re.DOTALL)
    assert written == conversation().said


def test_every_command_of_the_table_is_said_in_it():
    text = ESAM_MD.read_text()
    rows = re.findall(
        r"^\| [A-Z ]+(?:, [a-z ]+)? \| `([0-9A-F]{2} [0-9A-F]{2})", text, re.MULTILINE
    )
    said = {line[2:6] for line in conversation().said.splitlines() if line.startswith(">")}
    assert len(rows) >= 8
    assert {row.replace(" ", "").lower() for row in rows} == said
