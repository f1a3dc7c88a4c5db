"""What door hardware can say. Hardware that fails raises OSError instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Contact = Literal["open", "closed", "fault", "unknown"]


@dataclass(frozen=True)
class RexPressed:
    """Someone inside asked to leave."""


@dataclass(frozen=True)
class ContactOpened:
    """The door leaf left its frame."""


@dataclass(frozen=True)
class ContactClosed:
    """The door leaf is back in its frame."""


DoorInput = ContactOpened | ContactClosed | RexPressed
