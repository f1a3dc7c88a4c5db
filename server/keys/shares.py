"""A secret in the hands of several people: Shamir's shares as words (SLIP-39).

https://github.com/satoshilabs/slips/blob/master/slip-0039.md. Fewer shares than are needed tell
nothing of the secret. Each share has a checksum, and the secret that comes out is checked as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from shamir_mnemonic import MnemonicError, combine_mnemonics, generate_mnemonics
from shamir_mnemonic.share import Share

from server.keys.home import KeysError

MOST_SHARES = 16


class TooFewShares(KeysError):
    """The shares are good, but more are needed."""


def split(secret: bytes, *, needed: int, count: int) -> list[str]:
    """`count` shares, of which any `needed` give the secret. Raises KeysError."""
    if not 2 <= needed <= count <= MOST_SHARES:
        raise KeysError(
            f"{needed} of {count} shares can't be: at least 2 are needed, at most {MOST_SHARES}"
            " are made. For one person's backup, ask for none"
        )
    (shares,) = generate_mnemonics(1, [(needed, count)], secret, iteration_exponent=0)
    return list(shares)


def needed_of(share: str) -> int:
    """How many shares like this one are needed. Raises KeysError for what is no share."""
    return int(_read(share, 1).member_threshold)


def combine(shares: Sequence[str]) -> bytes:
    """The secret. Raises TooFewShares, or KeysError for shares that are wrong or don't belong."""
    texts = [" ".join(share.split()) for share in shares]
    read = [_read(text, place) for place, text in enumerate(texts, start=1)]
    if not read:
        raise TooFewShares("shares are needed: none was given")
    if len({share.identifier for share in read}) > 1:
        raise KeysError(
            "the shares are of different backups: the first two words of all must match"
        )
    different = {share.index: text for share, text in zip(read, texts, strict=True)}
    needed = read[0].member_threshold
    if len(different) < needed:
        raise TooFewShares(f"{needed} different shares are needed, {len(different)} were given")
    try:
        return bytes(combine_mnemonics(list(different.values())[:needed]))
    except MnemonicError:  # its words are of the shares
        raise KeysError("the shares don't belong together: one is of another backup") from None


def _read(share: str, place: int) -> Share:
    try:
        return Share.from_mnemonic(" ".join(share.split()))
    except MnemonicError:
        raise KeysError(
            f"share {place} is not one: a word is missing, misspelt or in another's place"
        ) from None
