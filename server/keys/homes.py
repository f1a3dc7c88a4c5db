"""The homes that a site's settings name, opened when they are needed, and asked in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

from schemas.esam import KeyPlace
from schemas.keys import CheckValues
from schemas.suites import RandomBytes, SuiteName
from server.clock import Clock
from server.config import ServerConfig
from server.kek import read_kek
from server.keys.home import (
    HomeLocked,
    HomeName,
    HomeUnavailable,
    KeyHome,
    LoanPlace,
    NewVersion,
    Source,
)
from server.keys.sealed import SealedHome
from server.site import Site, SiteError

P = ParamSpec("P")
T = TypeVar("T")
PAUSE_S = 10.0
"""After a home could not be opened: a token is not asked in a loop."""


class Homes:
    """Where keys are; new ones go to the first."""

    def __init__(self, homes: Sequence[KeyHome], executor: Executor) -> None:
        """`executor` has one thread: a token's session is no place for two."""
        self.first = homes[0]
        self._homes = {home.name: home for home in homes}
        self._executor = executor

    def of(self, name: str) -> KeyHome:
        """The home that a row names. Raises HomeUnavailable."""
        for known, home in self._homes.items():
            if known == name:
                return home
        raise HomeUnavailable(
            f"these keys are in {name}, which the settings don't name: set pkcs11_module and"
            " pkcs11_token in server.toml"
        )

    async def ask(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do a home's blocking work on its own thread."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: work(*args, **kwargs)
        )


class LateHome:
    """A home that is opened when it is first needed, and anew after it was unavailable."""

    def __init__(self, name: HomeName, opening: Callable[[], KeyHome], clock: Clock) -> None:
        self.name = name
        self._opening, self._clock = opening, clock
        self._home: KeyHome | None = None
        self._refusal: HomeUnavailable | None = None
        self._refused_s = 0.0

    def open(self) -> None:
        """See that it answers."""
        self._do(lambda home: home.open())

    def new_version(self, domain: str, suite: SuiteName, version: int) -> NewVersion:
        """As the home itself."""
        return self._do(lambda home: home.new_version(domain, suite, version))

    def keep_control_key(self, suite: SuiteName, serial: bytes, key: bytes) -> bytes:
        """As the home itself."""
        return self._do(lambda home: home.keep_control_key(suite, serial, key))

    def forget_control_key(self, control: bytes) -> None:
        """As the home itself."""
        self._do(lambda home: home.forget_control_key(control))

    def package(
        self, source: Source, control: bytes, challenge: bytes, place: KeyPlace
    ) -> tuple[bytes, CheckValues]:
        """As the home itself."""
        return self._do(lambda home: home.package(source, control, challenge, place))

    def floor(self, suite: SuiteName, control: bytes, challenge: bytes, place: KeyPlace) -> bytes:
        """As the home itself."""
        return self._do(lambda home: home.floor(suite, control, challenge, place))

    def lend(
        self,
        suite: SuiteName,
        control: bytes,
        challenge: bytes,
        place: LoanPlace,
        transport_key: bytes,
    ) -> bytes:
        """As the home itself."""
        return self._do(lambda home: home.lend(suite, control, challenge, place, transport_key))

    def destroy(self, source: Source) -> None:
        """As the home itself."""
        self._do(lambda home: home.destroy(source))

    def _do(self, work: Callable[[KeyHome], T]) -> T:
        if self._home is None:
            self._home = self._opened()
        try:
            return work(self._home)
        except HomeUnavailable as error:
            self._home = None
            if isinstance(error, HomeLocked):
                self._refusal = error
            raise

    def _opened(self) -> KeyHome:
        refusal, now_s = self._refusal, self._clock.monotonic()
        # A PIN that was refused is not tried again: tokens lock after a few.
        if refusal is not None and (
            isinstance(refusal, HomeLocked) or now_s < self._refused_s + PAUSE_S
        ):
            raise refusal
        try:
            home = self._opening()
        except HomeUnavailable as error:
            self._refusal, self._refused_s = error, now_s
            raise
        self._refusal = None
        return home


def open_homes(
    site: Site,
    config: ServerConfig,
    environ: Mapping[str, str],
    random: RandomBytes,
    executor: Executor,
) -> Homes:
    """The homes of this site, open, for one command. Raises HomeUnavailable."""
    openings = _openings(site, config, environ, random)
    return Homes([opening() for opening in openings.values()], executor)


def late_homes(
    site: Site,
    config: ServerConfig,
    environ: Mapping[str, str],
    random: RandomBytes,
    executor: Executor,
    *,
    clock: Clock,
) -> Homes:
    """The homes of this site, for a server: it serves doors though a token is not there."""
    openings = _openings(site, config, environ, random)
    return Homes([LateHome(name, opening, clock) for name, opening in openings.items()], executor)


def _openings(
    site: Site, config: ServerConfig, environ: Mapping[str, str], random: RandomBytes
) -> dict[HomeName, Callable[[], KeyHome]]:
    """How each home is opened, that of new keys first; opening raises HomeUnavailable."""

    def sealed() -> KeyHome:
        try:
            kek = read_kek(site.path, environ)
        except SiteError as error:
            raise HomeUnavailable(str(error)) from None
        return SealedHome(site.name, kek, random)

    def token() -> KeyHome:
        if not config.pkcs11_module:
            raise HomeUnavailable("key_home is pkcs11: set pkcs11_module and pkcs11_token as well")
        try:  # here, not above: who has no token needs no library for one
            from server.keys.pkcs11 import open_token
        except ImportError:
            raise HomeUnavailable("the token needs a library: pip install 'ostiary[hsm]'") from None

        return open_token(site, config.pkcs11_module, config.pkcs11_token, environ, random)

    if config.key_home == "pkcs11":
        return {"pkcs11": token, "sealed": sealed}
    return {"sealed": sealed, "pkcs11": token} if config.pkcs11_module else {"sealed": sealed}
