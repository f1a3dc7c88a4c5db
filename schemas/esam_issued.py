"""The issuing file: what the key authority must know of an ESAM, sealed under an issuing key.

Whoever issues an ESAM and the key authority share the issuing key, a file of 32 bytes. The file
itself may travel openly; both together are the ESAM's control key.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import BadSignature, first_problem
from schemas.esam_issue import ControlKey
from schemas.keys import EsamSerial, KeyVersion
from schemas.sealed import seal_secret, unseal_secret
from schemas.suites import RandomBytes, SuiteName, suite


class BadIssuingFile(Exception):
    """Not an issuing file, or sealed under another issuing key."""


class IssuedEsam(BaseModel):
    """One ESAM and its sealed control key, as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    serial: EsamSerial
    suite: SuiteName
    control_version: KeyVersion
    sealed: str = Field(pattern=r"^(?:[0-9a-f]{2})+$", max_length=256)

    @classmethod
    def of(cls, kek: bytes, control: ControlKey, version: int, random: RandomBytes) -> IssuedEsam:
        """Seal it under the issuing key."""
        name, serial = control.suite.name, control.serial.hex()
        sealed = seal_secret(kek, control.key, _context(serial, name, version), random)
        return cls(serial=serial, suite=name, control_version=version, sealed=sealed.hex())

    @classmethod
    def read(cls, content: bytes) -> IssuedEsam:
        """Raises BadIssuingFile."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise BadIssuingFile(f"not an issuing file: {first_problem(error)}") from None

    def control_key(self, kek: bytes) -> ControlKey:
        """Unseal it. Raises BadIssuingFile."""
        context = _context(self.serial, self.suite, self.control_version)
        try:
            key = unseal_secret(kek, bytes.fromhex(self.sealed), context)
        except BadSignature:
            raise BadIssuingFile(
                f"the sealed {context} was changed, or the issuing key is another"
            ) from None
        return ControlKey(suite(self.suite), bytes.fromhex(self.serial), key)


def _context(serial: str, name: SuiteName, version: int) -> str:
    return f"control key {version} of ESAM {serial}, suite {name}"
