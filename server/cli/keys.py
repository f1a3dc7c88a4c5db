"""`ostiary keys`: the secrets of key domains, and the ESAMs they are for.

These work on the site itself, with its key-encryption key: whoever may run them holds the keys.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.table import Table

from schemas.keys import CheckValues
from schemas.suites import SuiteName
from server.cli.console import DEFAULT_SITE_DIR, SiteDir, err, fail, opened, out, run, the_site
from server.cli.root_document import AskKek, environ_with_kek
from server.clock import SystemClock
from server.feed.cloudevents import as_json
from server.kek import read_kek
from server.keys.authority import KeyAuthority
from server.keys.copying import Copying
from server.keys.esams import Esams
from server.keys.home import KeysError
from server.keys.homes import open_homes
from server.site import SiteError

app = typer.Typer(help="Key domains, their versions, and ESAMs.", no_args_is_help=True)
BY = "ostiary keys"
T = TypeVar("T")
Domain = Annotated[str, typer.Argument(help="The key domain.")]
Version = Annotated[int, typer.Argument(min=1, help="The key version.")]


@dataclass(frozen=True)
class Keys:
    """The key authority of a site, for one command."""

    authority: KeyAuthority
    esams: Esams
    copying: Copying


def with_keys(site_dir: Path, ask_kek: bool, work: Callable[[Keys], Awaitable[T]]) -> T:
    """Do a command's work with the site's keys, or a clear end."""

    async def working() -> T:
        async with _opened(site_dir, ask_kek) as keys:
            return await work(keys)

    return run(working())


@asynccontextmanager
async def _opened(site_dir: Path, ask_kek: bool) -> AsyncIterator[Keys]:
    site, config = the_site(site_dir)
    environ = environ_with_kek(site_dir, ask_kek)
    clock = SystemClock()
    try:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="keys") as executor:
            async with opened(site, config) as engine:
                kek = read_kek(site.path, environ)
                homes = open_homes(site, config, environ, secrets.token_bytes, executor)
                authority = KeyAuthority(
                    engine=engine, homes=homes, clock=clock, announced=_told_by_the_server
                )
                await authority.load()
                yield Keys(
                    authority,
                    Esams(engine, homes, clock, _told_by_the_server),
                    Copying(engine, site, kek, secrets.token_bytes, clock, _told_by_the_server),
                )
    except (KeysError, SiteError) as error:
        fail(str(error))


def _told_by_the_server() -> None:
    """The running server, or the next one, makes events of what was announced."""


@app.command()
def domains(
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    as_json_: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    ask_kek: AskKek = False,
) -> None:
    """Show each domain, its floor, and its versions with their check values."""
    found = with_keys(site_dir, ask_kek, lambda keys: keys.authority.domains())
    if as_json_:
        typer.echo(
            as_json(
                [
                    {
                        "domain": domain.name,
                        "suite": domain.suite,
                        "floor": domain.floor,
                        "versions": [
                            {
                                "version": each.version,
                                "home": each.home,
                                "check_values": each.check_values.model_dump(),
                                "created": each.created.isoformat(),
                                "destroyed": each.destroyed and each.destroyed.isoformat(),
                            }
                            for each in domain.versions
                        ],
                    }
                    for domain in found
                ]
            )
        )
        return
    if not found:
        err.print("No key domains yet: `ostiary keys create NAME` makes one.")
        return
    table = Table(
        "domain", "suite", "version", "state", "where", "auth", "admit", "maintain", box=None
    )
    for domain in found:
        for each in domain.versions:
            retired = "retired" if each.version < domain.floor else "ready"
            table.add_row(
                domain.name,
                domain.suite,
                str(each.version),
                retired if each.destroyed is None else "destroyed",
                each.home,
                *each.check_values.model_dump().values(),
            )
    out.print(table)


@app.command()
def create(
    domain: Domain,
    suite: Annotated[
        SuiteName | None, typer.Option(help="That of the domain's cards; default: the site's.")
    ] = None,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    ask_kek: AskKek = False,
) -> None:
    """Make a key domain and version 1 of its keys."""
    chosen = suite or the_site(site_dir)[0].suite.name
    made = with_keys(
        site_dir, ask_kek, lambda keys: keys.authority.create_domain(domain, chosen, BY)
    )
    _say_made(domain, 1, made)


@app.command("new-version")
def new_version(
    domain: Domain, site_dir: SiteDir = DEFAULT_SITE_DIR, ask_kek: AskKek = False
) -> None:
    """Make the next version of a domain's keys. No lock uses it before it is rotated in."""
    version, made = with_keys(
        site_dir, ask_kek, lambda keys: keys.authority.new_version(domain, BY)
    )
    _say_made(domain, version, made)


def _say_made(domain: str, version: int, made: CheckValues) -> None:
    checks = ", ".join(f"{name} {value}" for name, value in made.model_dump().items())
    out.print(f"Version {version} of {domain} is made. Check values: {checks}")
    err.print("Back it up before any card depends on it: `ostiary keys backup`.")


@app.command()
def retire(
    domain: Domain,
    below: Annotated[int, typer.Option(min=2, help="The lowest version that is still given.")],
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    ask_kek: AskKek = False,
) -> None:
    """Give the versions below to no lock any more, and have the ESAMs erase them. For ever.

    A rotation does this by itself; refused while doors take one of these versions.
    """
    if not yes:
        typer.confirm(f"Retire all versions of {domain} below {below} for ever?", abort=True)
    with_keys(site_dir, ask_kek, lambda keys: keys.authority.raise_floor(domain, below, BY))
    out.print(f"Versions of {domain} below {below} are retired.")


@app.command()
def destroy(
    domain: Domain,
    version: Version,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    ask_kek: AskKek = False,
) -> None:
    """Destroy the keys of a retired version. Backups still have them: destroy those too."""
    if not yes:
        typer.confirm(f"Destroy version {version} of {domain} for ever?", abort=True)
    with_keys(site_dir, ask_kek, lambda keys: keys.authority.destroy(domain, version, BY))
    out.print(f"Version {version} of {domain} is destroyed.")
