"""JSON that means the same to every reader."""

from __future__ import annotations

import pytest

from schemas.strict_json import NotStrictJson, read_json


def test_what_every_reader_reads_alike_is_read():
    text = '{"a":[null,true,-9223372036854775808,9223372036854775807,0.1,1e3,"\\u95e8门"],"b":{}}'
    assert read_json(text.encode()) == {
        "a": [None, True, -(2**63), 2**63 - 1, 0.1, 1000.0, "门门"],
        "b": {},
    }


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        ("{}".encode("utf-16"), "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":1,"a":1}', "two members"),
        (b'[{"a":{"b":1,"\\u0062":2}}]', "two members"),
        (b"9223372036854775808", "beyond 64 bits"),
        (b"-9223372036854775809", "beyond 64 bits"),
        (b"9" * 5000, "beyond 64 bits"),
        (b"1e309", "beyond a double"),
        (b"[-1e999]", "beyond a double"),
        (b"NaN", "NaN"),
        (b'{"a":-Infinity}', "-Infinity"),
    ],
    ids=lambda part: ascii(part)[:24],
)
def test_what_readers_read_differently_is_refused(data, why):
    with pytest.raises(NotStrictJson, match=why):
        read_json(data)
