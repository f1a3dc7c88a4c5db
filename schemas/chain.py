"""The hash chain of event lines: each names the exact bytes before it, so a gap is provable.

An *event line* is one CloudEvents 1.0 JSON object in UTF-8 with no newline in it. A message is an
envelope over 1..256 lines, joined by newlines, contiguous in one chain. Stored, sent, signed and
hashed are always the exact bytes the agent wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from schemas.errors import BrokenChain, MalformedEvent, first_problem
from schemas.events import EventLine
from schemas.strict_json import NotStrictJson, read_json

EVENTS_TYPE = "application/vnd.ostiary.events.v1"
MAX_LINES = 256
MAX_LINE_BYTES = 4096
GENESIS = "0" * 64
"""The prevhash of a chain's first line."""

_CONTROL = bytes(range(0x20))

Digest = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Head:
    """Where a chain stands: the last line's sequence and digest."""

    chain: str
    sequence: int = 0
    hash: str = GENESIS


@dataclass(frozen=True)
class Link:
    """One parsed line and the digest of its bytes."""

    line: bytes
    event: EventLine
    hash: str


def compose_line(
    head: Head,
    digest: Digest,
    *,
    source: str,
    type: str,
    subject: str,
    time: datetime,
    data: dict[str, Any],
) -> tuple[bytes, Head]:
    """The next line of a chain and the head it makes.

    Raises MalformedEvent if receivers would not accept the line: a chain can't go on past a line
    that is refused, so such a line must never come into it.
    """
    if time.utcoffset() is None:
        raise MalformedEvent(f"event of type {type} has a time without a zone")
    in_utc = time.astimezone(UTC).replace(tzinfo=None)
    sequence = head.sequence + 1
    text = json.dumps(
        {
            "specversion": "1.0",
            "id": f"{head.chain}-{sequence}",
            "source": source,
            "type": type,
            "subject": subject,
            "time": f"{in_utc.isoformat(timespec='microseconds')}Z",
            "sequence": f"{sequence:020d}",
            "chain": head.chain,
            "prevhash": head.hash,
            "data": data,
        },
        separators=(",", ":"),
        ensure_ascii=False,
    )
    link = parse_line(text.encode(errors="surrogatepass"), digest)
    return link.line, Head(head.chain, sequence, link.hash)


def join_lines(lines: Iterable[bytes]) -> bytes:
    """The payload of a message."""
    return b"\n".join(lines)


def split_lines(payload: bytes, digest: Digest) -> list[Link]:
    """The lines of a message, parsed, each naming the one before it.

    Raises MalformedEvent or BrokenChain. Whether the first follows what the receiver has is for
    the receiver to say.
    """
    lines = payload.split(b"\n")
    if len(lines) > MAX_LINES:
        raise MalformedEvent(f"message has {len(lines)} lines, the limit is {MAX_LINES}")
    links = [parse_line(line, digest) for line in lines]
    for before, after in pairwise(links):
        check_follows(Head(before.event.chain, before.event.number, before.hash), after)
    return links


def parse_line(line: bytes, digest: Digest) -> Link:
    """One line. Raises MalformedEvent.

    A line has one meaning to every JSON reader, and no control character by which a tool for text
    could break it in two.
    """
    if len(line) > MAX_LINE_BYTES:
        raise MalformedEvent(f"event line is {len(line)} bytes long, limit {MAX_LINE_BYTES}")
    if (
        not (line.startswith(b"{") and line.endswith(b"}"))
        or line.translate(None, _CONTROL) != line
    ):
        raise MalformedEvent("event line is not one JSON object on one line")
    try:
        event = EventLine.model_validate_json(line)
        read_json(line)
    except ValidationError as error:
        raise MalformedEvent(f"event line: {first_problem(error)}") from None
    except NotStrictJson as error:
        raise MalformedEvent(f"event line {error}") from None
    return Link(line, event, digest(line).hex())


def check_follows(head: Head, link: Link) -> None:
    """Raise BrokenChain unless `link` is the very next line after `head`."""
    event = link.event
    if event.chain != head.chain:
        raise BrokenChain(f"line is of chain {event.chain}, not {head.chain}")
    if event.number != head.sequence + 1:
        raise BrokenChain(f"line {event.number} follows line {head.sequence}")
    if event.prevhash != head.hash:
        raise BrokenChain(f"line {event.number} names another line {head.sequence} before it")
