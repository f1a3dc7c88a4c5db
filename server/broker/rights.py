"""Who is let in at the broker, told to it while it runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from schemas.names import Name
from server.broker.grants import refuse_own
from server.files import write_durably
from server.site import SiteError

_NAMES = TypeAdapter(frozenset[Name])


class Rights(Protocol):
    """Each call returns when the broker has heeded it, or raises ConnectionError.

    After such an error `reconcile`, at the next connection, makes good for what was missed.
    """

    async def admit(self, agent: str) -> None:
        """Let `agent` in. Raises ValueError for a name that no agent may have."""
        ...

    async def expel(self, agent: str) -> None:
        """Cut `agent` off: its connection ends, and a new one gives it nothing."""
        ...

    async def reconcile(self, agents: Iterable[str]) -> None:
        """Let in exactly `agents`, whatever the broker knew before."""
        ...


class NoRights:
    """For a broker that asks nobody who he is: on loopback, for tests and fleets."""

    async def admit(self, agent: str) -> None:
        """Everybody is in."""

    async def expel(self, agent: str) -> None:
        """Nobody can be kept out: what the agent signs counts no more, and that must do."""

    async def reconcile(self, agents: Iterable[str]) -> None:
        """Everybody is in."""


class AdmittedFile:
    """The names that the built-in broker lets in, kept where it can see them.

    The broker may be another process, and reads the file again when it changes.
    """

    def __init__(self, site: str, file: Path) -> None:
        self._site, self._file = site, file
        self._turn = asyncio.Lock()

    async def admit(self, agent: str) -> None:
        """Durably, before it returns. Raises ConnectionError."""
        refuse_own(self._site, agent)
        await self._change(lambda names: names | {agent})

    async def expel(self, agent: str) -> None:
        """Durably, before it returns; the broker has seen it WATCH_S later at the most."""
        await self._change(lambda names: names - {agent})

    async def reconcile(self, agents: Iterable[str]) -> None:
        """Durably, before it returns, also in the place of a file that can't be read."""
        wanted = frozenset(refuse_own(self._site, agent) for agent in agents)
        async with self._turn:
            await asyncio.to_thread(self._write, wanted)

    async def _change(self, change: Callable[[frozenset[str]], frozenset[str]]) -> None:
        async with self._turn:
            await asyncio.to_thread(lambda: self._write(change(self._read())))

    def _read(self) -> frozenset[str]:
        try:
            return read_admitted(self._file)
        except SiteError as error:
            raise ConnectionError(str(error)) from error

    def _write(self, names: frozenset[str]) -> None:
        data = json.dumps(sorted(names)).encode()
        try:
            if self._file.exists() and self._file.read_bytes() == data:
                return
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
            write_durably(self._file, data)
        except OSError as error:
            raise ConnectionError(f"{self._file}: {error.strerror}") from error


def read_admitted(file: Path) -> frozenset[str]:
    """The names in such a file; none if there is no file. Raises SiteError."""
    try:
        return _NAMES.validate_json(file.read_bytes())
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise SiteError(f"{file}: {error.strerror}; run this as the site's user") from None
    except ValidationError:
        raise SiteError(
            f"{file} is not a list of agents: remove it, and start `ostiary serve`, which writes it"
        ) from None


def admitted_file(site_dir: Path) -> Path:
    """Written by the site's server."""
    return site_dir / "broker" / "admitted.json"


def probes_file(site_dir: Path) -> Path:
    """Written by `ostiary broker check`."""
    return site_dir / "broker" / "probes.json"
