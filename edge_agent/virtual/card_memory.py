"""The non-volatile memory of a virtual card: one image, replaced as a whole with each write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from edge_agent.card.layout import Right
from edge_agent.virtual.chip import BadImage
from schemas.suites import SuiteName

DEFAULT_CAPACITY_BYTES = 8192
APPLICATION_OVERHEAD_BYTES = 32


@dataclass(frozen=True)
class KeyRecord:
    """A key, what it is for, who may use it, and how often it may be missed."""

    type: int
    use: Right
    version: int
    max_tries: int
    tries_left: int
    key: bytes = field(repr=False)

    def missed(self) -> KeyRecord:
        """One try fewer."""
        return replace(self, tries_left=self.tries_left - 1)

    def matched(self) -> KeyRecord:
        """All tries back."""
        return replace(self, tries_left=self.max_tries)


@dataclass(frozen=True)
class BinaryFile:
    """A transparent EF."""

    content: bytes
    read: Right
    update: Right


@dataclass(frozen=True)
class Application:
    """An ADF: the size it reserved, its key file (absent until created) and its files by SFI."""

    name: bytes
    size: int
    create: Right
    erase: Right
    key_space: int | None = None
    keys: Mapping[int, KeyRecord] = field(default_factory=dict)
    files: Mapping[int, BinaryFile] = field(default_factory=dict)

    @property
    def free(self) -> int:
        """Bytes left for further files."""
        return self.size - (self.key_space or 0) - sum(len(f.content) for f in self.files.values())


@dataclass(frozen=True)
class Image:
    """Everything that survives a loss of power."""

    suite: SuiteName
    serial: bytes
    capacity: int
    transport: KeyRecord
    applications: Mapping[int, Application] = field(default_factory=dict)
    """ADFs by file id."""

    @property
    def free(self) -> int:
        """Bytes left for further applications."""
        taken = sum(a.size + APPLICATION_OVERHEAD_BYTES for a in self.applications.values())
        return self.capacity - taken

    def with_application(self, file_id: int, application: Application) -> Image:
        """With one application added or replaced."""
        return replace(self, applications={**self.applications, file_id: application})

    def encode(self) -> bytes:
        """As JSON, bytes in hex."""
        return json.dumps(asdict(self), default=bytes.hex).encode()

    @classmethod
    def decode(cls, data: bytes) -> Image:
        """Raises BadImage."""
        try:
            fields = json.loads(data)
            applications = {
                int(file_id): _application(entry)
                for file_id, entry in fields["applications"].items()
            }
            return cls(
                suite=fields["suite"],
                serial=bytes.fromhex(fields["serial"]),
                capacity=fields["capacity"],
                transport=_key(fields["transport"]),
                applications=applications,
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadImage("not the memory of a virtual card") from None


def _key(entry: dict[str, Any]) -> KeyRecord:
    return KeyRecord(**{**entry, "use": Right(entry["use"]), "key": bytes.fromhex(entry["key"])})


def _file(entry: dict[str, Any]) -> BinaryFile:
    content = bytes.fromhex(entry["content"])
    return BinaryFile(content, Right(entry["read"]), Right(entry["update"]))


def _application(entry: dict[str, Any]) -> Application:
    return Application(
        name=bytes.fromhex(entry["name"]),
        size=entry["size"],
        create=Right(entry["create"]),
        erase=Right(entry["erase"]),
        key_space=entry["key_space"],
        keys={int(reference): _key(key) for reference, key in entry["keys"].items()},
        files={int(sfi): _file(file) for sfi, file in entry["files"].items()},
    )
