"""What a subscriber gets: the stored line as a CloudEvent, and what the server knows of it.

Two extension attributes say when the event got here: `recordedtime`, when it was committed, and
`occurrence`, `live` or `late`. A late event is history (a door was offline): show it, never act on
it as if it happened now. `cursor` is the place in the feed just after the event.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from server.clock import from_microseconds
from server.feed import cursor
from server.store.events import StoredEvent

LIVE_WITHIN_US = 10_000_000


def occurrence(time_us: int, recorded_us: int) -> Literal["live", "late"]:
    """`live` if the event was committed within 10 s of its own time, both in Unix microseconds."""
    return "live" if recorded_us - time_us <= LIVE_WITHIN_US else "late"


def deliver(stored: StoredEvent, store_id: str) -> dict[str, Any]:
    """The event as delivered. The line itself, byte for byte, is in its proof."""
    event: dict[str, Any] = json.loads(
        stored.line, parse_constant=_not_json, parse_float=_finite_or_none
    )
    event["datacontenttype"] = "application/json"
    event["recordedtime"] = timestamp(stored.recorded_us)
    event["occurrence"] = occurrence(stored.time_us, stored.recorded_us)
    event["cursor"] = cursor.encode(store_id, stored.position)
    return event


def as_json(value: object) -> str:
    """JSON on one line in plain ASCII.

    Strings a device chose may hold lone surrogates or line separators: escaped, they can break
    neither UTF-8, nor an event stream's framing, nor a terminal.
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def timestamp(unix_us: int) -> str:
    """RFC 3339 in UTC, to the microsecond."""
    return from_microseconds(unix_us).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _not_json(_constant: str) -> None:
    """NaN and Infinity are no JSON: a subscriber's parser would choke on the whole page."""


def _finite_or_none(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None
