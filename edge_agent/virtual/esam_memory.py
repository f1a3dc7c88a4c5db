"""The non-volatile memory of a virtual ESAM: one image, replaced as a whole with each write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from edge_agent.secure_element.esam_layout import ERROR_LIMIT
from edge_agent.virtual.chip import BadImage
from schemas.keys import DomainIndex, EsamSerial, KeyVersion
from schemas.suites import SuiteName


@dataclass(frozen=True)
class Domain:
    """The keys of one domain by version, and the floor below which none can be."""

    floor: int = 0
    versions: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    """auth || admit || maintain: a version has all three, or is not there."""

    def with_keys(self, version: int, keys: bytes) -> Domain:
        """With one version added or replaced."""
        return replace(self, versions={**self.versions, version: keys})

    def raised_to(self, floor: int) -> Domain:
        """With a higher floor, and without what is below it."""
        kept = {version: keys for version, keys in self.versions.items() if version >= floor}
        return Domain(floor, kept)


@dataclass(frozen=True)
class EsamImage:
    """Everything that survives a loss of power."""

    suite: SuiteName
    serial: bytes
    control_key: bytes = field(repr=False)
    control_version: int = 0
    """0: the control key is still the maker's."""
    errors_left: int = ERROR_LIMIT
    domains: Mapping[int, Domain] = field(default_factory=dict)
    """By index; one that was never written is absent."""

    def with_domain(self, index: int, domain: Domain) -> EsamImage:
        """With one domain added or replaced."""
        return replace(self, domains={**self.domains, index: domain})

    def encode(self) -> bytes:
        """As JSON, bytes in hex."""
        domains = {
            str(index): {
                "floor": domain.floor,
                "versions": {str(v): keys.hex() for v, keys in domain.versions.items()},
            }
            for index, domain in self.domains.items()
        }
        return json.dumps(
            {
                "chip": "ESAM",
                "suite": self.suite,
                "serial": self.serial.hex(),
                "control_key": self.control_key.hex(),
                "control_version": self.control_version,
                "errors_left": self.errors_left,
                "domains": domains,
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> EsamImage:
        """Raises BadImage."""
        try:
            kept = _Kept.model_validate_json(data)
        except ValidationError:
            raise BadImage("not the memory of a virtual ESAM") from None
        domains = {
            index: Domain(
                domain.floor, {v: bytes.fromhex(keys) for v, keys in domain.versions.items()}
            )
            for index, domain in kept.domains.items()
        }
        return cls(
            kept.suite,
            bytes.fromhex(kept.serial),
            bytes.fromhex(kept.control_key),
            kept.control_version,
            kept.errors_left,
            domains,
        )


KeyHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
KeysHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class _KeptDomain(_Part):
    floor: int = Field(ge=0, le=255)
    versions: dict[KeyVersion, KeysHex] = Field(repr=False)


class _Kept(_Part):
    chip: Literal["ESAM"]
    suite: SuiteName
    serial: EsamSerial
    control_key: KeyHex = Field(repr=False)
    control_version: int = Field(ge=0, le=255)
    errors_left: int = Field(ge=0, le=ERROR_LIMIT)
    domains: dict[DomainIndex, _KeptDomain]
