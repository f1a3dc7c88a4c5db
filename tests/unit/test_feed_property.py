"""However pages and inserts interleave, a reader gets each event once, in order of arrival."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from server.feed import cursor
from server.feed.reading import Feed, Filter
from tests.sample_site import open_site

KINDS = ("door.opened", "door.closed")
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(KINDS)),
        st.tuples(st.just("read"), st.integers(1, 4)),
    ),
    max_size=40,
)


@settings(max_examples=40)
@given(MOVES, st.sampled_from([(), KINDS[:1]]))
def test_a_reader_gets_each_event_once_whatever_is_inserted_meanwhile(moves, kinds):
    async def play(folder):
        async with open_site(Path(folder) / "ostiary.db") as site:
            feed = Feed(site.engine, site.hub)
            wanted = Filter([f"io.ostiary.{kind}.v1" for kind in kinds])
            added, seen, place = [], [], 0
            for what, value in [*moves, ("read", 1000)]:
                if what == "add":
                    event = await site.add(value)
                    if not kinds or value in kinds:
                        added.append(event)
                else:
                    page = await feed.read(place, value, wanted)
                    # Where to go on survives being handed out as text and coming back.
                    place = await feed.position_of(
                        cursor.encode(await feed.store_id(), page.position)
                    )
                    seen += [f"{event.chain}-{event.sequence}" for event in page.events]
                    assert len(page.events) <= value
                    assert page.more == (len(seen) < len(added))
            assert seen == added

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(folder))
