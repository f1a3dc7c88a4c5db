"""JSON that means the same to every reader (I-JSON, RFC 7493).

Readers differ on which of two equal names wins, on numbers beyond a double or 64 bits, on NaN and
on other encodings than UTF-8. What is signed or kept as evidence must leave them no choice.
"""

from __future__ import annotations

import json
import math
from typing import Any


class NotStrictJson(ValueError):
    """The message says what is wrong, to follow the name of what was read."""


def read_json(data: bytes) -> Any:
    """The value of one JSON text in UTF-8. Raises NotStrictJson."""
    try:
        return _DECODER.decode(data.decode())
    except NotStrictJson:
        raise
    except (ValueError, RecursionError):
        raise NotStrictJson("is not JSON in UTF-8") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotStrictJson("has two members of one name")
    return members


def _integer(digits: str) -> int:
    # the longest 64-bit integer has 20 characters: don't convert thousands of digits
    if len(digits) > 20 or not -(2**63) <= (number := int(digits)) < 2**63:
        raise NotStrictJson("has an integer beyond 64 bits")
    return number


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise NotStrictJson("has a number beyond a double")
    return number


def _constant(name: str) -> float:
    raise NotStrictJson(f"has {name}, which is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_finite, parse_constant=_constant
)
