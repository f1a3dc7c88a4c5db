"""Do this at this door now: signed, for one session of one agent, and never executed late."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from schemas.names import CardId, Name
from schemas.statement import Statement

Session = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""8 random bytes that an agent draws for each connection, in hex: the nonce of its commands. What a
broker kept from before an outage names another session and can't be executed after it."""

CommandId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""8 random bytes by which the result names its command, in hex."""

PROMPT = timedelta(seconds=5)
PATIENT = timedelta(seconds=30)
LONGEST_UNLOCK = timedelta(hours=24)
LONGEST_WINDOW = timedelta(seconds=60)


class Action(StrEnum):
    """What an agent can be told to do; ONVIF's name in brackets."""

    PULSE = "pulse"
    """Release the strike for one passage (AccessDoor)."""
    UNLOCK = "unlock"
    """Leave the door unlocked until a given time (UnlockDoor)."""
    LOCK = "lock"
    """Lock it, against an unlocking policy too, until told otherwise or a given time (LockDoor)."""
    BLOCK = "block"
    """Refuse every card on both sides until told otherwise or a given time (BlockDoor)."""
    NORMAL = "normal"
    """End UNLOCK, LOCK or BLOCK: back to what the policy says."""
    BINDING_WINDOW = "binding-window"
    """Bind the next card at a reader to a person."""
    UNBINDING_WINDOW = "unbinding-window"
    """Erase the door's domain from one card when it is held to a reader."""
    IDENTIFY = "identify"
    """Blink and beep, so that someone at the door knows which one it is."""
    REBOOT = "reboot"
    """End the agent; its supervisor starts it again."""


WINDOWS = frozenset({Action.BINDING_WINDOW, Action.UNBINDING_WINDOW})
"""Open for at most LONGEST_WINDOW. `card.*` events that name the command tell how they end."""

MOVES_THE_STRIKE = frozenset({Action.PULSE, Action.UNLOCK})


class Command(Statement):
    """`counter` goes up with every command to an agent, which stores it before it acts."""

    purpose: Literal["command"] = "command"
    id: CommandId
    session: Session
    action: Action
    door: Name | None = Field(description="none for what concerns the whole agent")
    until: AwareDatetime | None = Field(
        default=None, description="end of unlock, lock, block or a window"
    )
    person: Name | None = Field(default=None, description="whose card is to be bound")
    card: CardId | None = Field(default=None, description="the one card a window is for")
    direction: Literal["in", "out"] | None = Field(default=None, description="at which reader")

    @model_validator(mode="after")
    def _bounded(self) -> Command:
        limit = PROMPT if self.action in MOVES_THE_STRIKE else PATIENT
        if self.expires is None or self.expires - self.issued > limit:
            raise ValueError(f"{self.action} must expire within {limit.seconds} s")
        if (self.door is None) != (self.action is Action.REBOOT):
            raise ValueError(f"{self.action} at door {self.door}: reboot alone names no door")
        if self.action is Action.UNLOCK and (
            self.until is None or self.until - self.issued > LONGEST_UNLOCK
        ):
            raise ValueError("unlock must end within 24 h")
        self._check_window()
        return self

    def _check_window(self) -> None:
        if self.action not in WINDOWS:
            return
        if self.until is None or self.direction is None:
            raise ValueError(f"{self.action} has an end and a reader")
        if self.until - self.issued > LONGEST_WINDOW:
            raise ValueError(f"{self.action} must end within {LONGEST_WINDOW.seconds} s")
        if self.action is Action.BINDING_WINDOW and self.person is None:
            raise ValueError("a card is bound to a person")
        if self.action is Action.UNBINDING_WINDOW and self.card is None:
            raise ValueError("a window to unbind is for one card")
