"""A package opens in one ESAM, for one challenge, at one place, once; and tells no key."""

from __future__ import annotations

import secrets
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.esam import KeyPlace, check_values, open_in_esam
from schemas.keys import Item
from schemas.secure_messaging import BadProtection
from schemas.suites import suite
from server.keys.home import HomeUnavailable, Source
from server.keys.sealed import SealedHome
from tests.esam_desk import EsamDesk
from tests.key_rig import traces

SUITES = st.sampled_from([suite("gm"), suite("intl")])
BLOCKS = st.binary(min_size=16, max_size=16)
PLACES = st.builds(
    KeyPlace,
    st.binary(min_size=8, max_size=8),
    st.integers(1, 15),
    st.sampled_from(Item),
    st.integers(1, 255),
)


class Source16:
    """A random source that remembers the keys it gave."""

    def __init__(self) -> None:
        self.given: list[bytes] = []

    def __call__(self, count: int) -> bytes:
        drawn = secrets.token_bytes(count)
        if count == 16:
            self.given.append(drawn)
        return drawn


def packed(algorithms, control_key, challenge, place):
    """A home, what it packed for this place, and the keys that it drew."""
    random = Source16()
    home = SealedHome("demo", secrets.token_bytes(32), random)
    made = home.new_version("zone-a", algorithms.name, place.version)
    control = home.keep_control_key(algorithms.name, place.serial, control_key)
    if place.item is Item.FLOOR:
        return home.floor(algorithms.name, control, challenge, place), random.given
    source = Source("zone-a", algorithms.name, place.version, made.stored)
    body, check = home.package(source, control, challenge, place)
    assert check == made.check_values
    return body, random.given


@given(SUITES, BLOCKS, BLOCKS, PLACES)
def test_the_right_esam_gets_the_right_keys(algorithms, control_key, challenge, place):
    body, keys = packed(algorithms, control_key, challenge, place)
    opened = open_in_esam(algorithms, control_key, challenge, place, body)
    assert opened == (b"" if place.item is Item.FLOOR else b"".join(keys))
    assert traces(body, [*keys, control_key]) == []


@given(SUITES, BLOCKS, BLOCKS, PLACES, st.data())
def test_nothing_else_opens_it(algorithms, control_key, challenge, place, data):
    body, _ = packed(algorithms, control_key, challenge, place)
    other_key, other_challenge = data.draw(BLOCKS), data.draw(BLOCKS)
    other = data.draw(PLACES)
    changed = bytearray(body)
    bit = data.draw(st.integers(0, 8 * len(body) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    attempts = [
        (other_key, challenge, place, body),
        (control_key, other_challenge, place, body),
        (control_key, challenge, place, bytes(changed)),
        (control_key, challenge, place, body[:-1]),
        (control_key, challenge, place, body + b"\x00"),
        *(
            (control_key, challenge, replace(place, **{name: getattr(other, name)}), body)
            for name in ("serial", "index", "item", "version")
        ),
    ]
    for attempt in attempts:
        if attempt == (control_key, challenge, place, body):
            continue
        with pytest.raises(BadProtection):
            open_in_esam(algorithms, *attempt)


@settings(max_examples=15)
@given(st.sampled_from(["gm", "intl"]), st.integers(1, 255))
def test_an_esam_takes_it_once(name, version):
    esam, other = EsamDesk(name).issue(), EsamDesk(name, serial=b"OTHERESA").issue()
    place = KeyPlace(esam.serial, 1, Item.KEYS, version)
    body, keys = packed(esam.suite, esam.control_key, esam.challenge(), place)
    apdu = place.header + bytes((len(body),)) + body
    other.challenge()
    assert not other.send(apdu).ok
    assert esam.send(apdu).ok
    assert esam.table() == {version: check_values(esam.suite, b"".join(keys))}
    assert not esam.send(apdu).ok
    esam.challenge()
    assert not esam.send(apdu).ok


@given(SUITES, st.binary(min_size=32, max_size=32), st.data())
def test_what_is_sealed_opens_for_its_own_name_alone(algorithms, kek, data):
    home = SealedHome("demo", kek, secrets.token_bytes)
    stored = home.new_version("zone-a", algorithms.name, 1).stored
    control = home.keep_control_key(algorithms.name, bytes(8), bytes(16))
    changed = bytearray(stored)
    bit = data.draw(st.integers(0, 8 * len(stored) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    place = KeyPlace(bytes(8), 1, Item.KEYS, 1)
    for source in (
        Source("zone-b", algorithms.name, 1, stored),
        Source("zone-a", algorithms.name, 2, stored),
        Source("zone-a", "gm" if algorithms.name == "intl" else "intl", 1, stored),
        Source("zone-a", algorithms.name, 1, control),
        Source("zone-a", algorithms.name, 1, bytes(changed)),
        Source("zone-a", algorithms.name, 1, b""),
    ):
        with pytest.raises(HomeUnavailable):
            home.package(source, control, bytes(16), place)
    with pytest.raises(HomeUnavailable):
        home.floor(
            algorithms.name, control, bytes(16), replace(place, serial=b"another1", item=Item.FLOOR)
        )
