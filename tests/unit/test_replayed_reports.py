"""An old report that somebody kept says nothing: not who is there, nor what anyone has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from schemas.report import Report
from schemas.versions import LogHead
from server.distribution.handing import Handing
from server.distribution.presence import SKEW, Presence
from server.state import LinkStatus
from tests.reports import report
from tests.site_keys import SiteKeys

AGENT, NOW = "front-agent", datetime(2026, 1, 1, tzinfo=UTC)


def reported(counter: int, issued: datetime = NOW) -> Report:
    head = LogHead(sequence=counter, hash="ab" * 32)
    return report(counter, issued=issued, revocation=head, lockdown=counter)


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
    Handing.heard(server, AGENT, reported(2))
    assert told == [None, reported(2).revocation, 2]
    told.clear()
    Handing.heard(server, AGENT, reported(1))
    Handing.heard(server, AGENT, reported(3, NOW - SKEW - timedelta(seconds=1)))
    assert told == []
    assert [alarm.kind for alarm in alarms] == ["replayed", "stale_report"]
