"""How commands speak: results on standard output, all else on standard error."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from sqlalchemy.ext.asyncio import AsyncEngine

from server.config import BadConfig, ServerConfig, load_config
from server.site import Site, SiteError, open_site
from server.store.database import DatabaseUnavailable, open_database

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

SiteDir = Annotated[
    Path,
    typer.Option(
        "--site-dir", "-d", envvar="OSTIARY_SITE_DIR", help="The site directory.", show_default=True
    ),
]
DEFAULT_SITE_DIR = Path("site")
T = TypeVar("T")


def fail(message: str) -> NoReturn:
    """Say what is wrong and leave with exit code 1."""
    err.print("[bold red]error:[/] ", end="")
    err.print(message, markup=False)
    raise typer.Exit(1)


def confirm(question: str) -> None:
    """Ask on standard error, and end the command unless the answer is yes."""
    try:
        typer.confirm(question, abort=True, err=True)
    except typer.Abort:
        err.print("Nothing was done. Where nobody can be asked, --yes says yes.")
        raise


def the_site(path: Path) -> tuple[Site, ServerConfig]:
    """The site and its settings, or a clear end."""
    try:
        site = open_site(path)
        return site, load_config(site.config_file, os.environ)
    except (SiteError, BadConfig) as error:
        fail(str(error))


def must_have_database(site: Site, config: ServerConfig) -> None:
    """A clear end if the database is lost: an empty one in its place would know no agent."""
    if config.database is None and not site.database.exists():
        fail(f"{site.database} is missing: restore it from a backup, or make a new site")


@asynccontextmanager
async def opened(site: Site, config: ServerConfig) -> AsyncIterator[AsyncEngine]:
    """The site's database while the context lasts, or a clear end."""
    must_have_database(site, config)
    try:
        engine = await open_database(config.database or site.database)
    except DatabaseUnavailable as error:
        fail(str(error))
    try:
        yield engine
    finally:
        await engine.dispose()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work; Ctrl-C and a closed pipe end it quietly."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
