import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.feed import cursor
from server.feed.cursor import BadCursor, ForeignCursor


@given(st.text(max_size=40), st.integers(0, cursor.MAX_POSITION))
def test_a_cursor_comes_back_as_the_position_it_was_made_of(store_id, position):
    assert cursor.decode(store_id, cursor.encode(store_id, position)) == position


def test_a_cursor_is_safe_in_a_url_and_a_header():
    text = cursor.encode("store", cursor.MAX_POSITION)
    assert text.replace("-", "").replace("_", "").isalnum()
    assert text.isascii()


def test_a_cursor_of_another_store_is_foreign():
    with pytest.raises(ForeignCursor, match="another event store"):
        cursor.decode("one", cursor.encode("two", 5))


def test_a_cursor_of_another_version_is_foreign_whatever_it_holds():
    with pytest.raises(ForeignCursor, match="version 9"):
        cursor.decode("one", "9" + cursor.encode("one", 5)[1:])


@given(st.text(max_size=60))
def test_any_other_text_is_refused(text):
    with pytest.raises((BadCursor, ForeignCursor)):
        cursor.decode("one", text)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda good: good[:-1],
        lambda good: good + "A",
        lambda good: good + "=",
        lambda good: good + "\n",
        lambda good: " " + good,
        lambda good: good[:5] + "\n" + good[5:],
        lambda good: good[:5] + "!" + good[6:],
        lambda good: "\u0661" + good[1:],
        lambda good: good[:-1] + "B",  # the same bytes, spelt with stray low bits
        lambda good: good * 100,
        lambda _good: "",
        lambda _good: "1",
    ],
)
def test_a_cursor_has_exactly_one_spelling(spoil):
    with pytest.raises(BadCursor):
        cursor.decode("one", spoil(cursor.encode("one", 0)))


def test_a_position_no_database_can_hold_is_refused():
    with pytest.raises(BadCursor):
        cursor.decode("one", cursor.encode("one", 2**63))
