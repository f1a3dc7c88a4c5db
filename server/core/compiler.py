"""From the management model to what one agent is told: what it needs and no more. Pure.

The same model gives the same bytes, whether all is compiled anew or one leaf of the cards is.
`server.core.card_tree` has the cards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from pydantic import ValidationError

from schemas.errors import first_problem
from schemas.names import Name
from schemas.policy import DoorSettings, Policy, PolicyCard, Rule, Schedule
from schemas.revocation import Digest
from server.core.card_tree import Place, PolicyTooLarge, Tree, card_line

HORIZON = timedelta(days=400)
"""How far ahead special days are told: more than a year, so that each is there when it comes, and
no more, so that a calendar of a century makes no policy too large."""
_PAST = timedelta(days=1)
"""How far back: a door's clock may be a little behind."""
MAX_PAYLOAD_BYTES = 140 * 1024
"""In an envelope that is 187 KiB; agents take 192."""


@dataclass(frozen=True)
class AgentModel:
    """All that an agent's policy says but for the cards. `groups` are those its rules name."""

    agent: str
    timezone: str
    doors: Mapping[str, DoorSettings]
    schedules: Mapping[str, Schedule]
    rules: tuple[Rule, ...]
    groups: frozenset[str]
    domains: frozenset[str]


def no_doors(agent: str) -> AgentModel:
    """What is left to say to an agent whose doors were taken away: nothing opens."""
    return AgentModel(agent, "UTC", {}, {}, (), frozenset(), frozenset())


def compile_policy(
    model: AgentModel, tree: Tree, *, site: str, today: date, version: int, issued: datetime
) -> Policy:
    """The manifest. `today` is the date at the site.

    Raises PolicyTooLarge if an agent would not take it.
    """
    try:
        policy = Policy(
            site=site,
            audience=model.agent,
            issued=issued,
            counter=version,
            timezone=model.timezone,
            doors=dict(sorted(model.doors.items())),
            schedules={
                name: _near(schedule, today) for name, schedule in sorted(model.schedules.items())
            },
            rules=_merged(model.rules),
            levels=tree.levels,
            cards=dict(tree.top),
        )
    except ValidationError as error:
        raise PolicyTooLarge(
            f"the policy of {model.agent} can't be made: {first_problem(error)}; "
            "spread its doors over more agents"
        ) from None
    if (size := len(policy.model_dump_json())) > MAX_PAYLOAD_BYTES:
        raise PolicyTooLarge(
            f"doors, rules and schedules of {model.agent} take {size} bytes of the "
            f"{MAX_PAYLOAD_BYTES} there are: spread its doors over more agents, or let more of "
            "its rules share a schedule"
        )
    return policy


def content_of(policy: Policy, digest: Digest) -> str:
    """The digest of all that it says but its version and its time of issue."""
    return digest(policy.model_dump_json(exclude={"counter", "issued"}).encode()).hex()


def scope_of(model: AgentModel, digest: Digest) -> str:
    """The digest of what decides which cards an agent is told of, and what of them.

    While it stays the same, a card changes only if the card itself or its holder does.
    """
    text = "\n".join([*sorted(model.groups), "", *sorted(model.domains)])
    return digest(text.encode()).hex()


def place_of(slot: int) -> Place:
    """The place in a tree that the model numbers `slot`: 64 * first + second."""
    return f"{slot >> 6:02x}", f"{slot & 0x3F:02x}"


def lines_of(cards: Iterable[PolicyCard]) -> list[bytes]:
    """The cards as a tree holds them."""
    return [card_line(card) for card in cards]


def _near(schedule: Schedule, today: date) -> Schedule:
    first, last = today - _PAST, today + HORIZON
    days = sorted(schedule.special_days.items())
    return Schedule(
        windows=schedule.windows, special_days={d: r for d, r in days if first <= d <= last}
    )


def _merged(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The same rules, one for each group and schedule, whatever they are called in the model."""
    doors: dict[tuple[Name, Name], set[Name]] = {}
    for rule in rules:
        doors.setdefault((rule.group, rule.schedule), set()).update(rule.doors)
    return tuple(
        Rule(group=group, schedule=schedule, doors=tuple(sorted(names)))
        for (group, schedule), names in sorted(doors.items())
    )
