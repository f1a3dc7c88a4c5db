"""The server's own event chain, signed by the site's online key.

What the server has to say goes the same way as what doors say: same lines, same table, same proof.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from schemas.chain import EVENTS_TYPE, MAX_LINES, Head, compose_line, join_lines, parse_line
from schemas.envelope import Signer, pae
from schemas.events import agent_subject, event_type, server_source
from schemas.names import SERVER
from schemas.server_event_data import AlarmRaised
from schemas.suites import Suite
from server.ingest.heads import Row
from server.ingest.verify import Verified


@dataclass(frozen=True)
class Said:
    """One event to be: its name (`alarm.raised`), subject, data, and when it happened."""

    name: str
    subject: str
    data: dict[str, Any]
    time: datetime


def say_alarm(alarm: AlarmRaised, site: str, time: datetime) -> Said:
    """An alarm is about its agent, or, where nobody knows whose doing it was, about the site."""
    subject = agent_subject(alarm.agent) if alarm.agent else f"sites/{site}"
    return Said("alarm.raised", subject, alarm.model_dump(mode="json"), time)


class Journal:
    """Composes and signs lines after the chain's committed head."""

    def __init__(
        self, site: str, suite: Suite, signer: Signer, new_chain: Callable[[], str]
    ) -> None:
        self._source = server_source(site)
        self._suite, self._signer = suite, signer
        self._new_chain = new_chain

    def compose(self, said: Sequence[Said], head: Head | None) -> tuple[list[Row], Head]:
        """Rows for what is said, one signature for at most 256, and the head they make."""
        head = head or Head(self._new_chain())
        rows: list[Row] = []
        for start in range(0, len(said), MAX_LINES):
            links = []
            for each in said[start : start + MAX_LINES]:
                line, head = compose_line(
                    head,
                    self._suite.digest,
                    source=self._source,
                    type=event_type(each.name),
                    subject=each.subject,
                    time=each.time,
                    data=each.data,
                )
                links.append(parse_line(line, self._suite.digest))
            payload = join_lines(link.line for link in links)
            signature = self._signer.key.sign(pae(EVENTS_TYPE, payload))
            signed = Verified(SERVER, head.chain, tuple(links), self._signer.keyid, signature)
            rows += [Row(SERVER, link, signed if link is links[-1] else None) for link in links]
        return rows, head
