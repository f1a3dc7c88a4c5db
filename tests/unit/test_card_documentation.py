from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from edge_agent.card.apdu import Command
from tests.card_desk import Desk

CARD_MD = Path(__file__).parents[2] / "docs" / "card.md"


async def test_what_is_written_to_a_card_in_the_documentation_is_what_is_said():
    desk = Desk("gm")
    card = desk.card()
    await desk.bind(card)
    said = [_said(desk)]
    question = replace(desk.question, key_version=2, accepted_key_versions=(1,))
    await desk.rekey(card, question, await desk.tap(card, question))
    said.append(_said(desk))
    await desk.unbind(card)
    said.append(_said(desk))
    assert re.findall(r"```apdu\n(.*?)```", CARD_MD.read_text(), re.DOTALL) == said


async def test_the_documented_unlock_is_what_is_said():
    rows = re.findall(r"^\| [1-5] \| [^|]+ \| `([^`]+)` \|", CARD_MD.read_text(), re.MULTILINE)
    desk = Desk("intl")
    card = desk.card()
    await desk.bind(card)
    await desk.tap(card)
    for row, command in zip(rows[:5], desk.channel.commands, strict=True):
        plain = re.sub(r"<.*?> ?", "", row).replace(" ", "").lower()
        assert _without_data(command) == plain


def _said(desk: Desk) -> str:
    return "".join(
        f"> {command.encode().hex()}\n< {response.hex()}\n"
        for command, response in zip(desk.channel.commands, desk.channel.responses, strict=True)
    )


def _without_data(command: Command) -> str:
    apdu = command.encode().hex()
    return apdu.replace(command.data.hex(), "") if command.data else apdu
