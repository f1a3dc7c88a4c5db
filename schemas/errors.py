"""What can be wrong with something that was received.

Every refusal is a named exception: the name is the security event an operator sees.
"""

from __future__ import annotations

from pydantic import ValidationError


class SchemaError(Exception):
    """Base of all refusals in this package; the message says what, of whom, and why."""


class MalformedKey(SchemaError):
    """Key bytes are not a valid private scalar or a point on the suite's curve."""


class MalformedSignature(SchemaError):
    """Signature bytes are not canonical DER of 0 < r, s < n."""


class BadSignature(SchemaError):
    """A well-formed signature that does not match key and message."""


class MalformedEnvelope(SchemaError):
    """Bytes that are too long or not a DSSE envelope."""


class WrongPurpose(SchemaError):
    """The payload type, or the purpose inside a statement, is not the one asked for."""


class UnknownKey(SchemaError):
    """No signature is by a key that is trusted for this purpose."""


class WrongAudience(SchemaError):
    """A valid statement for another site or another recipient."""


class Expired(SchemaError):
    """A valid statement whose time is over, or not yet come."""


class MalformedEvent(SchemaError):
    """A line that is not one of our CloudEvents."""


class BrokenChain(SchemaError):
    """Event lines that do not name each other, or do not follow by one."""


class MalformedTopic(SchemaError):
    """A topic or a name in it that is outside the topic tree."""


class Rollback(SchemaError):
    """A valid statement older than the newest one that was accepted: version or counter too low."""


class FastForward(SchemaError):
    """A version so far ahead that accepting it would shut out every later honest one."""


class Equivocation(SchemaError):
    """Another content under a version or sequence that was accepted already."""


class MixAndMatch(SchemaError):
    """A valid statement that is not the one the newest heartbeat names."""


class ThresholdNotMet(SchemaError):
    """Good signatures, but by fewer keys of the role than its threshold asks for."""


class BrokenLog(SchemaError):
    """Revocation entries that do not follow by one, or whose hashes do not name each other."""


class MalformedChunk(SchemaError):
    """Bytes that are not the chunk their digest names, or that hold what does not belong there."""


class PartialBundle(SchemaError):
    """A policy or snapshot whose chunks did not all come in time: nothing of it was applied."""


class EndlessData(SchemaError):
    """A packet larger than anything that has to be sent: nobody reads on to see how large."""


class SlowRetrieval(SchemaError):
    """Chunks that come, but so slowly that someone must be holding them up."""


class RetainedReplay(SchemaError):
    """A message that a broker kept, where only a fresh one counts."""


class Replayed(SchemaError):
    """A valid statement that was handled already."""


class WrongSession(SchemaError):
    """A command for an earlier connection or start of this agent: it was queued somewhere."""


class MalformedClaim(SchemaError):
    """A claim code that was mistyped or cut short."""


def first_problem(error: ValidationError) -> str:
    """What Pydantic found first, fit for a log line: printable ASCII, at most 300 characters."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])  # names of members come from outside
    problem = f"{where}: {first['msg']}" if where else first["msg"]
    return ascii(problem)[1:-1][:300]
