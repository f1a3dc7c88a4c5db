"""Is this statement of an agent what it claims to be? Pure, and safe to run in any thread.

The order is that of `server.ingest.verify`: topic, size, envelope, key, signature, and only then
what the statement says, which must be of the very agent that signed it and for this server. Its
time is not held against it: an agent whose clock is wrong is to be heard all the more.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.enrolment import Renewal
from schemas.envelope import KeyRing, open_envelope
from schemas.errors import SchemaError
from schemas.keys import MAX_KEY_STATEMENT_BYTES, KeyRequest
from schemas.names import SERVER
from schemas.report import MAX_REPORT_BYTES, Pull, Report
from schemas.statement import parse_statement, payload_type
from schemas.topics import KEYS, PULL, RENEWAL, REPORT, TRANSPORT, parse_up
from schemas.transport import MAX_TRANSPORT_BYTES, TransportRequest
from server.ingest.verify import ALARM_KINDS, AlarmKind, Refusal

Statement = Report | Pull | Renewal | KeyRequest | TransportRequest

MAX_BYTES = {
    REPORT: MAX_REPORT_BYTES,
    PULL: 8 * 1024,
    RENEWAL: 16 * 1024,
    KEYS: MAX_KEY_STATEMENT_BYTES,
    TRANSPORT: MAX_TRANSPORT_BYTES,
}
"""Of a message, by channel."""
_MODELS: dict[str, type[Statement]] = {
    REPORT: Report,
    PULL: Pull,
    RENEWAL: Renewal,
    KEYS: KeyRequest,
    TRANSPORT: TransportRequest,
}


@dataclass(frozen=True, slots=True)
class Heard:
    """What an agent said, beyond doubt."""

    agent: str
    statement: Statement


def hear(topic: str, payload: bytes, trusted: KeyRing, site: str) -> Heard | Refusal:
    """The statement in a message, or why it is refused."""
    agent: str | None = None
    try:
        up = parse_up(topic)
        agent = up.agent
        if up.site != site or up.channel not in _MODELS:
            return Refusal(AlarmKind.WRONG_TOPIC, agent, f"a statement came on {topic[:200]!r}")
        model = _MODELS[up.channel]
        kind = payload_type(model.model_fields["purpose"].default)
        opened = open_envelope(payload, trusted, kind, max_bytes=MAX_BYTES[up.channel])
        if opened.holder != agent:
            detail = f"{up.channel} signed by {opened.holder} came on the topic of {agent}"
            return Refusal(AlarmKind.WRONG_TOPIC, opened.holder, detail)
        statement = parse_statement(opened.payload, model)
    except SchemaError as error:
        return Refusal(ALARM_KINDS[type(error)], agent, str(error))
    if (statement.site, statement.audience) != (site, SERVER):
        detail = f"{up.channel} is for {statement.site}/{statement.audience}, not for this server"
        return Refusal(AlarmKind.WRONG_TOPIC, agent, detail)
    return Heard(agent, statement)
