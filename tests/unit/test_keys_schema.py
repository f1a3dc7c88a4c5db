"""What agents and the key authority say to each other about keys."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from schemas.esam import KeyPlace, check_value, check_values, open_in_esam, seal_for_esam
from schemas.keys import (
    FLOOR_BODY_BYTES,
    KEYS_BODY_BYTES,
    PACKAGE_LIFE,
    CheckValues,
    Item,
    KeyPackage,
    KeyRequest,
    StageOrder,
)
from schemas.root import AGENT_PURPOSES, ROLE_PURPOSES
from schemas.secure_messaging import BadProtection
from schemas.statement import payload_type
from schemas.suites import suite
from tests.schema_cast import MOMENT

CHECKS = CheckValues(auth="00aabb", admit="11aabb", maintain="22aabb")
COMMON = {"site": "demo", "issued": MOMENT, "counter": 1}
PLACE = {
    "session": "00112233445566aa",
    "esam": "45534d0000000001",
    "domain": "zone-a",
    "index": 1,
    "version": 3,
    "challenge": "00" * 16,
}
PACKAGE = {
    **COMMON,
    **PLACE,
    "audience": "front-agent",
    "expires": MOMENT + timedelta(seconds=60),
    "item": Item.KEYS,
    "check_values": CHECKS,
    "body": "01" + "ab" * 56,
}
ORDER = {
    **COMMON,
    "audience": "front-agent",
    "expires": MOMENT + PACKAGE_LIFE,
    "domain": "zone-a",
    "suite": "gm",
    "version": 3,
    "check_values": CHECKS,
    "floor": 2,
}


def test_who_may_say_what():
    assert ROLE_PURPOSES["keys"] == {
        payload_type(purpose) for purpose in ("key-package", "stage-order", "transport-key")
    }
    assert {payload_type("key-request"), payload_type("transport-request")} <= AGENT_PURPOSES
    others = frozenset().union(*(ROLE_PURPOSES[role] for role in ROLE_PURPOSES if role != "keys"))
    assert not ROLE_PURPOSES["keys"] & (others | AGENT_PURPOSES)


@pytest.mark.parametrize(
    "statement",
    [
        KeyRequest(**COMMON, **PLACE, audience="server", item=Item.FLOOR),
        KeyPackage(**PACKAGE),
        KeyPackage(**PACKAGE | {"item": Item.FLOOR, "check_values": None, "body": "01" + "ab" * 8}),
        StageOrder(**ORDER),
        StageOrder(**ORDER | {"check_values": None, "floor": 3}),
    ],
    ids=lambda statement: statement.purpose,
)
def test_a_statement_survives_its_own_json(statement):
    kind = type(statement)
    assert kind.model_validate_json(statement.model_dump_json(), strict=True) == statement


@pytest.mark.parametrize(
    "changes",
    [
        {"expires": None},
        {"expires": MOMENT + timedelta(seconds=61)},
        {"expires": MOMENT},
        {"check_values": None},
        {"check_values": {"auth": "00aabb", "admit": "11aabb"}},
        {"check_values": {**CHECKS.model_dump(), "admit": "11AABB"}},
        {"item": Item.FLOOR},
        {"item": Item.FLOOR, "check_values": None},
        {"item": "control"},
        {"item": "auth"},
        {"body": "02" + "ab" * 56},
        {"body": "01" + "ab" * 55},
        {"body": "01" + "ab" * 57},
        {"body": "01" + "ab" * 24},
        {"body": "01" + "ab" * 8},
        {"body": ""},
        {"index": 0},
        {"index": 16},
        {"version": 0},
        {"version": 256},
        {"esam": "45534d000000000"},
        {"challenge": "00" * 15},
        {"domain": "Zone A"},
    ],
    ids=str,
)
def test_a_package_that_is_not_whole_is_refused(changes):
    with pytest.raises(ValidationError):
        KeyPackage(**PACKAGE | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"expires": None},
        {"expires": MOMENT + timedelta(seconds=61)},
        {"expires": MOMENT},
        {"floor": 4},
        {"floor": 0},
        {"version": 0},
        {"version": 256},
        {"suite": "none"},
        {"domain": "Zone A"},
        {"check_values": {"auth": "00aabb", "admit": "11aabb"}},
        {"check_values": {**CHECKS.model_dump(), "control": "33aabb"}},
        {"check_values": {**CHECKS.model_dump(), "admit": "11AABB"}},
        {"esam": "45534d0000000001"},
    ],
    ids=str,
)
def test_an_order_that_is_not_whole_is_refused(changes):
    with pytest.raises(ValidationError):
        StageOrder(**ORDER | changes)


@pytest.mark.parametrize("name", ["gm", "intl"])
def test_what_is_sealed_for_an_esam_is_opened_in_it(name):
    algorithms, control, challenge = suite(name), bytes(range(16)), bytes(range(16, 32))
    for item in Item:
        place = KeyPlace(bytes(8), 3, item, 7)
        keys = b"" if item is Item.FLOOR else bytes(range(48))
        data = seal_for_esam(algorithms, control, challenge, place, keys)
        assert len(data) == (FLOOR_BODY_BYTES if item is Item.FLOOR else KEYS_BODY_BYTES)
        assert keys == b"" or not any(keys[at : at + 8] in data for at in range(0, 48, 8))
        assert open_in_esam(algorithms, control, challenge, place, data) == keys
        with pytest.raises(ValueError, match="bytes"):
            seal_for_esam(algorithms, control, challenge, place, keys + b"x")
        with pytest.raises(ValueError, match="challenge"):
            seal_for_esam(algorithms, control, b"", place, keys)
        with pytest.raises(BadProtection):
            open_in_esam(algorithms, control, challenge, place, b"")


def test_a_check_value_is_of_the_zero_block():
    # FIPS 197's AES-128 of zeros under the zero key: 66e94bd4ef8a2c3b884cfa59ca342b2e
    assert check_value(suite("intl"), bytes(16)).hex() == "66e94b"
    assert len(check_value(suite("gm"), bytes(16))) == 3
    keys = b"a" * 16 + bytes(16) + b"m" * 16
    assert check_values(suite("intl"), keys).admit == "66e94b"
    assert len(set(check_values(suite("intl"), keys).model_dump().values())) == 3
