"""The maker's list is somebody else's file: read with care, and never repeated."""

from __future__ import annotations

import pytest

from server.keys import transport_list
from server.keys.transport_list import BadList, read_list

CARD, KEY = "0102030405060708", "f0" * 16
LINE = f"{CARD},{KEY}"


def refused(content: bytes) -> str:
    with pytest.raises(BadList) as refusal:
        read_list(content)
    assert KEY[:12] not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        LINE,
        f"{LINE}\n",
        f"card,transport_key\r\n{LINE}\r\n",
        f"\ufeffCard,Transport_Key\n  {LINE.upper()}  \n",
    ],
)
def test_a_list_is_read_as_spreadsheets_write_it(text):
    assert read_list(text.encode()) == {CARD: bytes.fromhex(KEY)}


@pytest.mark.parametrize(
    "line",
    [
        "",
        CARD,
        f"{CARD},",
        f"{CARD},{KEY[2:]}",
        f"{CARD},{KEY}00",
        f"{CARD[2:]},{KEY}",
        f"{CARD};{KEY}",
        f'"{CARD}","{KEY}"',
        f"{CARD},{KEY},{KEY}",
        f"{CARD},{KEY[:-1]}g",
        "card,transport_key",
        f"{CARD},{KEY[:-1]}\N{ARABIC-INDIC DIGIT ONE}",
        f"{CARD}\x00,{KEY}",
    ],
)
def test_a_line_that_is_none_is_named_by_its_number_and_not_shown(line):
    said = refused(f"{OTHER_LINE}\n{line}\n{LINE}".encode())
    assert said.startswith("line 2 ")


OTHER_LINE = f"{'11' * 8},{'22' * 16}"


@pytest.mark.parametrize("key", [KEY, "22" * 16])
def test_a_card_that_comes_twice_is_refused_with_both_lines(key):
    said = refused(f"{LINE}\n{OTHER_LINE}\n{CARD.upper()},{key}".encode())
    assert said == f"line 3: card {CARD} was in line 1 already"


def test_what_is_no_text_is_refused_with_its_line():
    assert refused(LINE.encode() + b"\n\xff\xfe\n").startswith("line 2 is no text")


def test_a_list_without_a_card_is_refused():
    assert "no card" in refused(b"card,transport_key\n")
    assert "no card" in refused(b"")


def test_lists_are_bounded(monkeypatch):
    monkeypatch.setattr(transport_list, "MAX_LIST_CARDS", 1)
    assert "over 1 cards" in refused(f"{LINE}\n{OTHER_LINE}".encode())
    monkeypatch.setattr(transport_list, "MAX_LIST_BYTES", 10)
    assert "larger than" in refused(LINE.encode())


def test_progress_is_told_of_long_lists():
    content = "\n".join(f"{n:016x},{KEY}" for n in range(2500)).encode()
    seen: list[int] = []
    assert len(read_list(content, seen.append)) == 2500
    assert seen == [1000, 2000]
