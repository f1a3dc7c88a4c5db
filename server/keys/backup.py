"""The keys in a file: sealed under the site's key-encryption key, or for several people together.

    OSTIARY KEYS 1 {"site":..,"made":..,"shares":..,"needed":..}     one line, then
    the sealed contents

For several people the contents, and each key in them once more, are sealed under a key made for
this backup, which exists in their shares alone (`server.keys.shares`). Keys in a token are not in
the file: it has their names, and the token its own backup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from schemas.errors import BadSignature, first_problem
from schemas.keys import CheckValues, DomainIndex, EsamSerial, KeyVersion
from schemas.names import AgentId, Name
from schemas.sealed import KEK_BYTES, seal_secret, unseal_secret
from schemas.suites import RandomBytes, SuiteName
from server.keys.home import KeysError
from server.keys.shares import combine, split

_MAGIC = b"OSTIARY KEYS 1 "
MAX_BYTES = 64 * 1024 * 1024
Home = Annotated[str, StringConstraints(pattern=r"^(?:sealed|pkcs11)$")]
_STRICT = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Heading(BaseModel):
    """What anyone may read of a backup; it is authenticated with the rest."""

    model_config = _STRICT

    site: Name
    made: AwareDatetime
    shares: int = Field(ge=0, description="0: sealed under the site's key-encryption key")
    needed: int = Field(ge=0)


class CopiedDomain(BaseModel):
    """A row of `key_domains`."""

    model_config = _STRICT

    name: Name
    suite: SuiteName
    floor: KeyVersion


class CopiedVersion(BaseModel):
    """A row of `key_versions`."""

    model_config = _STRICT

    domain: Name
    version: KeyVersion
    home: Home
    stored: str = Field(repr=False)
    check_values: CheckValues
    created: AwareDatetime
    destroyed: AwareDatetime | None


class CopiedEsam(BaseModel):
    """A row of `esams`, with its domains."""

    model_config = _STRICT

    serial: EsamSerial
    suite: SuiteName
    agent: AgentId
    state: str
    home: Home
    control: str = Field(repr=False)
    domains: dict[Name, DomainIndex | None]
    added: AwareDatetime


class Contents(BaseModel):
    """Everything the key authority has."""

    model_config = _STRICT

    domains: tuple[CopiedDomain, ...]
    versions: tuple[CopiedVersion, ...]
    esams: tuple[CopiedEsam, ...]


@dataclass(frozen=True)
class BackupKey:
    """What a backup is sealed under, and the shares of it, if it is for several people."""

    key: bytes = field(repr=False)
    needed: int = 0
    shares: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def for_people(cls, count: int, needed: int, random: RandomBytes) -> BackupKey:
        """A new key, of which any `needed` of `count` people can give the whole."""
        key = random(KEK_BYTES)
        return cls(key, needed, tuple(split(key, needed=needed, count=count)))


def write_backup(
    site: str, contents: Contents, key: BackupKey, made: datetime, random: RandomBytes
) -> bytes:
    """The file. What is in `contents` is sealed already."""
    heading = Heading(site=site, made=made, shares=len(key.shares), needed=key.needed)
    line = _MAGIC + heading.model_dump_json().encode()
    plain = contents.model_dump_json().encode()
    return line + b"\n" + seal_secret(key.key, plain, line.decode(), random)


def read_heading(data: bytes) -> Heading:
    """What the file says of itself, on its own word. Raises KeysError."""
    line = data.partition(b"\n")[0]
    try:
        if len(data) > MAX_BYTES or not line.startswith(_MAGIC):
            raise ValueError("not a backup of keys")
        return Heading.model_validate_json(line.removeprefix(_MAGIC))
    except ValidationError as error:
        raise KeysError(f"not a backup of keys: {first_problem(error)}") from None
    except ValueError as error:
        raise KeysError(f"{error}: give the file that `ostiary keys backup` wrote") from None


def key_for(heading: Heading, kek: bytes, shares: Sequence[str]) -> bytes:
    """What opens a backup: the key of its shares, or the site's own. Raises KeysError."""
    return combine(shares) if heading.shares else kek


def read_backup(data: bytes, key: bytes) -> Contents:
    """The contents, if `key` is the right one and no byte was changed. Raises KeysError."""
    line, _, sealed = data.partition(b"\n")
    try:
        plain = unseal_secret(key, sealed, line.decode())
        return Contents.model_validate_json(plain)
    except (BadSignature, UnicodeDecodeError, ValueError):
        raise KeysError(
            "the backup can't be opened: it was changed, or it was made under another"
            " key-encryption key, or with other shares"
        ) from None
