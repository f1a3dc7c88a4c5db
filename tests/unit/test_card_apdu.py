from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.card import layout, tlv
from edge_agent.card.apdu import Command, MalformedApdu, Response, StatusWord
from edge_agent.card.layout import Info, Slot

BYTE = st.integers(0, 255)
COMMANDS = st.builds(
    Command,
    BYTE,
    BYTE,
    BYTE,
    BYTE,
    st.binary(max_size=255),
    st.none() | st.integers(1, 256),
)


@given(COMMANDS)
def test_a_command_of_any_case_survives_the_wire(command):
    assert Command.decode(command.encode()) == command


@given(st.binary(max_size=256), st.integers(0x6100, 0x6FFF) | st.integers(0x9000, 0x9FFF))
def test_a_response_survives_the_wire(data, sw):
    assert Response.decode(Response(data, sw).encode()) == Response(data, sw)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_command_or_refused(data):
    try:
        command = Command.decode(data)
    except MalformedApdu:
        return
    assert command.encode() == data


@given(st.binary(max_size=300))
def test_any_bytes_are_a_response_or_refused(data):
    try:
        response = Response.decode(data)
    except MalformedApdu:
        return
    assert response.encode() == data
    assert isinstance(response.status, StatusWord)


@given(st.binary(max_size=256))
def test_any_template_has_a_serial_or_none_or_is_refused(data):
    with contextlib.suppress(MalformedApdu):
        serial = layout.serial_in(data)
        assert serial is None or len(serial) == 8


@given(st.binary(max_size=32) | st.binary(min_size=16, max_size=16))
def test_any_info_record_makes_sense_or_is_refused(data):
    with contextlib.suppress(MalformedApdu):
        info = Info.decode(data)
        assert info is None or info.preferred in info.versions


def test_the_four_cases_have_the_bytes_of_the_standard():
    assert Command(0, 0xA4, 0, 0).encode().hex() == "00a40000"
    assert Command(0, 0x84, 0, 0, le=16).encode().hex() == "0084000010"
    assert Command(0, 0x82, 0, 1, b"\xaa").encode().hex() == "0082000101aa"
    assert Command(0, 0x88, 0, 1, b"\xaa", le=256).encode().hex() == "0088000101aa00"


@pytest.mark.parametrize(
    ("sw", "status", "tries"),
    [
        (0x9000, StatusWord.OK, None),
        (0x63C2, StatusWord.WRONG, 2),
        (0x63C0, StatusWord.WRONG, 0),
        (0x6300, StatusWord.WRONG, None),
        (0x6983, StatusWord.BLOCKED, None),
        (0x6A84, StatusWord.MEMORY_FULL, None),
        (0x9403, StatusWord.NO_SUCH_KEY, None),
        (0x6FAB, StatusWord.UNKNOWN, None),
    ],
)
def test_status_words_have_names(sw, status, tries):
    response = Response(b"", sw)
    assert response.status is status
    assert response.tries_left == tries
    assert response.ok == (sw == 0x9000)


@pytest.mark.parametrize("apdu", ["", "90", "00" * 259, "8000", "60ff", "ffff"])
def test_what_is_no_response_is_refused(apdu):
    with pytest.raises(MalformedApdu):
        Response.decode(bytes.fromhex(apdu))


@pytest.mark.parametrize("apdu", ["", "00a400", "00a4000002aa", "00a4000000aa", "00a4000001aabbcc"])
def test_what_is_no_short_command_is_refused(apdu):
    with pytest.raises(MalformedApdu):
        Command.decode(bytes.fromhex(apdu))


def test_a_command_too_long_for_the_wire_is_a_callers_fault():
    with pytest.raises(ValueError, match="256 bytes"):
        Command(0, 0, 0, 0, bytes(256)).encode()
    with pytest.raises(ValueError, match="Le is 0"):
        Command(0, 0, 0, 0, le=0).encode()


@given(st.sampled_from([0x6F, 0x84, 0x9F0C]), st.binary(max_size=255))
def test_data_objects_survive_the_wire(tag, value):
    assert tlv.decode(tlv.encode(tag, value)) == {tag: value}


def test_an_unfinished_info_record_is_no_info():
    assert Info.decode(bytes(16)) is None


@given(
    st.sampled_from(["gm", "intl"]),
    st.dictionaries(st.sampled_from(Slot), st.integers(1, 255), min_size=1),
    st.booleans(),
)
def test_info_records_survive_the_card(suite, versions, admit_first):
    info = Info(suite, versions, next(iter(versions)), admit_first)
    assert Info.decode(info.encode()) == info


def test_applications_of_other_sites_and_domains_have_other_names():
    names = {layout.application_id(s, d) for s in ("a", "b") for d in ("front", "back")}
    assert len(names) == 4
    assert all(len(name) == 16 and name.startswith(b"\xf0OSTY") for name in names)
