"""Key packages: how keys get from the key authority into one ESAM, and into no other.

The agent asks with a fresh challenge of its ESAM. What comes back is enciphered and authenticated
under that ESAM's control key and that challenge (`schemas.esam`), and signed by the `keys` role. So
a package is of no use to another ESAM, at another time, or to who listens: the agent itself can't
read it.
"""

from __future__ import annotations

from datetime import timedelta
from enum import IntEnum, StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from schemas.command import Session
from schemas.names import Name
from schemas.statement import Statement
from schemas.suites import SuiteName

PACKAGE_LIFE = timedelta(seconds=60)
"""A package older than this is not used: its ESAM has another challenge by then."""
MAX_KEY_VERSION = 255
MAX_DOMAIN_INDEX = 15
MAX_VERSIONS = 8
"""Key versions of one domain that a lock holds at a time; only a higher floor makes room."""
MAX_KEY_STATEMENT_BYTES = 4 * 1024

EsamSerial = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""The 8-byte serial of an ESAM, in hex."""

CheckValue = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{6}$")]
"""The first 3 bytes of the zero block under a key, in hex: says which key it is, and not the key
(GlobalPlatform Card Specification 2.3.1, B.5)."""

ChallengeHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""A 16-byte challenge, in hex."""

KeyVersion = Annotated[int, Field(ge=1, le=MAX_KEY_VERSION)]
"""The number of a domain's secret: one byte on the card."""

DomainIndex = Annotated[int, Field(ge=1, le=MAX_DOMAIN_INDEX)]
"""The place of a key domain in one ESAM."""


class Purpose(IntEnum):
    """The three keys of a slot; each does one thing (no reflection, no oracle)."""

    AUTH = 1
    """The card proves itself: INTERNAL AUTHENTICATE."""
    ADMIT = 2
    """The reader proves itself to the card: EXTERNAL AUTHENTICATE."""
    MAINTAIN = 3
    """Protects what is written to the card."""


class Item(StrEnum):
    """What a package does to an ESAM."""

    KEYS = "keys"
    """Write the three keys of the version, all at once."""
    FLOOR = "floor"
    """Raise the domain's floor to the version: those below are erased, and can't come back."""


KEYS_BODY_BYTES = 1 + 48 + 8
"""Domain index, the three enciphered keys, MAC."""
FLOOR_BODY_BYTES = 1 + 8
"""Domain index and MAC: a floor is no secret."""


class CheckValues(BaseModel):
    """The check values of the three keys of one version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    auth: CheckValue
    admit: CheckValue
    maintain: CheckValue


class KeyRequest(Statement):
    """An agent asks for one package. `counter` counts within the session.

    One challenge serves one package, for an ESAM forgets its challenge with every command that
    uses it. One package has all keys of a version.
    """

    purpose: Literal["key-request"] = "key-request"
    session: Session
    esam: EsamSerial
    domain: Name
    index: DomainIndex
    version: KeyVersion
    item: Item
    challenge: ChallengeHex


class KeyPackage(Statement):
    """What the ESAM is to be given. `counter` is its time of issue in microseconds.

    The agent uses it for the challenge that its ESAM gave last, and for no other.
    """

    purpose: Literal["key-package"] = "key-package"
    session: Session = Field(description="of the request")
    esam: EsamSerial
    domain: Name
    index: DomainIndex
    version: KeyVersion
    item: Item
    challenge: ChallengeHex
    check_values: CheckValues | None = Field(description="none for a floor")
    body: Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{2})+$", max_length=510)] = Field(
        description="data of WRITE KEY or of RAISE FLOOR, in hex"
    )

    @model_validator(mode="after")
    def _whole(self) -> KeyPackage:
        if self.expires is None or not (timedelta() < self.expires - self.issued <= PACKAGE_LIFE):
            raise ValueError(f"a package expires within {PACKAGE_LIFE.seconds} s")
        writes_keys = self.item is Item.KEYS
        if writes_keys != (self.check_values is not None):
            raise ValueError("a package has check values if it writes keys")
        length = KEYS_BODY_BYTES if writes_keys else FLOOR_BODY_BYTES
        body = bytes.fromhex(self.body)
        if len(body) != length or body[0] != self.index:
            raise ValueError(f"the body is {length} bytes long, and the first is the index")
        return self


class StageOrder(Statement):
    """Hold this version of the domain's keys and nothing below the floor, and say what is held.

    `counter` is its time of issue in microseconds. Carrying it out again changes nothing, so one
    that is lost is sent again, and one that is replayed does no harm: it ends within a minute, and
    the authority gives out nothing that is retired.
    """

    purpose: Literal["stage-order"] = "stage-order"
    domain: Name
    suite: SuiteName = Field(description="of the domain's cards")
    version: KeyVersion
    check_values: CheckValues | None = Field(
        description="what the keys must be; none: this lock's own secret, it draws them itself"
    )
    floor: KeyVersion = Field(description="versions below are erased, for ever")

    @model_validator(mode="after")
    def _whole(self) -> StageOrder:
        if self.expires is None or not (timedelta() < self.expires - self.issued <= PACKAGE_LIFE):
            raise ValueError(f"an order expires within {PACKAGE_LIFE.seconds} s")
        if self.floor > self.version:
            raise ValueError(f"version {self.version} is below the floor {self.floor}")
        return self
