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


def backup(
    file: Annotated[Path, typer.Argument(help="The backup; must not be there yet.")],
    *,
    people: Annotated[
        int, typer.Option(min=0, max=16, help="How many people get a share; 0: no shares.")
    ] = 0,
    needed: Annotated[int, typer.Option(min=2, max=16, help="How many must meet to restore.")] = 2,
    share_file: ShareFiles = None,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    ask_kek: AskKek = False,
) -> None:
    """Copy all keys to a file.

    By default it is sealed under the site's key-encryption key, and worth nothing without that.
    With --people it is sealed under a key of its own, which exists in the shares alone: any
    --needed of the people together restore it on any machine, and fewer learn nothing.
    """
    places = [file, *(share_file or ())]
    there = [place for place in places if place.exists()]
    if there or len(set(places)) != len(places):
        fail(f"{(there or places)[0]} is there already or named twice: nothing was written")
    if share_file and len(share_file) != people:
        fail(f"--people {people}, but {len(share_file)} times --share-file: name one each")
    if people and not share_file and not sys.stdout.isatty():
        fail("shares are shown on a terminal, one at a time; or name a --share-file for each")
    try:
        key = BackupKey.for_people(people, needed, secrets.token_bytes) if people else None
    except KeysError as error:
        fail(str(error))
    data = with_keys(site_dir, ask_kek, lambda keys: keys.copying.copy_out(key, BY))
    shares = () if key is None else key.shares
    try:
        for place, share in zip(share_file or (), shares, strict=bool(share_file)):
            write_durably(place, share.encode() + b"\n")
        write_durably(file, data)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}; the backup is not whole")
    out.print(f"The keys are in {file}.", markup=False)
    if not share_file:
        for number, share in enumerate(shares, start=1):
            _show(number, share, len(shares))


def _show(number: int, share: str, count: int) -> None:
    typer.prompt(
        f"Share {number} of {count}: press Enter when its keeper alone sees the screen",
        default="",
        show_default=False,
    )
    typer.echo(share)
    typer.prompt("Written down? Enter clears the screen", default="", show_default=False)
    out.clear()


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
        shares = [place.read_text() for place in share_file or ()]
        if heading.shares and not share_file:
            shares = _ask_for_shares(heading.needed)
    except (OSError, UnicodeDecodeError) as error:
        fail(str(error))
    except KeysError as error:
        fail(str(error))

    async def copy_in(keys: Keys) -> None:
        restored = await keys.copying.copy_in(data, shares, BY)
        out.print(
            f"{restored.versions} key versions and {restored.esams} ESAMs are restored.",
        )
        for name in restored.destroyed:
            err.print(f"{name} was destroyed since: it stays so.", markup=False)

    with_keys(site_dir, ask_kek, copy_in)


def _ask_for_shares(expected: int) -> list[str]:
    shares: list[str] = []
    needed = expected
    while len(shares) < needed:
        share = typer.prompt(f"Share {len(shares) + 1} of {needed}", hide_input=True)
        try:
            needed = needed_of(share)
        except KeysError as error:
            err.print(str(error), markup=False)
            continue
        shares.append(share)
    return shares
