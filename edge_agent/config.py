"""The agent's configuration: a TOML file, with OSTIARY_AGENT_* environment variables over it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_agent.enrolled import FILE, read_enrolled
from edge_agent.outbox import CAPACITY
from schemas.errors import first_problem
from schemas.keys import MAX_DOMAIN_INDEX, EsamSerial
from schemas.names import AgentId, Name

ENVIRONMENT_PREFIX = "OSTIARY_AGENT_"
NOT_SETTINGS = {"CONFIG"}
"""Variables of the same prefix that the command line reads."""


class ConfigError(Exception):
    """The configuration can't be used; the message names file, key and what to do."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Broker(_Section):
    """Where the MQTT broker listens. Without TLS it must be on this very machine."""

    host: str = "127.0.0.1"
    port: int = Field(default=8883, ge=1, le=65535)
    tls: bool = True

    @model_validator(mode="after")
    def _in_the_clear_at_home(self) -> Broker:
        if not self.tls and not _is_loopback(self.host):
            raise ValueError("tls = false is for a broker on 127.0.0.1, ::1 or localhost alone")
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class VirtualIo(_Section):
    """A door without hardware, moved through the doorway socket."""

    kind: Literal["virtual"]


class GpioIo(_Section):
    """A door on GPIO lines; the numbers are offsets on `chip`."""

    kind: Literal["gpio"]
    chip: str = "/dev/gpiochip0"
    strike: int = Field(ge=0)
    contact: int | None = Field(default=None, ge=0)
    rex: int | None = Field(default=None, ge=0)
    contact_open_high: bool = True
    debounce_ms: int = Field(default=20, ge=0, le=1000)


class VirtualReaderConfig(_Section):
    """A reader without hardware: cards come through the doorway socket."""

    kind: Literal["virtual"]
    direction: Literal["in", "out"] = "in"


class PcscReaderConfig(_Section):
    """A PC/SC reader whose name contains `name`."""

    kind: Literal["pcsc"]
    name: str = Field(min_length=1)
    direction: Literal["in", "out"] = "in"


class _EsamConfig(_Section):
    """One ESAM: the serial it must have, and the key domains at its places 1, 2, ... in order."""

    serial: EsamSerial
    domains: tuple[Name, ...] = Field(min_length=1, max_length=MAX_DOMAIN_INDEX)


class PcscEsamConfig(_EsamConfig):
    """An ESAM in the contact slot whose PC/SC name contains `name`."""

    kind: Literal["pcsc"]
    name: str = Field(min_length=1)


class VirtualEsamConfig(_EsamConfig):
    """An ESAM without hardware, kept in a file: for trying out, as safe as that file."""

    kind: Literal["virtual"]
    path: Path


EsamConfig = Annotated[PcscEsamConfig | VirtualEsamConfig, Field(discriminator="kind")]
DoorIoConfig = Annotated[VirtualIo | GpioIo, Field(discriminator="kind")]
ReaderConfig = Annotated[VirtualReaderConfig | PcscReaderConfig, Field(discriminator="kind")]


class Door(_Section):
    """One door: its hardware and its readers."""

    door: Name
    io: DoorIoConfig
    readers: tuple[ReaderConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_reader_a_side(self) -> Door:
        directions = [reader.direction for reader in self.readers]
        if len(set(directions)) != len(directions):
            raise ValueError("two readers have the same direction; a door has one on each side")
        return self


class Config(_Section):
    """The whole configuration; paths are absolute once loaded."""

    site: Name
    agent: AgentId
    state_dir: Path = Path("/var/lib/ostiary-agent")
    root: Path = Path("root.json")
    sealing_key: Path = Path("sealing.key")
    capacity: int = Field(default=CAPACITY, ge=100, description="events kept at most")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    broker: Broker = Broker()
    doors: tuple[Door, ...] = Field(min_length=1)
    esams: tuple[EsamConfig, ...] = ()

    @model_validator(mode="after")
    def _doors_once(self) -> Config:
        names = [door.door for door in self.doors]
        if len(set(names)) != len(names):
            raise ValueError("two doors have the same name")
        return self

    @model_validator(mode="after")
    def _domains_once(self) -> Config:
        domains = [domain for esam in self.esams for domain in esam.domains]
        if len(set(domains)) != len(domains):
            raise ValueError("two places of ESAMs have the same key domain")
        if len({esam.serial for esam in self.esams}) != len(self.esams):
            raise ValueError("two ESAMs have the same serial")
        return self

    @property
    def outbox_path(self) -> Path:
        """The event store."""
        return self.state_dir / "outbox.db"

    @property
    def trust_path(self) -> Path:
        """Root, policy, revocations, lockdowns: all that was verified and applied."""
        return self.state_dir / "trust.db"

    @property
    def doorway_path(self) -> Path:
        """The socket of the virtual readers and doors."""
        return self.state_dir / "doorway.sock"


def load_config(
    path: Path, environment: Mapping[str, str], *, enrolling: Mapping[str, str] | None = None
) -> Config:
    """The configuration in `path`, with what enrolment settled. Raises ConfigError.

    `enrolling` has the site and agent that a device is about to be enrolled as.

    `OSTIARY_AGENT_BROKER__HOST` stands over `host` in `[broker]`; doors and ESAMs are set in
    the file alone.
    """
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}. Name it by --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    for variable, value in environment.items():
        key = variable.removeprefix(ENVIRONMENT_PREFIX)
        if variable.startswith(ENVIRONMENT_PREFIX) and key not in NOT_SETTINGS:
            _overlay(values, key.lower().split("__"), variable, value)
    base = path.absolute().parent
    _settle(path, values, base, enrolling)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, each) for each in error.errors())) from None
    paths = {name: base / getattr(config, name) for name in ("state_dir", "root", "sealing_key")}
    esams = tuple(
        esam.model_copy(update={"path": base / esam.path})
        if isinstance(esam, VirtualEsamConfig)
        else esam
        for esam in config.esams
    )
    return config.model_copy(update={**paths, "esams": esams})


def _settle(
    path: Path, values: dict[str, Any], base: Path, enrolling: Mapping[str, str] | None
) -> None:
    """Put what enrolment settled where nothing is set; what is set otherwise is a contradiction."""
    state_dir = base / str(values.get("state_dir", Config.model_fields["state_dir"].default))
    try:
        enrolled = None if enrolling else read_enrolled(state_dir)
    except ValidationError as error:
        raise ConfigError(
            f"{state_dir / FILE}: is damaged ({first_problem(error)}); restore it from a backup, or"
            " remove it and enrol again"
        ) from None
    except NotADirectoryError:
        enrolled = None  # whoever needs the directory says that it is none
    except OSError as error:
        raise ConfigError(f"{state_dir / FILE}: can't be read: {error.strerror}") from None
    known = dict(enrolling or {})
    if enrolled is not None:
        known = {"site": enrolled.site, "agent": enrolled.agent}
        broker = values.setdefault("broker", {})
        if isinstance(broker, dict):
            broker.setdefault("host", enrolled.broker_host)
            broker.setdefault("port", enrolled.broker_port)
    for key, value in known.items():
        if values.setdefault(key, value) != value:
            raise ConfigError(
                f"{path}: {key}: is {str(values[key])[:63]!r}, but the device is enrolled as"
                f" {value!r}; leave the line out"
            )


def _overlay(values: dict[str, Any], keys: list[str], variable: str, value: str) -> None:
    *sections, last = keys
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{variable}: {section} is not a section that variables can set")
    values[last] = value


def _explain(path: Path, error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing" and where in ("site", "agent"):
        return f"{path}: {where}: is missing; enrol this device (`ostiary-agent enrol`), or add it"
    if error["type"] == "missing":
        return f"{path}: {where}: is missing; add it"
    if error["type"] == "extra_forbidden":
        return f"{path}: {where}: is not a setting (docs/agent.md lists them); correct or remove it"
    return f"{path}: {where}: {error['msg']} (it is {str(error['input'])[:100]!r})"
