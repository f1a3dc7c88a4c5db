"""Rights at the broker are one table, and a filter is granted only if all it asks for is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.topics import EVENTS, every_up, up
from server.broker.grants import (
    CONTROL,
    CONTROL_ANSWERS,
    PROBE,
    VICTIM,
    agent_grant,
    checker_id,
    covers,
    grants,
    refuse_reserved,
    server_grant,
    server_id,
)

FRONT = agent_grant("demo", "front")


@pytest.mark.parametrize(
    ("granted", "wanted"),
    [
        ("a/b", "a/b"),
        ("a/#", "a"),
        ("a/#", "a/b/c"),
        ("a/#", "a/+/c"),
        ("a/#", "a/b/#"),
        ("a/#", "a/#"),
        ("a/+/c", "a/b/c"),
        ("a/+/c", "a/+/c"),
        ("#", "a/b"),
    ],
)
def test_what_is_covered(granted, wanted):
    assert covers(granted, wanted)


@pytest.mark.parametrize(
    ("granted", "wanted"),
    [
        ("a/b", "a"),
        ("a/b", "a/b/c"),
        ("a/b", "a/+"),
        ("a/b", "a/#"),
        ("a/b", "#"),
        ("a/b", "+/b"),
        ("a/#", "#"),
        ("a/#", "+/b"),
        ("a/#", "ab"),
        ("a/+/c", "a/#"),
        ("a/+/c", "a/b/#"),
        ("a/b", "$share/g/a/b"),
        ("a/#", "$share/g/a/b"),
        ("#", "$SYS/x"),
        ("#", "$share/g/a"),
        ("a/b", "/a/b"),
        ("a/b", ""),
    ],
)
def test_what_is_not_covered(granted, wanted):
    assert not covers(granted, wanted)


LEVELS = st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=4)
FILTERS = st.builds(
    lambda levels, end: "/".join([*levels, *end]),
    st.lists(st.sampled_from(["a", "b", "", "+"]), min_size=1, max_size=4),
    st.sampled_from([[], ["#"]]),
)


def matches(wanted: str, topic: str) -> bool:
    """MQTT 3.1.1 4.7, written another way: level by level from both ends of the story."""
    have, there = wanted.split("/"), topic.split("/")
    if have[-1] == "#":
        have = have[:-1]
        if len(there) < len(have):
            return False
        there = there[: len(have)]
    return len(have) == len(there) and all(h in ("+", t) for h, t in zip(have, there, strict=True))


@given(FILTERS, FILTERS, LEVELS)
def test_a_covered_filter_matches_no_topic_that_the_granted_one_does_not(granted, wanted, levels):
    topic = "/".join(levels)
    if covers(granted, wanted) and matches(wanted, topic):
        assert matches(granted, topic)


@given(FILTERS, LEVELS)
def test_a_topic_is_covered_if_it_matches(granted, levels):
    topic = "/".join(levels)
    assert covers(granted, topic) == matches(granted, topic)


def test_an_agent_speaks_on_its_channels_alone():
    assert FRONT.may_publish(up("demo", "front", EVENTS))
    for topic in (
        up("demo", "back", EVENTS),
        up("other", "front", EVENTS),
        "ostiary/demo/up/front/anything",
        "ostiary/demo/up/front",
        "ostiary/demo/down/front/command",
        "ostiary/demo/all/revocation",
        "ostiary/demo/feed/x",
        CONTROL,
        "$SYS/x",
    ):
        assert not FRONT.may_publish(topic)


def test_an_agent_hears_what_is_said_to_it_and_to_all():
    for wanted in ("ostiary/demo/down/front/#", "ostiary/demo/down/front/+", "ostiary/demo/all/#"):
        assert FRONT.may_subscribe(wanted)
    for wanted in (
        "#",
        "ostiary/demo/#",
        "ostiary/demo/down/#",
        "ostiary/demo/down/+/ack",
        "ostiary/demo/+/front/#",
        "ostiary/demo/up/front/events",
        "ostiary/+/all/#",
        "$share/g/ostiary/demo/down/front/#",
    ):
        assert not FRONT.may_subscribe(wanted)


def test_the_server_hears_every_agent_and_speaks_to_each():
    server = server_grant("demo")
    assert server.may_subscribe(every_up("demo", EVENTS))
    assert server.may_subscribe(CONTROL_ANSWERS)
    assert server.may_publish("ostiary/demo/down/front/heartbeat")
    assert server.may_publish("ostiary/demo/all/lockdown")
    assert not server.may_publish("ostiary/demo/up/front/events")
    assert not server.may_publish("ostiary/other/down/front/heartbeat")


@pytest.mark.parametrize("name", [server_id("demo"), checker_id("demo"), PROBE, VICTIM])
def test_no_device_gets_a_name_with_other_rights(name):
    with pytest.raises(ValueError, match="can't be named"):
        refuse_reserved("demo", name)


def test_the_server_of_another_site_is_just_a_name():
    refuse_reserved("demo", server_id("other"))


def test_a_long_site_name_still_makes_a_common_name():
    site = "s" * 63
    assert len(server_id(site)) == 64
    assert server_id(site) in grants(site, [])
