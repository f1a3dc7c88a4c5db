"""What the compiler is told: which agents a change may alter, and what their doors are to know."""

from __future__ import annotations

import datetime as dt
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from schemas.card_chunks import slots
from schemas.chain import Head, compose_line
from schemas.events import EventLine, event_type
from schemas.policy import CardState
from server.clock import SystemClock
from server.model.bindings import bind
from server.model.bound import Bound
from server.model.document import SiteDocument, apply
from server.model.reading import (
    agents_with_doors,
    forget_touched,
    model_revision,
    read_agent,
    read_cards,
    served_doors,
    touched_since,
)
from tests.sample_site import MOMENT, SUITE, open_site

MEI, LI, BO = "0102030405060708", "0102030405060709", "010203040506070a"
EVENT = "0123456789abcdef-1"
ALWAYS = {"windows": [{"days": ["mon"], "start": "00:00", "end": "24:00"}]}
SITE = {
    "site": {"timezone": "Asia/Shanghai"},
    "calendars": {"holidays": {"days": {"2026-12-25": "", "2026-01-01": ""}}},
    "schedules": {
        "office": ALWAYS
        | {
            "special_days": {"2026-12-25": [{"start": "10:00", "end": "12:00"}]},
            "calendars": [{"calendar": "holidays"}],
        },
        "daytime": ALWAYS,
    },
    "areas": {"house": {}, "floor": {"parent": "house"}, "lab": {"parent": "floor"}, "yard": {}},
    "doors": {
        "front": {"agent": "a-front", "area": "house"},
        "lab": {
            "agent": "a-lab",
            "area": "lab",
            "settings": {"domain": "labs", "unlock_schedule": "daytime"},
        },
        "gate": {"agent": "a-gate", "area": "yard"},
        "spare": {"area": "yard"},
    },
    "groups": {"staff": {}, "guests": {}},
    "persons": {
        "mei": {"groups": ["staff"], "valid_until": "2027-01-01T00:00:00Z"},
        "li": {"groups": [{"group": "guests", "until": "2026-12-01T00:00:00Z"}]},
        "bo": {},
    },
    "cards": {
        MEI: {"person": "mei", "valid_until": "2026-06-01T00:00:00Z", "offline": True},
        LI: {"person": "li", "state": "lost"},
        BO: {"person": "bo"},
    },
    "rules": {
        "staff": {"group": "staff", "schedule": "office", "areas": ["house"]},
        "guests": {"group": "guests", "schedule": "office", "doors": ["gate"]},
    },
}


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path / "ostiary.db") as opened:
        await put(opened, SITE)
        yield opened


async def put(site, document, *, prune=False):
    whole = SiteDocument.model_validate(document)
    return await apply(site.state, "test", whole, prune=prune, dry_run=False)


async def touched_by(site, document=None, *, prune=False):
    async with site.engine.connect() as connection:
        before = await model_revision(connection)
    if document is not None:
        await put(site, document, prune=prune)
    async with site.engine.connect() as connection:
        return await touched_since(connection, before)


async def cards_of(connection, agent, slot=None):
    model = await read_agent(connection, agent, "intl")
    return {
        card.card: card
        async for _, cards in read_cards(connection, model, None if slot is None else [slot])
        for card in cards
    }


def slot_of(card):
    first, second = slots(card)
    return 64 * int(first, 16) + int(second, 16)


async def test_an_agent_is_told_of_its_doors_their_areas_rules_and_schedules(site):
    async with site.engine.connect() as connection:
        model = await read_agent(connection, "a-lab", "intl")
        assert await read_agent(connection, "nobody", "intl") is None
        assert await agents_with_doors(connection) == ["a-front", "a-gate", "a-lab"]
        doors = await served_doors(connection)
    assert doors == [("front", "a-front"), ("gate", "a-gate"), ("lab", "a-lab")]
    assert model.timezone == "Asia/Shanghai"
    assert model.doors["lab"].areas == ("lab", "floor", "house")
    assert (model.doors["lab"].domain, model.doors["lab"].suite) == ("labs", "intl")
    assert [(rule.group, rule.doors) for rule in model.rules] == [("staff", ("lab",))]
    assert set(model.schedules) == {"office", "daytime"}
    assert (model.groups, model.domains) == ({"staff"}, {"labs"})


async def test_a_schedules_own_special_day_stands_before_one_of_a_calendar(site):
    async with site.engine.connect() as connection:
        model = await read_agent(connection, "a-front", "intl")
    days = model.schedules["office"].special_days
    assert days[dt.date(2026, 1, 1)] == ()
    assert [(r.start, r.end) for r in days[dt.date(2026, 12, 25)]] == [("10:00", "12:00")]


async def test_a_card_matters_by_its_holders_groups_or_where_it_is_bound(site):
    async with site.engine.begin() as connection:
        await bind(connection, BO, "labs", 1, EVENT, MOMENT)
    async with site.engine.connect() as connection:
        lab, gate = await cards_of(connection, "a-lab"), await cards_of(connection, "a-gate")
        one = await cards_of(connection, "a-lab", slot_of(BO))
    assert set(lab) == {MEI, BO}
    assert set(gate) == {LI}
    assert set(one) == {BO}
    assert (lab[BO].domains, lab[BO].groups) == (("labs",), ())
    assert lab[MEI].valid_until == datetime(2026, 6, 1, tzinfo=UTC)  # the earlier of the two
    assert lab[MEI].offline
    assert gate[LI].state is CardState.LOST
    assert gate[LI].group_ends == {"guests": datetime(2026, 12, 1, tzinfo=UTC)}


async def test_a_changed_person_touches_the_slots_of_their_cards_at_their_doors(site):
    touched = await touched_by(site, {"persons": {"mei": {"groups": ["staff"]}}})
    assert not touched.everyone
    assert touched.agents == {"a-front": {slot_of(MEI)}, "a-lab": {slot_of(MEI)}}


async def test_who_changes_groups_touches_the_doors_left_and_the_doors_gained(site):
    touched = await touched_by(site, {"persons": {"mei": {"groups": ["guests"]}}})
    assert set(touched.agents) == {"a-front", "a-lab", "a-gate"}


async def test_a_name_or_a_note_touches_nobody(site):
    for change in (
        {"persons": {"mei": SITE["persons"]["mei"] | {"name": "Mei", "note": "left-handed"}}},
        {"areas": {"lab": {"parent": "floor", "name": "The lab"}}},
        {"groups": {"staff": {"name": "Staff"}}},
        {"rules": {"staff": SITE["rules"]["staff"] | {"name": "Staff go everywhere"}}},
    ):
        touched = await touched_by(site, change)
        assert not touched.everyone
        assert touched.agents == {}


async def test_a_schedule_or_calendar_touches_those_who_use_it_but_no_cards(site):
    touched = await touched_by(site, {"schedules": {"daytime": {}}})
    assert touched.agents == {"a-lab": frozenset()}
    touched = await touched_by(site, {"calendars": {"holidays": {}}})
    assert touched.agents == dict.fromkeys(("a-front", "a-lab", "a-gate"), frozenset())


async def test_a_door_that_moves_touches_all_cards_and_one_that_only_behaves_otherwise_none(site):
    slower = {"agent": "a-front", "area": "house", "settings": {"strike_release_s": 9}}
    assert (await touched_by(site, {"doors": {"front": slower}})).agents == {"a-front": frozenset()}
    moved = {"agent": "a-new", "area": "house"}
    touched = await touched_by(site, {"doors": {"front": moved}})
    assert touched.agents == {"a-front": None, "a-new": None}


async def test_what_moves_areas_or_the_clock_touches_everyone(site):
    assert (await touched_by(site, {"areas": {"lab": {"parent": "yard"}}})).everyone
    assert (await touched_by(site, {"site": {"timezone": "Europe/Berlin"}})).everyone


async def test_a_deleted_card_and_rule_touch_the_doors_that_knew_them(site):
    touched = await touched_by(
        site, {"cards": {LI: {"person": "li"}, BO: {"person": "bo"}}}, prune=True
    )
    assert touched.agents.keys() == {"a-front", "a-lab", "a-gate"}
    assert slot_of(MEI) in touched.agents["a-front"]
    touched = await touched_by(site, {"rules": {"staff": SITE["rules"]["staff"]}}, prune=True)
    assert touched.agents == {"a-gate": None}


async def test_a_binding_touches_the_doors_of_its_domain_once(site):
    async with site.engine.begin() as connection:
        before = await model_revision(connection)
        assert await bind(connection, BO, "labs", 1, EVENT, MOMENT)
        assert not await bind(connection, BO, "labs", 2, EVENT, MOMENT + timedelta(seconds=1))
        assert not await bind(connection, BO, "labs", 1, EVENT, MOMENT)  # came late
        touched = await touched_since(connection, before)
    assert touched.agents == {"a-lab": {slot_of(BO)}}
    async with site.client() as api:
        (shown,) = (await api.get("/api/v1/bindings")).json()["items"]
    assert (shown["card"], shown["domain"], shown["key_version"]) == (BO, "labs", 2)


async def test_a_binding_of_a_card_nobody_knows_yet_counts_when_it_is_known(site):
    stranger = "ffffffffffffffff"
    async with site.engine.begin() as connection:
        assert not await bind(connection, stranger, "labs", 1, EVENT, MOMENT)
    touched = await touched_by(site, {"cards": {stranger: {"person": "bo"}}})
    assert touched.agents == {"a-lab": {slot_of(stranger)}}


def bound(**changes):
    data = {"door": "lab", "card": BO, "domain": "labs", "key_version": 1} | changes
    line, _ = compose_line(
        Head("0123456789abcdef"),
        SUITE.digest,
        source="/sites/demo/agents/a-lab",
        type=event_type(data.pop("name", "card.bound")),
        subject="doors/lab",
        time=MOMENT,
        data=data | {"clock": {"status": "synced"}},
    )
    return EventLine.model_validate_json(line)


async def told_by(site, agent, *events):
    """Whether the model changed by what the agent's events say."""
    projection = Bound(SystemClock())
    rows = [SimpleNamespace(source=agent, link=SimpleNamespace(event=event)) for event in events]
    async with site.engine.begin() as connection:
        await projection.project(connection, rows)
    return projection.taken().policies


async def test_only_who_serves_a_domain_speaks_for_it(site):
    assert not await told_by(site, "a-front", bound())
    assert await told_by(site, "a-lab", bound())
    async with site.engine.connect() as connection:
        assert set(await cards_of(connection, "a-lab")) == {MEI, BO}


async def test_a_binding_that_makes_no_sense_is_passed_over(site):
    assert not await told_by(
        site,
        "a-lab",
        bound(card="no card"),
        bound(card=None),
        bound(key_version=0),
        bound(key_version=2**62),
        bound(domain="x" * 200),
        bound(domain="front"),
        bound(name="access.granted"),
    )
    async with site.engine.connect() as connection:
        assert set(await cards_of(connection, "a-lab")) == {MEI}


async def test_what_is_compiled_is_told_no_more(site):
    touched = await touched_by(site)
    async with site.engine.begin() as connection:
        await forget_touched(connection, touched.revision)
        assert (await touched_since(connection, 0)).agents == {}
