from __future__ import annotations

import re
from pathlib import Path

from edge_agent.card.apdu import Command
from tests.card_desk import Desk

CARD_MD = Path(__file__).parents[2] / "docs" / "card.md"


async def test_the_binding_in_the_documentation_is_what_is_said():
    [written] = re.findall(r"```apdu\n(.*?)```", CARD_MD.read_text(), re.DOTALL)
    desk = Desk("gm")
    await desk.bind(desk.card())
    said = "".join(
        f"> {command.encode().hex()}\n< {response.hex()}\n"
        for command, response in zip(desk.channel.commands, desk.channel.responses, strict=True)
    )
    assert written == said


async def test_the_documented_unlock_is_what_is_said():
    rows = re.findall(r"^\| [1-5] \| [^|]+ \| `([^`]+)` \|", CARD_MD.read_text(), re.MULTILINE)
    desk = Desk("intl")
    card = desk.card()
    await desk.bind(card)
    await desk.tap(card)
    for row, command in zip(rows[:5], desk.channel.commands, strict=True):
        plain = re.sub(r"<.*?> ?", "", row).replace(" ", "").lower()
        assert _without_data(command) == plain


def _without_data(command: Command) -> str:
    apdu = command.encode().hex()
    return apdu.replace(command.data.hex(), "") if command.data else apdu
