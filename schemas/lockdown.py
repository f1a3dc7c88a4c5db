"""Lockdowns in force: a state that all agents hold, not an order that can get lost.

A lockdown begins by a statement that has it and ends by a later one that has not. A door that was
away learns of it by the counter in its heartbeat.
"""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from schemas.names import Name
from schemas.statement import Statement


class Lockdown(BaseModel):
    """Entry by card is refused at every door in scope, but for members of the exempt groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Name
    scope: Literal["site", "area", "door"]
    name: Name = Field(description="of the area or door; of the site itself for scope `site`")
    exempt: tuple[Name, ...] = Field(default=(), max_length=16, description="groups that may pass")
    since: AwareDatetime

    def covers(self, site: str, door: str, areas: frozenset[str]) -> bool:
        """Whether the door, which leads into `areas` (its own and those around it), is shut."""
        match self.scope:
            case "site":
                return self.name == site
            case "area":
                return self.name in areas
            case "door":
                return self.name == door


class Lockdowns(Statement):
    """Everything that is locked down, to all agents. `counter` goes up with every change."""

    purpose: Literal["lockdown"] = "lockdown"
    active: tuple[Lockdown, ...] = Field(default=(), max_length=128)

    @model_validator(mode="after")
    def _each_once(self) -> Lockdowns:
        if len({each.id for each in self.active}) != len(self.active):
            raise ValueError("two lockdowns have the same id")
        return self
