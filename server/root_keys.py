"""The root keys: in folders apart from the site, each movable to a medium of its own.

<folder>/root.sealed   the private key, under the folder's own key-encryption key
<folder>/kek           that key, 0600: then who has the folder has the root key
<folder>/kek.salt      or instead: it comes from a passphrase

One root key lies in `<site>-root-keys` itself; of several, each has a numbered folder there. The
server never reads them: they are needed for `ostiary root rotate` and `ostiary root sign` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.envelope import Signer
from schemas.errors import SchemaError
from schemas.sealed import seal_secret, unseal_secret
from schemas.suites import PrivateKey, RandomBytes, Suite
from server.files import write_durably
from server.kek import (
    KEK_FILE,
    SiteError,
    has_passphrase,
    kek_of_passphrase,
    make_kek,
    read_kek,
)

FILE = "root.sealed"
AskPassphrase = Callable[[Path], str]
"""Asks a person for the passphrase of a folder."""


def default_place(site_dir: Path) -> Path:
    """Beside the site, not in it."""
    return site_dir.with_name(f"{site_dir.absolute().name}-root-keys")


def folders_of(place: Path, count: int) -> list[Path]:
    """Where `count` new root keys go."""
    return [place] if count == 1 else [place / str(n) for n in range(1, count + 1)]


def check_free(place: Path) -> None:
    """Raise SiteError if there is anything at `place` already: keys are never overwritten."""
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise SiteError(
            f"{place} is not empty: choose another directory for the root keys with --root-keys; "
            "nothing was changed"
        )


def write_root_key(
    folder: Path, site: str, key: PrivateKey, random: RandomBytes, passphrase: str | None
) -> None:
    """Seal a root key into a new folder. Raises SiteError or OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    kek = make_kek(folder, random, passphrase)
    write_durably(folder / FILE, seal_secret(kek, key.scalar, _context(site), random))


def read_root_keys(
    places: Sequence[Path], site: str, suite: Suite, ask: AskPassphrase
) -> list[Signer]:
    """The root keys in `places` and the folders directly in them. Raises SiteError."""
    signers = []
    for place in places:
        found = [folder for folder in (place, *_below(place)) if (folder / FILE).is_file()]
        if not found:
            raise SiteError(f"{place} holds no root key ({FILE}): is its medium there?")
        signers += [_read(folder, site, suite, ask) for folder in found]
    return signers


def _below(place: Path) -> list[Path]:
    try:
        return sorted(entry for entry in place.iterdir() if entry.is_dir())
    except OSError as error:
        raise SiteError(f"{place}: {error.strerror}; is the medium with the key there?") from None


def _read(folder: Path, site: str, suite: Suite, ask: AskPassphrase) -> Signer:
    file = folder / FILE
    asked = has_passphrase(folder)
    # the site's own KEK, which the environment may name, is not this folder's
    kek = kek_of_passphrase(folder, ask(folder)) if asked else read_kek(folder, {})
    try:
        return Signer.of(suite.private_key(unseal_secret(kek, file.read_bytes(), _context(site))))
    except OSError as error:
        raise SiteError(f"{file}: {error.strerror}") from None
    except SchemaError as error:
        hint = "the passphrase may be another" if asked else f"check {folder / KEK_FILE}"
        raise SiteError(f"{file} can't be opened: {error}; {hint}") from None


def _context(site: str) -> str:
    return f"{site}/root"
