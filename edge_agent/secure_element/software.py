"""A secure element in software: one lock, one secret, made here and sealed on this disk.

It is as safe as the sealing key: who can read both files has the domain's secrets. What that means
for a lock that is stolen is in docs/card.md.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from pathlib import Path

from edge_agent.files import write_private
from edge_agent.secure_element.port import ElementUnavailable, Purpose
from schemas.errors import BadSignature
from schemas.sealed import seal_secret, unseal_secret
from schemas.secure_messaging import protect
from schemas.suites import RandomBytes, Suite
from schemas.suites.suite import KEY_BYTES

Secrets = Mapping[Purpose, bytes]


class SoftwareElement:
    """The secrets of one key domain in memory; see `open` for where they come from."""

    def __init__(self, suite: Suite, versions: Mapping[int, Secrets]) -> None:
        self._suite = suite
        self._versions = dict(versions)

    @classmethod
    def open(
        cls, path: Path, *, kek: bytes, suite: Suite, domain: str, random: RandomBytes
    ) -> SoftwareElement:
        """The element sealed at `path`; at first use version 1 is drawn from `random` and sealed.

        Raises ElementUnavailable if the file is of another domain, suite or sealing key, OSError
        if it can't be read or written.
        """
        context = f"secure element of domain {domain}, suite {suite.name}"
        try:
            sealed = path.read_bytes()
        except FileNotFoundError:
            versions = {1: {purpose: random(KEY_BYTES) for purpose in Purpose}}
            write_private(path, seal_secret(kek, _encode(versions), context, random))
            return cls(suite, versions)
        try:
            return cls(suite, _decode(unseal_secret(kek, sealed, context)))
        except BadSignature as error:
            raise ElementUnavailable(
                f"{path} can't be unsealed: {error}. Restore the sealing key it was made with, or"
                " remove it to make new secrets and bind every card again"
            ) from None

    @property
    def versions(self) -> frozenset[int]:
        """The key versions it holds."""
        return frozenset(self._versions)

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


def _encode(versions: Mapping[int, Secrets]) -> bytes:
    return json.dumps(
        {
            str(version): {purpose.name.lower(): secret.hex() for purpose, secret in keys.items()}
            for version, keys in versions.items()
        }
    ).encode()


def _decode(secret: bytes) -> dict[int, dict[Purpose, bytes]]:
    return {
        int(version): {Purpose[name.upper()]: bytes.fromhex(value) for name, value in keys.items()}
        for version, keys in json.loads(secret).items()
    }
