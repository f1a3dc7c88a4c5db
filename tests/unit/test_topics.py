"""Topics are built and taken apart in one place."""

from __future__ import annotations

import pytest

from schemas.errors import MalformedTopic
from schemas.topics import ACKNOWLEDGEMENT, EVENTS, Up, down, every_up, parse_up, up


def test_a_topic_that_was_built_is_taken_apart_again():
    assert up("demo", "front-agent", EVENTS) == "ostiary/demo/up/front-agent/events"
    assert parse_up(up("demo", "front-agent", EVENTS)) == Up("demo", "front-agent", EVENTS)


def test_what_the_server_subscribes_to_and_where_it_speaks():
    assert every_up("demo", EVENTS) == "ostiary/demo/up/+/events"
    assert down("demo", "front-agent", ACKNOWLEDGEMENT) == "ostiary/demo/down/front-agent/ack"


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "ostiary/demo/up/front-agent",
        "ostiary/demo/up/front-agent/events/more",
        "ostiary/demo/up/front-agent/events\n",
        "ostiary/demo/up/front-agent/events\0",
        "/ostiary/demo/up/front-agent/events",
        "ostiary/demo/down/front-agent/events",
        "ostiary/demo/up/+/events",
        "ostiary/demo/up/#",
        "ostiary/demo/up//events",
        "ostiary/demo/up/../events",
        "ostiary/Demo/up/front-agent/events",
        "ostiary/demo/up/front agent/events",
        "ostiary/demo/up/fr\u00f6nt/events",
        "ostiary/demo/up/" + "a" * 64 + "/events",
        "$share/x/ostiary/demo/up/front-agent/events",
    ],
)
def test_any_other_topic_is_malformed(topic):
    with pytest.raises(MalformedTopic):
        parse_up(topic)
