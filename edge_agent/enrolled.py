"""What enrolment settled, as the state directory has it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from schemas.names import AgentId, Name

FILE = "enrolment.json"


class Enrolled(BaseModel):
    """The agent's name, its site, and where the broker is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: Name
    agent: AgentId
    broker_host: str
    broker_port: int = Field(ge=1, le=65535)


def read_enrolled(state_dir: Path) -> Enrolled | None:
    """What was settled; None before. Raises ValidationError or OSError."""
    try:
        return Enrolled.model_validate_json((state_dir / FILE).read_bytes())
    except FileNotFoundError:
        return None
