"""The key authority in the running server.

`ostiary keys` may change the same database at the same time, so nothing of it is kept in memory. A
home of keys that is not there, such as a token that was pulled out, is an alarm: doors are served
all the same, and what needs those keys is refused until it is back.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from server.config import ServerConfig
from server.distribution.key_requests import KeyRequests
from server.distribution.publish import Publish
from server.distribution.transport_requests import TransportRequests
from server.ingest.verify import AlarmKind, Refusal
from server.kek import read_kek
from server.keys.authority import KeyAuthority
from server.keys.esams import Esams
from server.keys.home import KeysError
from server.keys.homes import Homes, late_homes
from server.keys.issuing import Issuer
from server.keys.transport import TransportKeys
from server.site import Site
from server.state import ServerState
from server.store.database import DATABASE_ERRORS
from server.store.keys import homes_in_use

LOOK_S = 15.0
"""How often it is looked whether the keys in use can be used."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class KeyWork:
    """The parts of the key authority; `run` serves agents that ask."""

    engine: AsyncEngine
    homes: Homes
    authority: KeyAuthority
    esams: Esams
    requests: KeyRequests
    transport: TransportRequests
    alarm: Callable[[Refusal], None]

    async def run(self) -> None:
        """Answer agents and watch the homes, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.requests.run())
            group.create_task(self.transport.run())
            group.create_task(self._watch())

    async def _watch(self) -> None:
        """Say once that keys can't be used, and once that they can again."""
        missing = ""
        while True:
            try:
                await self._look()
            except KeysError as error:
                if str(error) != missing:
                    missing = str(error)
                    log.error("keys_unavailable", why=missing, next_step="doors are served on")
                    self.alarm(Refusal(AlarmKind.KEY_REFUSED, None, missing))
            except DATABASE_ERRORS as error:
                log.error("keys_not_looked_at", why=str(error)[:500])
            else:
                if missing:
                    log.info("keys_available")
                missing = ""
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        """See that each home in use answers, and finish there what a stop left half done."""
        async with self.engine.connect() as connection:
            used = await homes_in_use(connection)
        for name in used:
            await self.homes.ask(self.homes.of(name).open)
        await self.authority.load()


def open_keys(
    state: ServerState,
    site: Site,
    config: ServerConfig,
    environ: Mapping[str, str],
    *,
    publish: Publish,
    session: Callable[[str], str | None],
    alarm: Callable[[Refusal], None],
    announced: Callable[[], None],
    threads: Callable[[int, str], ThreadPoolExecutor],
    signers: int,
) -> KeyWork:
    """Opens no home yet. Raises SiteError if the role `keys` can't sign."""
    engine, clock, signer = state.engine, state.clock, site.signer("keys", environ)
    homes = late_homes(site, config, environ, secrets.token_bytes, threads(1, "keys"), clock=clock)
    return KeyWork(
        engine,
        homes,
        KeyAuthority(engine=engine, homes=homes, clock=clock, announced=announced),
        Esams(engine, homes, clock, announced),
        KeyRequests(
            issuer=Issuer(engine=engine, homes=homes, clock=clock, announced=announced),
            signer=signer,
            publish=publish,
            executor=threads(signers, "packages"),
            threads=signers,
            clock=clock,
            session=session,
            alarm=alarm,
            metrics=state.registry,
        ),
        TransportRequests(
            engine=engine,
            suite=site.suite,
            keys=TransportKeys(
                engine=engine,
                site=site.name,
                kek=read_kek(site.path, environ),
                random=secrets.token_bytes,
                clock=clock,
                announced=announced,
            ),
            homes=homes,
            signer=signer,
            publish=publish,
            executor=threads(1, "transport"),
            clock=clock,
            random=secrets.token_bytes,
            session=session,
            alarm=alarm,
            announced=announced,
        ),
        alarm,
    )
