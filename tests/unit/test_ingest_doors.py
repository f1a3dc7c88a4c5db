"""Door states are what agents last said."""

import pytest

from schemas.chain import parse_line
from server.ingest.doors import Doors as Committed
from server.ingest.doors import DoorState, project, takeovers
from server.ingest.heads import Row
from server.ingest.verify import AlarmKind
from tests.agent_pen import Pen


class Doors:
    def __init__(self) -> None:
        self.all = Committed()
        self.pens: dict[str, Pen] = {}
        self.position = 0

    def say(self, name: str, *, agent: str = "front", **data: object) -> list[DoorState]:
        pen = self.pens.setdefault(agent, Pen(agent))
        event = parse_line(pen.write(name, data), pen.suite.digest).event
        self.position += 1
        draft = Committed(base=self.all)
        for changed in project(draft, agent, event, self.position):
            draft.put(changed)
        for changed in draft.states.values():
            self.all.put(changed)
        return list(draft.states.values())

    @property
    def states(self) -> dict[str, DoorState]:
        return self.all.states

    @property
    def front(self) -> tuple[str, str, str]:
        door = self.states["front"]
        return door.contact, door.mode, door.alarm


def test_a_start_says_how_contacts_are():
    doors = Doors()
    doors.say("agent.started", doors={"front": "open", "back": "closed"})
    assert doors.front == ("open", "unknown", "normal")
    assert doors.states["back"].contact == "closed"


def test_each_event_changes_what_it_is_about():
    doors = Doors()
    told = [
        ("door.closed", {}, ("closed", "unknown", "normal")),
        ("door.mode_changed", {"mode": "locked"}, ("closed", "locked", "normal")),
        ("door.opened", {}, ("open", "locked", "normal")),
        ("door.forced", {}, ("open", "locked", "forced")),
        ("door.held.cleared", {}, ("open", "locked", "forced")),
        ("door.forced.cleared", {}, ("open", "locked", "normal")),
        ("door.held", {}, ("open", "locked", "held")),
        ("door.held.cleared", {}, ("open", "locked", "normal")),
        ("door.fault", {}, ("fault", "locked", "normal")),
        ("door.fault.cleared", {}, ("unknown", "locked", "normal")),
    ]
    for name, data, state in told:
        doors.say(name, door="front", **data)
        assert doors.front == state, name


def test_what_changes_nothing_writes_nothing():
    doors = Doors()
    assert doors.say("access.granted", door="front")  # the door becomes known
    assert not doors.say("access.denied", door="front")
    assert doors.states["front"].position == 1


def test_another_agents_word_begins_anew():
    doors = Doors()
    doors.say("door.mode_changed", door="front", mode="locked")
    doors.say("door.opened", door="front", agent="other")
    assert doors.front == ("open", "unknown", "normal")
    assert doors.states["front"].agent == "other"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"door": 1},
        {"door": "../x"},
        {"door": "A"},
        {"door": "x" * 64},
        {"door": None},
        {"doors": []},
        {"doors": {"UPPER": "open"}},
    ],
)
@pytest.mark.parametrize("name", ["door.opened", "agent.started", "door.mode_changed"])
def test_rubbish_makes_no_door(name, data):
    assert not Doors().say(name, **data)


def test_rubbish_values_are_unknown():
    doors = Doors()
    doors.say("agent.started", doors={"front": ["open"], "back": "ajar"})
    doors.say("door.mode_changed", door="front", mode={"a": 1})
    assert {d.contact for d in doors.states.values()} == {"unknown"}
    assert doors.states["front"].mode == "unknown"


def test_an_agent_can_not_fill_the_table_event_by_event():
    doors = Doors()
    for n in range(70):
        doors.say("door.opened", door=f"d{n}")
    assert len(doors.states) == 64
    doors.say("door.closed", door="d0")
    assert doors.states["d0"].contact == "closed", "those that it has go on"
    doors.say("door.opened", door="other", agent="other")
    assert "other" in doors.states


def test_speaking_for_anothers_door_is_an_alarm():
    doors = Doors()
    doors.say("door.forced", door="front")
    pen = Pen("other")

    def row(name, data):
        link = parse_line(pen.write(name, data), pen.suite.digest)
        return Row("other", link, None)

    rows = [
        row("door.forced.cleared", {"door": "front"}),
        row("agent.started", {"doors": {"front": "closed", "back": "open"}}),
        row("door.closed", {"door": "back"}),
    ]
    alarms = list(takeovers(doors.all, rows))
    assert [(a.kind, a.agent) for a in alarms] == [(AlarmKind.DOOR_TAKEN, "other")] * 2
    assert "front's" in alarms[0].detail


def test_an_agent_can_not_fill_the_table_with_one_event():
    doors = Doors()
    doors.say("agent.started", doors={f"d{n}": "open" for n in range(150)})
    assert len(doors.states) == 64


def test_the_server_speaks_of_doors_and_for_none():
    doors = Doors()
    doors.say("door.opened", door="front")
    assert doors.say("command.sent", agent="server", door="front") == []
    pen = doors.pens["server"]
    link = parse_line(pen.write("command.sent", {"door": "front"}), pen.suite.digest)
    assert not list(takeovers(doors.all, [Row("server", link, None)]))
    assert doors.states["front"].agent == "front"
