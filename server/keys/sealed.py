"""The master keys in the database, sealed under the site's key-encryption key.

A sealed value says what it is (site, domain and version, or ESAM), so none can be put in another's
place. Keys are in this process's memory while it works with them, and nowhere else in the clear.
"""

from __future__ import annotations

from schemas.errors import BadSignature
from schemas.esam import KeyPlace, check_values, seal_for_esam
from schemas.esam_issue import ControlKey
from schemas.keys import CheckValues, Purpose
from schemas.sealed import seal_secret, unseal_secret
from schemas.suites import RandomBytes, SuiteName
from schemas.suites import suite as suite_of
from schemas.suites.suite import KEY_BYTES
from server.keys.home import HomeName, HomeUnavailable, LoanPlace, NewVersion, Source


class SealedHome:
    """Seals and unseals; what it seals is the caller's to keep."""

    name: HomeName = "sealed"

    def __init__(self, site: str, kek: bytes, random: RandomBytes) -> None:
        self._site, self._kek, self._random = site, kek, random

    def open(self) -> None:
        """Nothing: the database answers, or nothing works."""

    def new_version(self, domain: str, suite: SuiteName, version: int) -> NewVersion:
        """Three keys from the random source."""
        keys = b"".join(self._random(KEY_BYTES) for _ in Purpose)
        stored = self._seal(keys, self._version(domain, suite, version))
        return NewVersion(stored, check_values(suite_of(suite), keys))

    def keep_control_key(self, suite: SuiteName, serial: bytes, key: bytes) -> bytes:
        """Seal it for this ESAM of this suite. Raises ValueError for one of another length."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a control key is {KEY_BYTES} bytes, not {len(key)}")
        return self._seal(key, self._esam(suite, serial))

    def forget_control_key(self, control: bytes) -> None:
        """Nothing: it was in what the database has forgotten."""

    def package(
        self, source: Source, control: bytes, challenge: bytes, place: KeyPlace
    ) -> tuple[bytes, CheckValues]:
        """The three keys, enciphered for the ESAM, and their check values."""
        keys = self._unseal(
            source.stored, self._version(source.domain, source.suite, source.version)
        )
        control_key = self._unseal(control, self._esam(source.suite, place.serial))
        suite = suite_of(source.suite)
        body = seal_for_esam(suite, control_key, challenge, place, keys)
        return body, check_values(suite, keys)

    def floor(self, suite: SuiteName, control: bytes, challenge: bytes, place: KeyPlace) -> bytes:
        """The MAC that the ESAM asks for before it forgets."""
        control_key = self._unseal(control, self._esam(suite, place.serial))
        return seal_for_esam(suite_of(suite), control_key, challenge, place, b"")

    def lend(
        self,
        suite: SuiteName,
        control: bytes,
        challenge: bytes,
        place: LoanPlace,
        transport_key: bytes,
    ) -> bytes:
        """The card and its key, enciphered for the ESAM."""
        key = self._unseal(control, self._esam(suite, place.serial))
        return ControlKey(suite_of(suite), place.serial, key).lend(
            challenge,
            index=place.index,
            version=place.version,
            card_id=place.card_id,
            transport_key=transport_key,
        )

    def destroy(self, source: Source) -> None:
        """Nothing: the keys are in what the database forgets."""

    def moved_version(self, source: Source, to: SealedHome) -> bytes:
        """The keys of a version, sealed under another key-encryption key."""
        context = self._version(source.domain, source.suite, source.version)
        return to._seal(self._unseal(source.stored, context), context)

    def moved_control_key(
        self, suite: SuiteName, serial: bytes, control: bytes, to: SealedHome
    ) -> bytes:
        """A control key, sealed under another key-encryption key."""
        context = self._esam(suite, serial)
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

    def _version(self, domain: str, suite: SuiteName, version: int) -> str:
        return f"{self._site}/key-domain/{domain}/{suite}/{version}"

    def _esam(self, suite: SuiteName, serial: bytes) -> str:
        return f"{self._site}/esam/{suite}/{serial.hex()}"
