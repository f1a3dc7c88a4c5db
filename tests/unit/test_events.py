"""Event data and reasons: complete, closed, and documented as they are."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from docs import generate
from schemas.event_data import ClockStatus, Latency
from schemas.events import EVENT_DATA, event_name, event_type, json_schemas
from schemas.reasons import FIELD_NAMES, Reason


def test_every_reason_has_the_names_of_other_systems():
    assert set(FIELD_NAMES) == set(Reason)
    for names in FIELD_NAMES.values():
        assert names.onvif[0].isupper()
        assert 0 <= names.bacnet <= 65_535


def test_every_event_type_has_a_schema_and_a_meaning():
    schemas = json_schemas()
    assert [event_name(type_) for type_ in schemas] == list(EVENT_DATA)
    for name, model in EVENT_DATA.items():
        assert schemas[event_type(name)]["additionalProperties"] is False
        assert model.__doc__


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_no_number_that_json_lacks_gets_into_an_event(number):
    with pytest.raises(ValidationError):
        Latency(decision=number)
    with pytest.raises(ValidationError):
        ClockStatus(status="synced", offset_ms=number)


def test_a_misspelt_field_is_refused_where_the_event_is_made():
    with pytest.raises(ValidationError):
        ClockStatus.model_validate({"status": "synced", "offset": 1})


def test_the_event_documentation_is_up_to_date():
    stale = [str(path) for path, text in generate.pages().items() if generate.current(path) != text]
    assert not stale, f"run `python docs/generate.py`: {stale} are out of date"


def test_no_schema_of_a_type_that_is_gone_lies_about():
    assert set(generate.SCHEMAS.glob("*.json")) <= set(generate.pages())
