"""The bodies of the API, as OpenAPI shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from schemas.events import EVENT_DATA
from schemas.names import Name

EVENT_ID = r"^[0-9a-f]{16}-[1-9][0-9]{0,19}$"

_EVENT: dict[str, JsonValue] = {
    "specversion": "1.0",
    "id": "5f0c1a2b3c4d5e6f-42",
    "source": "/sites/demo/agents/front-agent",
    "type": "io.ostiary.access.denied.v1",
    "subject": "doors/front",
    "time": "2026-11-24T08:15:30.123456Z",
    "sequence": "00000000000000000042",
    "chain": "5f0c1a2b3c4d5e6f",
    "prevhash": "9b" * 32,
    "datacontenttype": "application/json",
    "data": {
        "door": "front",
        "direction": "in",
        "card": "0102030405060708",
        "person": "mei",
        "reason": "outside_schedule",
    },
    "recordedtime": "2026-11-24T08:15:30.161204Z",
    "occurrence": "live",
    "cursor": "1kO8yT3bNqM4AAAAAAAAAKg",
}


def _known_type(name: str) -> str:
    if name not in EVENT_DATA:
        raise ValueError(f"unknown event type {name[:100]!r}; known: {', '.join(EVENT_DATA)}")
    return name


EventName = Annotated[
    str, AfterValidator(_known_type), Field(json_schema_extra={"enum": list(EVENT_DATA)})
]
"""`access.denied` for `io.ostiary.access.denied.v1`."""

After = Annotated[
    str | None,
    Field(description="Go on just after this cursor. Without it: from the beginning."),
]
Types = Annotated[
    list[EventName], Field(description="Only these event types; repeat it for several.")
]
Door = Annotated[Name | None, Field(description="Only events of this door.")]


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EventsQuery(_Query):
    """Which events, from where, and how long to wait for them."""

    after: After = None
    last: Annotated[
        int | None,
        Field(
            ge=0,
            le=1000,
            description="Instead of `after`: begin this many events (of all kinds) before the "
            "newest. `last=0` gives the cursor of this moment.",
        ),
    ] = None
    limit: Annotated[int, Field(ge=1, le=1000, description="Most events in one answer.")] = 100
    type: Types = Field(default_factory=list)
    door: Door = None
    wait: Annotated[
        float,
        Field(ge=0, le=30, description="If there is none, wait up to this many seconds for one."),
    ] = 0


class StreamQuery(_Query):
    """Which events, from where."""

    after: Annotated[
        str | None, Field(description="Go on just after this cursor. Without it: from now.")
    ] = None
    type: Types = Field(default_factory=list)
    door: Door = None


class NoQuery(_Query):
    """No parameter at all: a misspelt one is an error, not ignored."""


class Event(BaseModel):
    """A CloudEvent 1.0 as a door signed it, and when it got here."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_EVENT]})

    specversion: Literal["1.0"]
    id: str = Field(description="`<chain>-<sequence>`; unique for ever", pattern=EVENT_ID)
    source: str = Field(description="the agent or server that saw it")
    type: str = Field(description="`io.ostiary.<noun>.<verb>.v1`")
    subject: str = Field(description="what it is about, such as `doors/front`")
    time: datetime = Field(description="when it happened, by the agent's clock")
    sequence: str = Field(description="counts up by one in a chain; 20 digits")
    chain: str = Field(description="the event store of the agent")
    prevhash: str = Field(description="digest of the line before it in the chain")
    datacontenttype: Literal["application/json"]
    data: dict[str, Any] = Field(description="by event type; may grow, never shrinks")
    recordedtime: datetime = Field(description="when this server committed it")
    occurrence: Literal["live", "late"] = Field(
        description="`late`: committed over 10 s after it happened; history, not news"
    )
    cursor: str = Field(description="the place in the feed just after this event")


class EventPage(BaseModel):
    """Some events, and where to go on."""

    events: list[Event] = Field(description="in order of arrival")
    next: str = Field(description="the cursor to ask with next; also if there were no events")
    more: bool = Field(description="whether more are there already")


class EventProof(BaseModel):
    """What proves an event to anyone who trusts the agent's key."""

    event: str = Field(description="the event's id")
    line: str = Field(description="the exact line; its UTF-8 bytes are what was hashed and signed")
    index: int = Field(description="which line of the envelope's payload it is, from 0")
    lines: int = Field(description="how many lines the signature covers")
    suite: Literal["gm", "intl"] = Field(description="`gm`: SM2 with SM3; `intl`: P-256, SHA-256")
    envelope: dict[str, Any] = Field(
        description="the DSSE v1 envelope",
        examples=[
            {
                "payloadType": "application/vnd.ostiary.events.v1",
                "payload": "eyJzcGVj...",
                "signatures": [{"keyid": "9b...", "sig": "MEUC..."}],
            }
        ],
    )


class DoorState(BaseModel):
    """A door as it last reported itself."""

    door: str = Field(examples=["front"])
    agent: str = Field(description="the agent that serves it", examples=["front-agent"])
    current: bool = Field(
        description="false: the server has no broker link, so the door may have changed since"
    )
    contact: str = Field(description="`open`, `closed`, `fault` or `unknown`", examples=["closed"])
    mode: str = Field(description="ONVIF DoorMode, or `unknown`", examples=["locked"])
    alarm: str = Field(description="`normal`, `forced`, `held` ...", examples=["normal"])
    changed: datetime = Field(description="when the door last changed, by its agent's clock")
    last_heard: datetime | None = Field(
        description="when the server last committed an event of its agent"
    )


class Link(BaseModel):
    """The server's own link to the broker."""

    connected: bool
    since: datetime | None = Field(description="when `connected` last changed")


class Doors(BaseModel):
    """All doors that ever reported, by name."""

    site: str = Field(examples=["demo"])
    link: Link
    doors: list[DoorState]
    cursor: str = Field(description="stream from here to see every change after this answer")


class Check(BaseModel):
    """One thing the server needs."""

    ok: bool
    detail: str


class Health(BaseModel):
    """The server can receive, store and show events."""

    status: Literal["ready"]
    checks: dict[str, Check]
    last_commit: datetime | None = Field(description="when the newest event was committed")


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"]


class ProblemKind(BaseModel):
    """What a problem's `type` means."""

    type: str
    title: str
    status: int
    advice: str
