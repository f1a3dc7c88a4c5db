"""The document an agent pins: whose keys, and what each may sign."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from schemas.chain import EVENTS_TYPE
from schemas.errors import MalformedKey, SchemaError
from schemas.root import ROLE_PURPOSES, Root
from schemas.statement import payload_type
from tests.schema_cast import SUITES, key_of, signer_of

EACH_SUITE = pytest.mark.parametrize("s", SUITES, ids=lambda s: s.name)
S = SUITES[1]


def members(s=S, **changes):
    keys = {signer_of(s, h).keyid: key_of(s, h).public.point.hex() for h in ("policy", "online")}
    roles = {role: [signer_of(s, role).keyid] for role in ("policy", "online")}
    return {"site": "demo", "version": 1, "suite": s.name, "keys": keys, "roles": roles} | changes


@EACH_SUITE
def test_each_key_may_sign_what_its_role_may_and_nothing_else(s):
    ring = Root(**members(s)).key_ring()
    policy, online = (ring[signer_of(s, role).keyid] for role in ("policy", "online"))
    assert policy.payload_types == {payload_type("policy")}
    assert online.payload_types == {payload_type("acknowledgement"), EVENTS_TYPE}
    assert {policy.holder, online.holder} == {"server"}


def test_a_key_in_no_role_may_sign_nothing():
    root = Root(**members(roles={"policy": [signer_of(S, "policy").keyid]}))
    assert root.key_ring()[signer_of(S, "online").keyid].payload_types == frozenset()


def test_one_key_in_two_roles_may_sign_for_both():
    name = signer_of(S, "policy").keyid
    root = Root(**members(roles={"policy": [name], "online": [name]}))
    both = ROLE_PURPOSES["policy"] | ROLE_PURPOSES["online"]
    assert root.key_ring()[name].payload_types == both


def test_a_root_survives_its_own_json():
    root = Root(**members())
    assert Root.model_validate_json(root.model_dump_json()) == root


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "Demo"},
        {"site": "demo\n"},
        {"version": 0},
        {"suite": "rsa"},
        {"keys": {"0" * 64: "zz" * 65}, "roles": {}},
        {"keys": {"0" * 64: ""}, "roles": {}},
        {"keys": {"0" * 64: "04" + "00" * 63}, "roles": {}},
        {"keys": {"0" * 64: "02" + "00" * 64}, "roles": {}},
        {"keys": {"0" * 64: "04 " + "0" * 127}, "roles": {}},
        {"keys": {"0" * 63: "04" + "00" * 64}, "roles": {}},
        {"keys": {}},
        {"roles": {"root": []}},
        {"roles": {"policy": ["0" * 64]}},
        {"roles": {"policy": ["not a keyid"]}},
        {"roles": {"policy": "0" * 64}},
        {"threshold": 1},
    ],
    ids=str,
)
def test_a_root_that_is_not_well_formed_is_refused(changes):
    with pytest.raises(ValidationError):
        Root.model_validate_json(json.dumps(members(**changes)))


@EACH_SUITE
def test_a_key_under_another_keys_name_is_refused(s):
    a, b = (signer_of(s, h).keyid for h in ("policy", "online"))
    keys = members(s)["keys"]
    with pytest.raises(SchemaError, match="another id"):
        Root(**members(s, keys={a: keys[b], b: keys[a]})).key_ring()


@EACH_SUITE
def test_a_key_off_the_curve_is_refused(s):
    name = signer_of(s, "policy").keyid
    root = Root(**members(s, keys={name: "04" + "00" * 64}, roles={}))
    with pytest.raises(MalformedKey):
        root.key_ring()


def test_a_key_of_the_other_suite_is_refused():
    with pytest.raises(MalformedKey):
        Root(**members(SUITES[0], suite="intl")).key_ring()
