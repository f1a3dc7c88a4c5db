"""An old report that somebody kept says nothing: not who is there, nor what anyone has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from schemas.event_data import ClockStatus
from schemas.report import Report
from schemas.versions import LogHead
from server.distribution.handing import Handing
from server.distribution.presence import SKEW, Presence
from server.state import LinkStatus
from tests.site_keys import SiteKeys

AGENT, NOW = "front-agent", datetime(2026, 1, 1, tzinfo=UTC)


def report(counter: int, issued: datetime = NOW) -> Report:
    return Report(
        site="demo",
        audience="server",
        issued=issued,
        counter=counter,
        session="00" * 8,
        root=1,
        policy=None,
        revocation=LogHead(sequence=counter, hash="ab" * 32),
        lockdown=counter,
        command=0,
        chain="aa" * 8,
        waiting=0,
        doors={},
        clock=ClockStatus(status="synced"),
        version="1",
    )


def test_what_was_played_again_steers_neither_policies_nor_the_log_nor_lockdowns():
    alarms, told = [], []
    clock = SimpleNamespace(now=lambda: NOW, monotonic=lambda: 0.0)
    takes = SimpleNamespace(reported=lambda agent, what: told.append(what))
    server = SimpleNamespace(
        presence=Presence(
            engine=None,
            link=LinkStatus("builtin"),
            clock=clock,
            alarm=alarms.append,
            announced=lambda: None,
            new_session=lambda agent: None,
        ),
        policies=takes,
        revocations=takes,
        lockdowns=takes,
        site=SimpleNamespace(root=SiteKeys().root),
    )
    Handing.heard(server, AGENT, report(2))
    assert told == [None, report(2).revocation, 2]
    told.clear()
    Handing.heard(server, AGENT, report(1))
    Handing.heard(server, AGENT, report(3, NOW - SKEW - timedelta(seconds=1)))
    assert told == []
    assert [alarm.kind for alarm in alarms] == ["replayed", "stale_report"]
