"""`ostiary cards transport`: the transport keys of new cards.

These work on the site itself, with its key-encryption key. Keys are read from files or a prompt,
never from the command line, which others can see.
"""

from __future__ import annotations

import secrets
import stat
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.progress import Progress

from schemas.suites import SuiteName
from schemas.suites.suite import KEY_BYTES
from schemas.transport import TransportSource
from server.cli.console import (
    DEFAULT_SITE_DIR,
    SiteDir,
    confirm,
    err,
    fail,
    opened,
    out,
    run,
    the_site,
)
from server.cli.root_document import AskKek, environ_with_kek
from server.clock import SystemClock
from server.feed.cloudevents import as_json
from server.kek import read_kek
from server.keys.home import KeysError
from server.keys.transport import TransportKeys
from server.keys.transport_list import MAX_LIST_BYTES, BadList, read_list
from server.site import SiteError

app = typer.Typer(help="The transport keys of new cards.", no_args_is_help=True)
BY = "ostiary cards"
T = TypeVar("T")
KeyFile = Annotated[
    Path | None,
    typer.Argument(help="A file with the 16 bytes, or 32 hex digits; none: it is asked for."),
]
Replace = Annotated[bool, typer.Option("--replace", help="Take it in the place of another.")]


class What(StrEnum):
    """What can be forgotten."""

    LIST = "list"
    MASTER = "master"
    DEFAULT = "default"


_SOURCES = {
    What.LIST: TransportSource.LIST,
    What.MASTER: TransportSource.DERIVED,
    What.DEFAULT: TransportSource.DEFAULT,
}


def _with_keys(site_dir: Path, ask_kek: bool, work: Callable[[TransportKeys], Awaitable[T]]) -> T:
    async def working() -> T:
        site, config = the_site(site_dir)
        environ = environ_with_kek(site_dir, ask_kek)
        try:
            kek = read_kek(site.path, environ)
            async with opened(site, config) as engine:
                keys = TransportKeys(
                    engine=engine,
                    site=site.name,
                    kek=kek,
                    random=secrets.token_bytes,
                    clock=SystemClock(),
                    announced=_told_by_the_server,
                )
                return await work(keys)
        except (KeysError, SiteError) as error:
            fail(str(error))

    return run(working())


def _told_by_the_server() -> None:
    """The running server, or the next one, makes events of what was announced."""


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(help="The maker's list: CSV, card,transport_key, hex.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Take its keys where others are known.")
    ] = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    ask_kek: AskKek = False,
) -> None:
    """Make a list of transport keys known: all of it or nothing. Repeating it is safe."""
    content = _read(file, MAX_LIST_BYTES)
    with Progress(console=err, transient=True) as progress:
        reading = progress.add_task("reading", total=max(1, content.count(b"\n")))
        try:
            keys = read_list(content, lambda lines: progress.update(reading, completed=lines))
        except BadList as error:
            progress.stop()
            fail(f"{file}: {error}")
        sealing = progress.add_task("sealing", total=len(keys))

        async def take(transport: TransportKeys) -> None:
            done = await transport.take_list(
                keys, BY, replace=replace, progress=lambda n: progress.update(sealing, completed=n)
            )
            said = f"{done.added} cards are new, {done.replaced} replaced, {done.same} were known."
            out.print(said)

        _with_keys(site_dir, ask_kek, take)
    err.print(f"Keep {file} where only you can read it, or delete it.", markup=False)


@app.command()
def master(
    file: KeyFile = None,
    suite: Annotated[
        SuiteName | None, typer.Option(help="By which the maker derives; none: the site's.")
    ] = None,
    replace: Replace = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    ask_kek: AskKek = False,
) -> None:
    """Set the master key of a batch, from which each card's transport key is derived."""
    key, named = _key(file), suite or the_site(site_dir)[0].suite.name
    source = TransportSource.DERIVED
    _with_keys(
        site_dir, ask_kek, lambda k: k.take_root(source, key, BY, suite=named, replace=replace)
    )
    out.print("Cards that no list names have a transport key derived from it.")


@app.command()
def default(
    file: KeyFile = None,
    replace: Replace = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    ask_kek: AskKek = False,
) -> None:
    """Set the default transport key of a product: trust on first use.

    Anybody may know it. Who listens while such a card is bound has the keys of that card.
    """
    if not yes:
        confirm("Anybody may know this key, and so learn what is written to a card. Use it?")
    key, named = _key(file), the_site(site_dir)[0].suite.name
    source = TransportSource.DEFAULT
    _with_keys(
        site_dir, ask_kek, lambda k: k.take_root(source, key, BY, suite=named, replace=replace)
    )
    out.print("Cards of neither list nor master key are bound by it, and events say so.")


@app.command("list")
def list_command(
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    as_json_: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    ask_kek: AskKek = False,
) -> None:
    """Show what transport keys there are, in the order in which they are looked for."""
    found = _with_keys(site_dir, ask_kek, lambda keys: keys.standing())
    if as_json_:
        typer.echo(
            as_json(
                {
                    "listed": found.listed,
                    "kept": found.kept,
                    "master": found.master,
                    "default": found.default,
                }
            )
        )
        return
    if not (found.listed or found.master or found.default):
        err.print("No transport key is known: import the maker's list before you bind a card.")
    out.print(f"lists       {found.listed} cards")
    out.print(f"master key  {'none' if found.master is None else f'suite {found.master}'}")
    out.print(f"default     {'yes, trust on first use' if found.default else 'none'}")
    out.print(f"kept        {found.kept} cards that were bound")


@app.command()
def forget(
    what: Annotated[What, typer.Argument(help="Which transport keys.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    ask_kek: AskKek = False,
) -> None:
    """Forget transport keys. Those that cards were bound with stay: unbinding needs them."""
    if not yes:
        confirm(f"Forget the {what.value}? Cards that are not bound yet can't be bound by it.")
    cards = _with_keys(site_dir, ask_kek, lambda keys: keys.forget(_SOURCES[what], BY))
    out.print(f"The {what.value} is forgotten; {cards} cards' keys went.")


def _key(file: Path | None) -> bytes:
    if file is None:
        text: str = typer.prompt("The key, in hex", hide_input=True, err=True)
        content = text.encode()
    else:
        content = _read(file, 1024)
    if len(content) == KEY_BYTES:
        return content
    try:
        key = bytes.fromhex(content.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        what = "what was typed" if file is None else str(file)
        fail(f"{what} is neither {KEY_BYTES} bytes nor {2 * KEY_BYTES} hex digits")
    return key


def _read(file: Path, most: int) -> bytes:
    try:
        with file.open("rb") as source:
            mode, content = stat.S_IMODE(file.stat().st_mode), source.read(most + 1)
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    if mode & 0o077:
        fail(f"{file} has mode {mode:04o}: others may read it. If nobody has, `chmod 600 {file}`")
    return content
