"""A secure element in software: one lock, one secret, made here and sealed on this disk.

It is as safe as the sealing key: who can read both files has the domain's secrets. What that means
for a lock that is stolen is in docs/card.md.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_agent.files import write_private
from edge_agent.secure_element.port import ElementUnavailable, Purpose
from schemas.errors import BadSignature
from schemas.esam import check_values
from schemas.keys import MAX_VERSIONS, CheckValues
from schemas.sealed import seal_secret, unseal_secret
from schemas.secure_messaging import protect
from schemas.suites import RandomBytes, Suite
from schemas.suites.suite import KEY_BYTES

Secrets = Mapping[Purpose, bytes]


class TooManyVersions(Exception):
    """There is no room for another version: raise the floor first."""


class SoftwareElement:
    """The secrets of one key domain in memory, and where they are sealed; see `open`."""

    def __init__(
        self,
        suite: Suite,
        versions: Mapping[int, Secrets],
        floor: int = 1,
        keep: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self._suite = suite
        self._versions = dict(versions)
        self._keep = keep
        self.floor = floor
        """Versions below were erased, and don't come back."""

    @classmethod
    def open(
        cls, path: Path, *, kek: bytes, suite: Suite, domain: str, random: RandomBytes
    ) -> SoftwareElement:
        """The element sealed at `path`; at first use version 1 is drawn from `random` and sealed.

        Raises ElementUnavailable if the file is of another domain, suite or sealing key, OSError
        if it can't be read or written.
        """
        context = f"secure element of domain {domain}, suite {suite.name}"

        def keep(secret: bytes) -> None:
            write_private(path, seal_secret(kek, secret, context, random))

        try:
            sealed = path.read_bytes()
        except FileNotFoundError:
            element = cls(suite, {}, 1, keep)
            element.draw(1, random)
            return element
        try:
            versions, floor = _decode(unseal_secret(kek, sealed, context))
            return cls(suite, versions, floor, keep)
        except BadSignature as error:
            raise ElementUnavailable(
                f"{path} can't be unsealed: {error}. Restore the sealing key it was made with, or"
                " remove it to make new secrets and bind every card again"
            ) from None

    @property
    def held(self) -> frozenset[int]:
        """The key versions it holds."""
        return frozenset(self._versions)

    def check_values(self) -> dict[int, CheckValues]:
        """By which each version is known."""
        return {
            version: check_values(self._suite, b"".join(secrets[p] for p in Purpose))
            for version, secrets in self._versions.items()
        }

    def draw(self, version: int, random: RandomBytes) -> None:
        """Make the keys of a version, sealed on disk before they count; again changes nothing.

        Raises TooManyVersions, ValueError for one below the floor, OSError.
        """
        if version in self._versions:
            return
        if version < self.floor:
            raise ValueError(f"version {version} is below the floor {self.floor}")
        if len(self._versions) >= MAX_VERSIONS:
            raise TooManyVersions(f"{MAX_VERSIONS} versions are there already")
        self._change(
            {**self._versions, version: {purpose: random(KEY_BYTES) for purpose in Purpose}},
            self.floor,
        )

    def raise_floor(self, floor: int) -> None:
        """Erase the versions below, on disk first; a lower one changes nothing. Raises OSError."""
        if floor > self.floor:
            self._change({v: keys for v, keys in self._versions.items() if v >= floor}, floor)

    def _change(self, versions: dict[int, Secrets], floor: int) -> None:
        self._keep(_encode(versions, floor))
        self._versions, self.floor = versions, floor

    async def admit(self, card_id: bytes, version: int, card_challenge: bytes) -> bytes:
        """The challenge under the card's `admit` key, one block."""
        key = self._card_key(card_id, version, Purpose.ADMIT)
        return self._suite.encrypt_block(key, card_challenge)

    async def check(
        self, card_id: bytes, version: int, challenge: bytes, cryptogram: bytes
    ) -> bool:
        """Whether `cryptogram` is the challenge under the card's `auth` key."""
        key = self._card_key(card_id, version, Purpose.AUTH)
        return hmac.compare_digest(self._suite.encrypt_block(key, challenge), cryptogram)

    async def protect_key(
        self,
        card_id: bytes,
        version: int,
        purpose: Purpose,
        *,
        key_header: bytes,
        command_header: bytes,
        card_challenge: bytes,
        transport_key: bytes,
    ) -> bytes:
        """WRITE KEY's body: the card's key, readable only by who has the transport key."""
        record = key_header + self._card_key(card_id, version, purpose)
        return protect(self._suite, transport_key, card_challenge, command_header, record)

    async def protect_next_key(
        self,
        card_id: bytes,
        version: int,
        purpose: Purpose,
        *,
        key_header: bytes,
        command_header: bytes,
        card_challenge: bytes,
        under: int,
    ) -> bytes:
        """WRITE KEY's body: the card's next key, readable only by who has its `maintain` key."""
        record = key_header + self._card_key(card_id, version, purpose)
        key = self._card_key(card_id, under, Purpose.MAINTAIN)
        return protect(self._suite, key, card_challenge, command_header, record)

    async def protect(
        self,
        card_id: bytes,
        version: int,
        *,
        plaintext: bytes,
        command_header: bytes,
        card_challenge: bytes,
    ) -> bytes:
        """A body under the card's `maintain` key."""
        key = self._card_key(card_id, version, Purpose.MAINTAIN)
        return protect(self._suite, key, card_challenge, command_header, plaintext)

    def _card_key(self, card_id: bytes, version: int, purpose: Purpose) -> bytes:
        secrets = self._versions.get(version)
        if secrets is None:
            raise ElementUnavailable(f"the secure element holds no key version {version}")
        return self._suite.diversify(secrets[purpose], card_id)


def _encode(versions: Mapping[int, Secrets], floor: int) -> bytes:
    return json.dumps(
        {
            "floor": floor,
            "versions": {
                str(version): {purpose.name.lower(): key.hex() for purpose, key in keys.items()}
                for version, keys in versions.items()
            },
        }
    ).encode()


def _decode(secret: bytes) -> tuple[dict[int, Secrets], int]:
    content = json.loads(secret)
    if "versions" not in content:  # as it was written before there were floors
        content = {"versions": content, "floor": 1}
    versions: dict[int, Secrets] = {
        int(version): {Purpose[name.upper()]: bytes.fromhex(value) for name, value in keys.items()}
        for version, keys in content["versions"].items()
    }
    return versions, content["floor"]
