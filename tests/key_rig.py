"""A key authority over a site on disk, and an ESAM that asks it for keys."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.keys import Item, KeyPackage, KeyRequest
from schemas.names import SERVER
from schemas.suites import SuiteName
from server.clock import SystemClock
from server.kek import read_kek
from server.keys.authority import KeyAuthority
from server.keys.copying import Copying
from server.keys.esams import Esams, NewEsam
from server.keys.home import KeyHome
from server.keys.homes import Homes
from server.keys.issuing import Issuer
from server.keys.sealed import SealedHome
from server.site import Site, create_site, open_site
from server.store.announcements import announcements
from server.store.database import open_database
from tests.esam_desk import EsamDesk, protected
from tests.system import require_module, require_program

AGENT = "front-agent"
DOMAIN = "zone-a"
SESSION = "00112233445566aa"
MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "271828"


@dataclass
class KeyDesk:
    """One site's key authority."""

    site: Site
    engine: AsyncEngine
    homes: Homes
    authority: KeyAuthority
    issuer: Issuer
    esams: Esams
    copying: Copying

    @property
    def suite(self) -> SuiteName:
        """The site's."""
        return self.site.suite.name

    async def news(self) -> list[tuple[str, str]]:
        """Name and data of each announcement, oldest first."""
        async with self.engine.connect() as connection:
            rows = await connection.execute(select(announcements).order_by(announcements.c.id))
            return [(row.name, row.data) for row in rows]

    async def know(self, esam: EsamDesk, *domains: str, agent: str = AGENT) -> None:
        """Import an ESAM."""
        await self.esams.take(
            [
                NewEsam(
                    serial=esam.serial.hex(),
                    suite=esam.suite.name,
                    control_key=esam.control_key,
                    agent=agent,
                    domains=domains or (DOMAIN,),
                )
            ],
            "test",
        )

    async def write(self, esam: EsamDesk, item: Item, version: int, *, index: int = 1) -> bool:
        """Ask for a package with the ESAM's challenge, and whether the ESAM takes it."""
        package = await self.issuer.package(
            request(esam, item, version, index=index, challenge=esam.challenge()), AGENT
        )
        return esam.send(command(package)).ok


def request(
    esam: EsamDesk, item: Item, version: int, *, challenge: bytes, index: int = 1, domain=DOMAIN
) -> KeyRequest:
    return KeyRequest(
        site="demo",
        audience=SERVER,
        issued=SystemClock().now(),
        counter=1,
        session=SESSION,
        esam=esam.serial.hex(),
        domain=domain,
        index=index,
        version=version,
        item=item,
        challenge=challenge.hex(),
    )


def command(package: KeyPackage) -> bytes:
    """The APDU that an agent makes of a package."""
    header = (0x84, 0xD6, 0) if package.item is Item.FLOOR else (0x84, 0xD4, 1)
    return protected(bytes((*header, package.version)).hex(), bytes.fromhex(package.body))


@asynccontextmanager
async def key_desk(
    path: Path, suite: str = "intl", *, homes: Sequence[KeyHome] | None = None
) -> AsyncIterator[KeyDesk]:
    """The authority of the site at `path`, which is made if it is not there."""
    if not (path / "root.json").exists():
        create_site(path, "demo", suite, secrets.token_bytes, {})
    site = open_site(path)
    kek = read_kek(path, {})
    engine = await open_database(site.database)
    clock = SystemClock()
    sealed = SealedHome(site.name, kek, secrets.token_bytes)
    with ThreadPoolExecutor(1) as executor:
        opened = Homes(homes or [sealed], executor)
        common = {"engine": engine, "homes": opened, "clock": clock, "announced": lambda: None}
        try:
            yield KeyDesk(
                site,
                engine,
                opened,
                KeyAuthority(**common),
                Issuer(**common),
                Esams(**common),
                Copying(engine, site, kek, secrets.token_bytes, clock, lambda: None),
            )
        finally:
            await engine.dispose()


@cache
def soft_token() -> Path:
    """The SoftHSM of this process: it reads its settings when its library is loaded, once."""
    require_module("pkcs11", "pip install 'ostiary[hsm]'")
    program = require_program("softhsm2-util", "softhsm2")
    folder = Path(mkdtemp(prefix="ostiary-token-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "tokens").mkdir()
    settings = folder / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(settings)
    making = [program, "--init-token", "--free", "--label", "ostiary", "--pin", PIN]
    subprocess.run([*making, "--so-pin", "31415926"], check=True, capture_output=True)
    return folder


def token_home(site: str = "demo") -> KeyHome:
    """A home in the token; each test names a site of its own, for the token outlives it."""
    soft_token()
    import pkcs11

    from server.keys.pkcs11 import TokenHome

    token = pkcs11.lib(MODULE).get_token(token_label="ostiary")
    return TokenHome(site, token, PIN, secrets.token_bytes)


def bytes_of(*folders: Path) -> bytes:
    """Every byte of every file."""
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    return b"\x00".join(file.read_bytes() for file in files)


def traces(haystack: bytes, keys: Sequence[bytes]) -> list[bytes]:
    """The keys of which half, or their hex in either case, is there."""
    return [
        key
        for key in keys
        for part in (key[:8], key[8:], key.hex()[:14].encode(), key.hex()[:14].upper().encode())
        if part in haystack
    ]
