"""The homes that a site's settings name, opened, and asked one thing at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

from schemas.suites import RandomBytes
from server.config import ServerConfig
from server.kek import read_kek
from server.keys.home import HomeUnavailable, KeyHome
from server.keys.sealed import SealedHome
from server.site import Site, SiteError

P = ParamSpec("P")
T = TypeVar("T")


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


def open_homes(
    site: Site,
    config: ServerConfig,
    environ: Mapping[str, str],
    random: RandomBytes,
    executor: Executor,
) -> Homes:
    """The homes of this site. Raises HomeUnavailable."""
    try:
        kek = read_kek(site.path, environ)
    except SiteError as error:
        raise HomeUnavailable(str(error)) from None
    homes: list[KeyHome] = [SealedHome(site.name, site.suite, kek, random)]
    if config.pkcs11_module:
        # Here, not above: who has no token needs no library for one.
        from server.keys.pkcs11 import open_token

        token = open_token(site, config.pkcs11_module, config.pkcs11_token, environ, random)
        homes.insert(0 if config.key_home == "pkcs11" else 1, token)
    elif config.key_home == "pkcs11":
        raise HomeUnavailable("key_home is pkcs11: set pkcs11_module and pkcs11_token as well")
    return Homes(homes, executor)
