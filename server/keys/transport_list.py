"""The maker's list of transport keys: a CSV file `card,transport_key`, in hex. Pure.

It comes from elsewhere, so nothing in it is believed; and no message about it shows what is in it,
for a line that is malformed may still have a key.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_LIST_BYTES = 16 * 1024 * 1024
MAX_LIST_CARDS = 200_000
"""In one transaction, while the server waits with its own."""
_LINE = re.compile(r"([0-9a-fA-F]{16}),([0-9a-fA-F]{32})")
_HEADING = "card,transport_key"


class BadList(Exception):
    """What is wrong with a list, in which line, and what to do."""


def read_list(content: bytes, progress: Callable[[int], None] = lambda _: None) -> dict[str, bytes]:
    """Card -> key. `progress` is told how many lines were read. Raises BadList."""
    if len(content) > MAX_LIST_BYTES:
        raise BadList(f"the list is larger than {MAX_LIST_BYTES >> 20} MiB: import it in parts")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise BadList(f"line {number} is no text: export the list as CSV, UTF-8") from None
    keys: dict[str, bytes] = {}
    at: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if number == 1 and line.strip().lower() == _HEADING:
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise BadList(f"line {number} is not a card of 16 hex digits, a comma, a key of 32")
        card = match[1].lower()
        if card in keys:
            raise BadList(f"line {number}: card {card} was in line {at[card]} already")
        if len(keys) == MAX_LIST_CARDS:
            raise BadList(f"the list has over {MAX_LIST_CARDS} cards: import it in parts")
        keys[card], at[card] = bytes.fromhex(match[2]), number
        if number % 1000 == 0:
            progress(number)
    if not keys:
        raise BadList("the list has no card in it")
    return keys
