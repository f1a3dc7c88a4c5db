"""The document an agent pins: whose keys, what each may sign, and how the next one comes."""

from __future__ import annotations

import json
import re

import pytest
from pydantic import ValidationError

from schemas.chain import EVENTS_TYPE
from schemas.errors import (
    BadSignature,
    Equivocation,
    FastForward,
    MalformedEnvelope,
    MalformedKey,
    Rollback,
    SchemaError,
    ThresholdNotMet,
    WrongAudience,
    WrongPurpose,
)
from schemas.root import (
    MAX_ROOT_BYTES,
    ROLE_PURPOSES,
    ROOT_TYPE,
    Root,
    claim_hash,
    open_first_root,
    open_next_root,
)
from schemas.statement import payload_type, sign_statement
from tests.site_keys import SiteKeys

PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
KEYS = {name: SiteKeys(name) for name in ("intl", "gm")}
EACH_SUITE = pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)


@EACH_SUITE
def test_each_key_may_sign_what_its_role_may_and_nothing_else(keys):
    ring = keys.root.key_ring()
    for role, purposes in ROLE_PURPOSES.items():
        assert ring[keys.signer(role).keyid].payload_types == purposes
    assert {each.holder for each in ring.values()} == {"server"}


def test_the_roles_are_cut_as_documented():
    types = {
        "root": {"root"},
        "policy": {"policy"},
        "revoke": {"revocation", "revocation-snapshot"},
        "keys": {"key-package", "stage-order", "transport-key"},
        "online": {"acknowledgement", "heartbeat", "lockdown", "command", "certificate"},
    }
    expected = {role: frozenset(map(payload_type, each)) for role, each in types.items()}
    expected["online"] |= {EVENTS_TYPE}
    assert expected == ROLE_PURPOSES


def test_a_key_in_no_role_may_sign_nothing():
    keys, spare = KEYS["intl"], KEYS["intl"].new_signer()
    points = {**keys.root.keys, spare.keyid: spare.key.public.point.hex()}
    ring = keys.root_document(keys=points).key_ring()
    assert ring[spare.keyid].payload_types == frozenset()


def test_one_key_in_two_roles_may_sign_for_both():
    keys = SiteKeys()
    keys.signers["online"] = keys.signers["policy"]
    both = ROLE_PURPOSES["policy"] | ROLE_PURPOSES["online"]
    assert keys.root.key_ring()[keys.signer("policy").keyid].payload_types == both


def test_a_root_survives_its_own_json():
    root = SiteKeys(authorities=(PEM,)).root
    assert Root.model_validate_json(root.model_dump_json(), strict=True) == root


def changed(**changes):
    root = json.loads(KEYS["intl"].root.model_dump_json())
    for path, value in changes.items():
        root[path] = value(root[path]) if callable(value) else value
    return json.dumps(root)


A = KEYS["intl"].signer("policy").keyid
B = KEYS["intl"].signer("root").keyid


def role(name, **members):
    return lambda roles: roles | {name: {"keyids": [A], "threshold": 1} | members}


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "Demo"},
        {"site": "demo\n"},
        {"audience": "front-agent"},
        {"counter": 0},
        {"counter": 2**63},
        {"suite": "rsa"},
        {"keys": lambda keys: keys | {"0" * 64: "zz" * 65}},
        {"keys": lambda keys: keys | {"0" * 64: "04" + "00" * 63}},
        {"keys": lambda keys: keys | {"0" * 64: "02" + "00" * 64}},
        {"keys": lambda keys: keys | {"0" * 63: "04" + "00" * 64}},
        {"keys": {}},
        {"roles": lambda roles: {name: roles[name] for name in roles if name != "keys"}},
        {"roles": role("root", keyids=[])},
        {"roles": role("root", keyids=[A, A])},
        {"roles": role("root", keyids=[A], threshold=2)},
        {"roles": role("root", threshold=0)},
        {"roles": role("policy", keyids=["0" * 64])},
        {"roles": role("policy", keyids=["not a keyid"])},
        {"roles": role("policy", keyids=[A, B], threshold=2)},
        {"roles": role("admin")},
        {"authorities": ["-----BEGIN PRIVATE KEY-----"]},
        {"authorities": [PEM] * 5},
        {"authorities": [PEM + "A" * 4096]},
        {"threshold": 1},
    ],
    ids=lambda changes: re.sub(r"<.*", "...", str(changes))[:60],
)
def test_a_root_that_is_not_well_formed_is_refused(changes):
    assert Root.model_validate_json(changed())
    with pytest.raises(ValidationError):
        Root.model_validate_json(changed(**changes))


@EACH_SUITE
def test_a_key_under_another_keys_name_is_refused(keys):
    a, b = (keys.signer(role).keyid for role in ("policy", "online"))
    points = keys.root.keys
    root = keys.root_document(keys={**points, a: points[b], b: points[a]})
    with pytest.raises(SchemaError, match="another id"):
        root.key_ring()


@EACH_SUITE
def test_a_key_off_the_curve_is_refused(keys):
    name = keys.signer("policy").keyid
    with pytest.raises(MalformedKey):
        keys.root_document(keys={**keys.root.keys, name: "04" + "00" * 64}).key_ring()


def test_a_key_of_the_other_suite_is_refused():
    with pytest.raises(MalformedKey):
        KEYS["gm"].root_document(suite="intl").key_ring()


# The first one, and the next


@EACH_SUITE
def test_a_first_root_document_is_signed_by_its_own_keys(keys):
    assert open_first_root(keys.root_envelope) == keys.root
    strange = sign_statement(keys.root, SiteKeys(keys.suite_name).signer("root"))
    with pytest.raises(ThresholdNotMet):
        open_first_root(strange)
    for other in ("policy", "online"):
        with pytest.raises(ThresholdNotMet):
            open_first_root(sign_statement(keys.root, keys.signer(other)))


def test_a_first_root_document_meets_its_own_threshold():
    keys = SiteKeys(root_keys=3, threshold=2)
    a, b, _ = keys.signers["root"]
    assert open_first_root(sign_statement(keys.root, a, b)) == keys.root
    for signers in ([a], [b], [a, a]):
        with pytest.raises(ThresholdNotMet):
            open_first_root(sign_statement(keys.root, *signers))


def test_endless_data_and_other_purposes_are_no_root_document():
    keys = KEYS["intl"]
    with pytest.raises(MalformedEnvelope, match="limit"):
        open_first_root(b"{" * (MAX_ROOT_BYTES + 1))
    with pytest.raises(MalformedEnvelope, match="limit"):
        open_next_root(b"{" * (MAX_ROOT_BYTES + 1), keys.root)
    as_policy = keys.root_envelope.replace(ROOT_TYPE.encode(), payload_type("policy").encode())
    with pytest.raises(WrongPurpose):
        open_first_root(as_policy)
    with pytest.raises(WrongPurpose):
        open_next_root(as_policy, keys.root)


def next_of(keys, **changes):
    return keys.root_document(**({"counter": keys.version + 1} | changes))


@EACH_SUITE
def test_the_next_root_document_follows_by_one(keys):
    new = next_of(keys)
    signed = sign_statement(new, keys.signer("root"))
    assert open_next_root(signed, keys.root) == new
    assert open_next_root(keys.root_envelope, keys.root) is not None
    with pytest.raises(Rollback):
        open_next_root(keys.root_envelope, new)
    far = sign_statement(next_of(keys, counter=3), keys.signer("root"))
    with pytest.raises(FastForward):
        open_next_root(far, keys.root)


def test_another_root_document_of_the_same_version_is_an_equivocation():
    keys = KEYS["intl"]
    other = sign_statement(keys.root_document(authorities=(PEM,)), keys.signer("root"))
    with pytest.raises(Equivocation):
        open_next_root(other, keys.root)


@pytest.mark.parametrize("changes", [{"site": "elsewhere"}, {"suite": "gm"}], ids=str)
def test_a_root_document_of_another_site_or_suite_never_follows(changes):
    keys = KEYS["intl"]
    with pytest.raises(WrongAudience):
        open_next_root(sign_statement(next_of(keys, **changes), keys.signer("root")), keys.root)


def test_new_root_keys_are_vouched_for_by_the_old_ones_and_by_themselves():
    old, new = SiteKeys(), SiteKeys(version=2)
    a, b = old.signer("root"), new.signer("root")
    assert open_next_root(sign_statement(new.root, a, b), old.root) == new.root
    for signers in ([a], [b]):
        with pytest.raises(ThresholdNotMet):
            open_next_root(sign_statement(new.root, *signers), old.root)


def test_the_thresholds_of_both_are_met():
    old = SiteKeys(root_keys=3, threshold=2)
    new = SiteKeys(root_keys=3, threshold=3, version=2)
    a, b = old.signers["root"], new.signers["root"]
    assert open_next_root(sign_statement(new.root, *a[:2], *b), old.root) == new.root
    for signers in ([*a[:1], *b], [*a, *b[:2]], [a[0], a[0], *b]):
        with pytest.raises(ThresholdNotMet):
            open_next_root(sign_statement(new.root, *signers), old.root)


def test_what_a_root_document_says_is_covered_by_its_signatures():
    keys = KEYS["intl"]
    envelope = json.loads(keys.root_envelope)
    other = json.loads(sign_statement(next_of(keys), keys.new_signer()))
    forged = json.dumps(envelope | {"payload": other["payload"]}).encode()
    for refuse in (open_first_root, lambda data: open_next_root(data, keys.root)):
        with pytest.raises((ThresholdNotMet, BadSignature)):
            refuse(forged)


def test_a_claim_names_the_very_envelope():
    keys = KEYS["gm"]
    assert claim_hash(keys.root_envelope) != claim_hash(keys.root_envelope + b" ")
    assert re.fullmatch("[0-9a-f]{64}", claim_hash(b""))
