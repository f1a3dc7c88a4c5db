"""When an agent's confirmation of a revocation is overdue."""

from __future__ import annotations

from server.core.overdue import OVERDUE_S, Overdue


def test_an_agent_that_confirms_in_time_is_never_overdue():
    overdue = Overdue()
    assert overdue.look(1, {"front": 0}, ["front"], 0.0) == ([], [])
    assert overdue.look(1, {"front": 1}, ["front"], OVERDUE_S) == ([], [])


def test_an_agent_becomes_overdue_once_and_is_cleared_once():
    overdue = Overdue()
    overdue.look(3, {"front": 1}, ["front"], 0.0)
    began, ended = overdue.look(3, {"front": 1}, ["front"], OVERDUE_S)
    assert [(late.agent, late.applied, late.waiting_s) for late in began] == [("front", 1, 30.0)]
    assert ended == []
    assert overdue.look(3, {"front": 1}, ["front"], OVERDUE_S + 1) == ([], [])
    began, ended = overdue.look(3, {"front": 3}, ["front"], OVERDUE_S + 2)
    assert began == []
    assert [late.agent for late in ended] == ["front"]
    assert overdue.look(3, {"front": 3}, ["front"], OVERDUE_S + 3) == ([], [])


def test_a_further_entry_does_not_give_more_time():
    overdue = Overdue()
    overdue.look(1, {}, ["front"], 0.0)
    overdue.look(2, {}, ["front"], OVERDUE_S - 1)
    began, _ = overdue.look(2, {}, ["front"], OVERDUE_S)
    assert [late.agent for late in began] == ["front"]


def test_one_dead_door_is_overdue_alone():
    overdue = Overdue()
    overdue.look(1, {"a": 1}, ["a", "b"], 0.0)
    began, _ = overdue.look(1, {"a": 1}, ["a", "b"], OVERDUE_S)
    assert [late.agent for late in began] == ["b"]


def test_an_agent_that_was_removed_is_forgotten():
    overdue = Overdue()
    overdue.look(1, {}, ["front"], 0.0)
    overdue.look(1, {}, ["front"], OVERDUE_S)
    assert overdue.look(1, {}, [], OVERDUE_S + 1) == ([], [])
    assert overdue.alarmed == set()
    assert overdue.look(1, {}, ["front"], OVERDUE_S + 2) == ([], [])
