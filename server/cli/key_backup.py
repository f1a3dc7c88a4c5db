"""`ostiary keys backup` and `ostiary keys restore`."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from server.cli.console import DEFAULT_SITE_DIR, SiteDir, err, fail, out
from server.cli.keys import BY, Keys, with_keys
from server.cli.root_document import AskKek
from server.files import write_durably
from server.keys.backup import BackupKey, read_heading
from server.keys.home import KeysError
from server.keys.shares import needed_of

ShareFiles = Annotated[
    list[Path] | None,
    typer.Option("--share-file", help="A share each, on a medium each; may be repeated."),
]

_WORTHLESS = ", and shares of it that somebody wrote down are worth nothing: destroy them"
_CLEAR = "\x1b[2J\x1b[3J\x1b[H"
"""Clears the screen, and what can be scrolled back to (ECMA-48 and xterm's `E3`)."""


def backup(
    file: Annotated[Path, typer.Argument(help="The backup; must not be there yet.")],
    *,
    people: Annotated[
        int, typer.Option(min=0, max=16, help="How many people get a share; 0: no shares.")
    ] = 0,
    needed: Annotated[
        int | None,
        typer.Option(
            min=2, max=16, help="How many must meet to restore: 2 by default.", show_default=False
        ),
    ] = None,
    share_file: ShareFiles = None,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    ask_kek: AskKek = False,
) -> None:
    """Copy all keys to a file.

    By default it is sealed under the site's key-encryption key, and worth nothing without that.
    With --people it is sealed under a key of its own, which exists in the shares alone: any
    --needed of the people together restore it on any machine, and fewer learn nothing.
    """
    if needed is not None and not people:
        fail("--needed goes with --people: without it, no shares are made")
    if share_file and len(share_file) != people:
        fail(f"--people {people}, but {len(share_file)} times --share-file: name one each")
    places = [*(share_file or ()), file]
    _must_be_free(places)
    key = _key_of(people, needed or 2) if people else None
    if key is not None and not share_file and not sys.stdout.isatty():
        fail("shares are shown on a terminal, one at a time; or name a --share-file for each")
    shares = () if key is None else key.shares
    data = with_keys(site_dir, ask_kek, lambda keys: keys.copying.copy_out(key, BY))
    # From here on the audit log has it: a copy was out of the database, whatever became of it
    none = "no backup was made" + (_WORTHLESS if shares else "")
    try:
        if not share_file:  # before the file is there: without its shares it is no backup
            for number, share in enumerate(shares, start=1):
                _show(number, share, len(shares))
        in_files = [share.encode() + b"\n" for share in shares if share_file]
        _write(dict(zip(places, [*in_files, data], strict=True)))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}: {none}")
    except typer.Abort:
        err.print(f"Broken off: {none}.")
        raise
    out.print(f"The keys are in {file}.", markup=False)
    if key is not None:
        err.print(
            f"Any {key.needed} of the {people} shares open it. With fewer it is worth nothing:"
            " nothing else opens it."
        )


def _must_be_free(places: list[Path]) -> None:
    for place in places:
        if place.exists():
            fail(f"{place} is there already: nothing was written")
        if places.count(place) > 1:
            fail(f"{place} is named twice: nothing was written")
        if not place.parent.is_dir():
            fail(f"there is no folder {place.parent}: nothing was written")


def _key_of(people: int, needed: int) -> BackupKey:
    try:
        return BackupKey.for_people(people, needed, secrets.token_bytes)
    except KeysError as error:
        fail(str(error))


def _write(contents: dict[Path, bytes]) -> None:
    """All of them or none. Raises OSError."""
    try:
        for place, content in contents.items():
            write_durably(place, content)
    except BaseException:
        for place in contents:
            place.unlink(missing_ok=True)
        raise


def _show(number: int, share: str, count: int) -> None:
    typer.prompt(
        f"Share {number} of {count}: press Enter once its keeper alone sees the screen",
        default="",
        show_default=False,
    )
    typer.echo(share)
    try:
        typer.prompt("Written down? Enter clears the screen", default="", show_default=False)
    finally:
        typer.echo(_CLEAR, nl=False)


def restore(
    file: Annotated[Path, typer.Argument(help="What `ostiary keys backup` wrote.")],
    *,
    share_file: ShareFiles = None,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    ask_kek: AskKek = False,
) -> None:
    """Take the keys of a backup that this site lacks, or can't open any more."""
    try:
        data = file.read_bytes()
        heading = read_heading(data)
        if share_file and not heading.shares:
            fail(f"{file} was made without shares: the site's key-encryption key opens it")
        shares = [place.read_text() for place in share_file or ()]
        if heading.shares and not share_file:
            shares = _ask_for_shares(heading.needed)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    except UnicodeDecodeError:
        fail("a share is words: one of the share files holds something else")
    except KeysError as error:
        fail(str(error))

    async def copy_in(keys: Keys) -> None:
        restored = await keys.copying.copy_in(data, shares, BY)
        if restored.versions or restored.esams:
            found = f"{restored.versions} key versions and {restored.esams} ESAMs"
            out.print(f"{found} were missing, or could not be opened: they are restored.")
        else:
            out.print("Nothing was missing: the site has all that is in the backup.")
        for name in restored.destroyed:
            err.print(f"{name} was destroyed since: it stays so.", markup=False)

    with_keys(site_dir, ask_kek, copy_in)


def _ask_for_shares(expected: int) -> list[str]:
    shares: list[str] = []
    needed = expected
    while len(shares) < needed:
        share = _typed(f"Share {len(shares) + 1} of {needed}")
        try:
            needed = needed_of(share)
        except KeysError as error:
            err.print(str(error), markup=False)
            continue
        shares.append(share)
    return shares


def _typed(question: str) -> str:
    """A line that is not shown; without a terminal, one of standard input."""
    if sys.stdin.isatty():
        return str(typer.prompt(question, hide_input=True))
    line = sys.stdin.readline()
    if not line:
        fail(f"{question} is not there: type it at a terminal, or name a --share-file for each")
    return line.strip()
