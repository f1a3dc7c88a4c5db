"""What a secure element does for the lock: it uses the secrets of one key domain, never shows them.

Card ids are the 8-byte chip serials. A version the element does not hold, or an element that can't
be reached, is ElementUnavailable: the door then can't tell a good card from a bad one.
"""

from __future__ import annotations

from typing import Protocol

from schemas.keys import Purpose as Purpose  # noqa: PLC0414 also read from here


class ElementUnavailable(Exception):
    """The element, or the key version asked for, can't be used now."""


class SecureElement(Protocol):
    """The secrets of one key domain, by version and purpose."""

    @property
    def held(self) -> frozenset[int] | None:
        """The versions it has, as last seen; None: not known."""

    async def admit(self, card_id: bytes, version: int, card_challenge: bytes) -> bytes:
        """The 16-byte cryptogram that answers the card's 16-byte challenge."""

    async def check(
        self, card_id: bytes, version: int, challenge: bytes, cryptogram: bytes
    ) -> bool:
        """Whether the card answered our challenge rightly; compared in constant time."""

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
        """The body of WRITE KEY under secure messaging with the card's transport key.

        What is enciphered is `key_header` || the card's own key for `version` and `purpose`.
        """

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
        """The body of WRITE KEY under the card's own `maintain` key of the version `under`.

        What is enciphered is `key_header` || the card's own key for `version` and `purpose`.
        """

    async def protect(
        self,
        card_id: bytes,
        version: int,
        *,
        plaintext: bytes,
        command_header: bytes,
        card_challenge: bytes,
    ) -> bytes:
        """The body of a command under secure messaging with the card's `maintain` key."""
