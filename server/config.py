"""The server's settings: `server.toml` in the site directory, then OSTIARY_* variables."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

ENV_PREFIX = "OSTIARY_"
BUILTIN = "builtin"


class BadConfig(Exception):
    """A setting that can't be used; the message names it and where it stands."""


def broker_address(url: str) -> tuple[bool, str, int]:
    """Whether TLS is spoken with the broker, its host and its port. Raises ValueError."""
    match = re.fullmatch(r"(mqtts?)://[^/\s?#@]+", url)
    parts = urlsplit(url) if match else None
    if match is None or parts is None or not parts.hostname:
        raise ValueError(f"{url!r} is neither `builtin` nor mqtts://host:port")
    secured = match[1] == "mqtts"
    if not secured and not is_loopback(parts.hostname):
        raise ValueError(
            f"{url!r} goes over the network without TLS: use mqtts://, with a broker set up by"
            " `ostiary broker config mosquitto`"
        )
    return secured, parts.hostname, parts.port or (8883 if secured else 1883)


def is_loopback(host: str) -> bool:
    """Whether only this machine can be meant."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _broker(value: str) -> str:
    if value != BUILTIN:
        broker_address(value)
    return value


def _reached(value: str) -> str:
    try:
        return str(ip_address(value.strip("[]")))
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", value):
            raise ValueError(f"{value!r} is neither a host name nor an address") from None
        return value


def _address(value: str) -> str:
    return str(ip_address(value))


class ServerConfig(BaseModel):
    """Every setting has a safe default; the command line overrides all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int = Field(default=8080, ge=0, le=65535, description="HTTP port on 127.0.0.1")
    broker: Annotated[str, AfterValidator(_broker)] = Field(
        default=BUILTIN, description="`builtin`, or mqtts://host:port of another broker"
    )
    broker_rights: Literal["mosquitto", "file", "none"] = Field(
        default="mosquitto",
        description="how another broker learns who is let in: `mosquitto` by its plugin, `file` for"
        " `ostiary broker run`, `none`: it does not, and others see to that",
    )
    broker_listen: Annotated[str, AfterValidator(_address)] = Field(
        default="127.0.0.1", description="address of the built-in broker"
    )
    broker_port: int = Field(default=8883, ge=0, le=65535, description="of the built-in broker")
    address: Annotated[str, AfterValidator(_reached)] = Field(
        default="127.0.0.1",
        description="name or address by which doors reach this machine: in claim codes and in the"
        " certificates of its listeners",
    )
    enrol_listen: Annotated[str, AfterValidator(_address)] = Field(
        default="127.0.0.1", description="address of the listener that devices enrol with"
    )
    enrol_port: int = Field(default=8443, ge=0, le=65535, description="of that listener")
    insecure_loopback: bool = Field(
        default=False,
        description="let the built-in broker do without TLS and certificates, on 127.0.0.1",
    )
    key_home: Literal["sealed", "pkcs11"] = Field(
        default="sealed",
        description="where new domain keys are made: `sealed` in the database, or `pkcs11`",
    )
    pkcs11_module: str = Field(default="", description="path of the token's library")
    pkcs11_token: str = Field(
        default="",
        description="the token's label; its PIN is in OSTIARY_PKCS11_PIN or in the file that"
        " OSTIARY_PKCS11_PIN_FILE names",
    )
    database: str | None = Field(
        default=None,
        repr=False,  # it may hold a password
        description="a SQLAlchemy URL, such as sqlite+aiosqlite:////path/ostiary.db; without one it"
        " is ostiary.db in the site directory",
    )


def own_broker_host(config: ServerConfig) -> str:
    """Where the server itself finds the built-in broker, by a name that its certificate has."""
    listens = ip_address(config.broker_listen)
    if listens.is_loopback or listens.is_unspecified:
        return "localhost"
    return f"[{config.address}]" if ":" in config.address else config.address


def load_config(file: Path, environ: Mapping[str, str]) -> ServerConfig:
    """The settings in `file`, overridden by OSTIARY_PORT and so on. Raises BadConfig."""
    try:
        values: dict[str, object] = tomllib.loads(file.read_text())
    except FileNotFoundError:
        values = {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{file} is not TOML: {error}") from None
    for name in ServerConfig.model_fields:
        variable = ENV_PREFIX + name.upper()
        if variable in environ:
            values[name] = environ[variable]
    try:
        return ServerConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadConfig(
            f"setting {where!r}: {first['msg']}; correct it in {file} or in "
            f"{ENV_PREFIX}{where.upper()}"
        ) from None


def default_toml() -> str:
    """A `server.toml` that shows every default, commented out."""
    lines = ["# Settings of `ostiary serve`. A line that is commented out shows the default.", ""]
    for name, field in ServerConfig.model_fields.items():
        if field.default is None:  # TOML has no word for nothing
            lines += [f"# {name}: {field.description}", ""]
        else:  # JSON has TOML's strings, numbers and truth values
            lines += [f"# {field.description}", f"#{name} = {json.dumps(field.default)}", ""]
    return "\n".join(lines)
