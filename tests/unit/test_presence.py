"""Who counts as being there: signed reports say so, and nothing else."""

from __future__ import annotations

import pytest

from schemas.report import OFFLINE_AFTER_S
from server.core.presence import HINTED_AFTER_S, Change, Watch
from tests.reports import report

AGENT = "front-agent"


@pytest.fixture
def watch() -> Watch:
    watch = Watch()
    assert watch.heard(AGENT, report(), 0.0) is Change.CAME
    return watch


def test_an_agent_that_goes_on_reporting_stays(watch):
    for n in range(1, 10):
        assert watch.gone(n * 10.0) == []
        assert watch.heard(AGENT, report(n + 1), n * 10.0) is Change.NOTHING


def test_a_silent_agent_goes_once_within_thirty_seconds(watch):
    assert watch.gone(OFFLINE_AFTER_S - 0.1) == []
    assert watch.gone(OFFLINE_AFTER_S) == [AGENT]
    assert OFFLINE_AFTER_S <= 30
    assert watch.gone(OFFLINE_AFTER_S + 1) == []


def test_an_agent_that_reports_again_comes_again(watch):
    watch.gone(OFFLINE_AFTER_S)
    assert watch.heard(AGENT, report(2), 40.0) is Change.CAME


def test_an_orderly_stop_is_seen_at_once(watch):
    assert watch.heard(AGENT, report(2, leaving=True), 1.0) is Change.WENT
    assert watch.gone(1000.0) == []


def test_a_broken_connection_alone_takes_nobody_offline(watch):
    watch.broken(AGENT, 1.0)
    assert watch.gone(1.0) == []
    assert watch.heard(AGENT, report(2), 2.0) is Change.NOTHING
    assert watch.gone(2.0 + HINTED_AFTER_S) == []


def test_a_broken_connection_shortens_the_wait(watch):
    watch.broken(AGENT, 1.0)
    assert watch.gone(1.0 + HINTED_AFTER_S) == [AGENT]


def test_a_broken_connection_never_lengthens_the_wait(watch):
    watch.broken(AGENT, OFFLINE_AFTER_S - 1)
    assert watch.gone(OFFLINE_AFTER_S) == [AGENT]


def test_nobody_is_silent_while_the_server_hears_nobody(watch):
    watch.deaf_for(100.0)
    assert watch.gone(100.0 + OFFLINE_AFTER_S - 0.1) == []
    assert watch.gone(100.0 + OFFLINE_AFTER_S) == [AGENT]


def test_who_was_heard_before_a_restart_has_the_usual_time_to_report():
    watch = Watch()
    watch.expect(AGENT, 5.0)
    assert watch.gone(5.0 + OFFLINE_AFTER_S - 0.1) == []
    assert watch.gone(5.0 + OFFLINE_AFTER_S) == [AGENT]


def test_who_was_heard_before_a_restart_and_reports_did_not_come_anew():
    watch = Watch()
    watch.expect(AGENT, 5.0)
    assert watch.heard(AGENT, report(), 6.0) is Change.NOTHING
