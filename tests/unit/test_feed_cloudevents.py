import json

import pytest

from schemas.events import event_type
from server.feed import cursor
from server.feed.cloudevents import as_json, deliver, occurrence
from server.store.events import StoredEvent


def stored(line: bytes, *, time_us: int = 0, recorded_us: int = 0) -> StoredEvent:
    kind = event_type("rex.pressed")
    return StoredEvent(
        7, "front-agent", "0" * 16, 1, line, kind, "doors/front", time_us, recorded_us
    )


@pytest.mark.parametrize(
    ("delay_us", "expected"),
    [(0, "live"), (10_000_000, "live"), (10_000_001, "late"), (-5_000_000, "live")],
)
def test_an_event_is_late_when_committed_over_ten_seconds_after_it_happened(delay_us, expected):
    assert occurrence(1_000_000_000, 1_000_000_000 + delay_us) == expected


def test_a_delivered_event_is_the_line_and_what_the_server_knows():
    line = b'{"specversion":"1.0","id":"a-1","data":{"door":"front"}}'
    event = deliver(stored(line, recorded_us=1_500_000), "store")
    assert event == {
        "specversion": "1.0",
        "id": "a-1",
        "data": {"door": "front"},
        "datacontenttype": "application/json",
        "recordedtime": "1970-01-01T00:00:01.500000Z",
        "occurrence": "live",
        "cursor": cursor.encode("store", 7),
    }


def test_a_line_cannot_claim_when_it_was_recorded_or_that_it_is_live():
    line = b'{"recordedtime":"2000-01-01T00:00:00Z","occurrence":"live","cursor":"1x"}'
    event = deliver(stored(line, recorded_us=20_000_000), "store")
    assert event["recordedtime"] == "1970-01-01T00:00:20.000000Z"
    assert event["occurrence"] == "late"
    assert event["cursor"] == cursor.encode("store", 7)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_know_reach_no_subscriber(number):
    event = deliver(stored(b'{"data":{"x":%s}}' % number.encode()), "store")
    assert event["data"] == {"x": None}
    assert json.loads(as_json(event), parse_constant=pytest.fail) == event


def test_lone_surrogates_and_line_separators_stay_escaped():
    event = deliver(stored(rb'{"data":{"x":"\ud800\u2028\r\n"}}'), "store")
    text = as_json(event)
    assert text.isascii()
    assert "\n" not in text
    assert "\r" not in text
    assert json.loads(text)["data"]["x"] == "\ud800\u2028\r\n"
