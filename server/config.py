"""The server's settings: `server.toml` in the site directory, then OSTIARY_* variables."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

ENV_PREFIX = "OSTIARY_"
BUILTIN = "builtin"


class BadConfig(Exception):
    """A setting that can't be used; the message names it and where it stands."""


def _broker(value: str) -> str:
    if value != BUILTIN and not re.fullmatch(r"mqtt://[^/\s]+", value):
        raise ValueError(f"{value!r} is neither `builtin` nor mqtt://host:port")
    return value


class ServerConfig(BaseModel):
    """Every setting has a safe default; the command line overrides all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int = Field(default=8080, ge=0, le=65535, description="HTTP port on 127.0.0.1")
    broker: Annotated[str, AfterValidator(_broker)] = Field(
        default=BUILTIN, description="`builtin`, or mqtt://host:port of another broker"
    )
    broker_port: int = Field(default=1883, ge=0, le=65535, description="of the built-in broker")
    database: str | None = Field(
        default=None, description="SQLAlchemy URL; by default ostiary.db in the site directory"
    )


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
        value = f'"{field.default}"' if isinstance(field.default, str) else field.default
        shown = '"sqlite+aiosqlite:////path/ostiary.db"' if value is None else value
        lines += [f"# {field.description}", f"#{name} = {shown}", ""]
    return "\n".join(lines)
