"""The master keys in the database, sealed under the site's key-encryption key.

A sealed value says what it is (site, domain and version, or ESAM), so none can be put in another's
place. Keys are in this process's memory while it works with them, and nowhere else in the clear.
"""

from __future__ import annotations

from schemas.errors import BadSignature
from schemas.esam import KeyPlace, check_value, seal_for_esam
from schemas.keys import CheckValues, Purpose
from schemas.sealed import seal_secret, unseal_secret
from schemas.suites import RandomBytes, Suite
from schemas.suites.suite import KEY_BYTES
from server.keys.home import HomeName, HomeUnavailable, NewVersion, Source


class SealedHome:
    """Seals and unseals; what it seals is the caller's to keep."""

    name: HomeName = "sealed"

    def __init__(self, site: str, suite: Suite, kek: bytes, random: RandomBytes) -> None:
        self._site, self._suite, self._kek, self._random = site, suite, kek, random

    def new_version(self, domain: str, version: int) -> NewVersion:
        """Three keys from the random source."""
        keys = {purpose: self._random(KEY_BYTES) for purpose in Purpose}
        stored = self._seal(b"".join(keys.values()), self._version(domain, version))
        checks = {p.name.lower(): check_value(self._suite, key).hex() for p, key in keys.items()}
        return NewVersion(stored, CheckValues(**checks))

    def keep_control_key(self, serial: bytes, key: bytes) -> bytes:
        """Seal it for this ESAM. Raises ValueError for one of another length."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a control key is {KEY_BYTES} bytes, not {len(key)}")
        return self._seal(key, self._esam(serial))

    def forget_control_key(self, control: bytes) -> None:
        """Nothing: it was in what the database has forgotten."""

    def package(
        self, source: Source, control: bytes, challenge: bytes, place: KeyPlace
    ) -> tuple[bytes, bytes]:
        """The key, enciphered for the ESAM, and its check value."""
        purpose = place.item.purpose
        if purpose is None:
            raise ValueError("a floor is no key")
        keys = self._unseal(source.stored, self._version(source.domain, source.version))
        key = keys[(purpose - 1) * KEY_BYTES : purpose * KEY_BYTES]
        control_key = self._unseal(control, self._esam(place.serial))
        body = seal_for_esam(self._suite, control_key, challenge, place, key)
        return body, check_value(self._suite, key)

    def floor(self, control: bytes, challenge: bytes, place: KeyPlace) -> bytes:
        """The MAC that the ESAM asks for before it forgets."""
        control_key = self._unseal(control, self._esam(place.serial))
        return seal_for_esam(self._suite, control_key, challenge, place, b"")

    def destroy(self, source: Source) -> None:
        """Nothing: the keys are in what the database forgets."""

    def moved_version(self, source: Source, to: SealedHome) -> bytes:
        """The keys of a version, sealed under another key-encryption key."""
        context = self._version(source.domain, source.version)
        return to._seal(self._unseal(source.stored, context), context)

    def moved_control_key(self, serial: bytes, control: bytes, to: SealedHome) -> bytes:
        """A control key, sealed under another key-encryption key."""
        context = self._esam(serial)
        return to._seal(self._unseal(control, context), context)

    def _seal(self, secret: bytes, context: str) -> bytes:
        return seal_secret(self._kek, secret, context, self._random)

    def _unseal(self, sealed: bytes, context: str) -> bytes:
        try:
            return unseal_secret(self._kek, sealed, context)
        except BadSignature as error:
            raise HomeUnavailable(
                f"{error}: start with the key-encryption key that the site was made with, or"
                " restore the keys with `ostiary keys restore`"
            ) from None

    def _version(self, domain: str, version: int) -> str:
        return f"{self._site}/key-domain/{domain}/{version}"

    def _esam(self, serial: bytes) -> str:
        return f"{self._site}/esam/{serial.hex()}"
