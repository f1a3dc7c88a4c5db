"""The transport keys of new cards: of the maker's list, from a batch's master key, or a default.

They are sealed under the site's key-encryption key, each bound to what it is; in memory they are in
the clear only while one is used. A change is announced in the transaction that makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.errors import BadSignature
from schemas.sealed import seal_secret, unseal_secret
from schemas.server_event_data import TransportKeysChanged
from schemas.suites import RandomBytes, SuiteName, suite
from schemas.suites.suite import KEY_BYTES
from schemas.transport import TransportSource
from server.clock import Clock, microseconds
from server.keys.home import HomeUnavailable, KeysError
from server.store import transport as rows
from server.store.announcements import announce
from server.store.database import overwrite_freed

_SHOWN = 3
_NAMES = {
    TransportSource.LIST: "list",
    TransportSource.DERIVED: "master key",
    TransportSource.DEFAULT: "default",
}


@dataclass(frozen=True)
class Found:
    """A card's transport key, and how far it can be trusted."""

    key: bytes = field(repr=False)
    source: TransportSource


@dataclass(frozen=True)
class Imported:
    """What an import came to, in cards."""

    added: int
    replaced: int
    same: int


@dataclass(frozen=True)
class Standing:
    """What there is; `kept` are cards that were bound, whose keys stay."""

    listed: int
    kept: int
    master: SuiteName | None
    default: bool


class TransportKeys:
    """The transport keys of one site. `kek` is its key-encryption key."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        site: str,
        kek: bytes,
        random: RandomBytes,
        clock: Clock,
        announced: Callable[[], None],
    ) -> None:
        self._engine, self._site, self._clock = engine, site, clock
        self._kek, self._random, self._announced = kek, random, announced

    async def standing(self) -> Standing:
        """What there is, without a key of it."""
        async with self._engine.connect() as connection:
            counts = await rows.count_keys(connection)
            master = await rows.read_root(connection, TransportSource.DERIVED)
            default = await rows.read_root(connection, TransportSource.DEFAULT)
        return Standing(
            listed=sum(n for (source, _), n in counts.items() if source is TransportSource.LIST),
            kept=sum(n for (_, kept), n in counts.items() if kept),
            master=None if master is None else master.suite,
            default=default is not None,
        )

    async def take_list(
        self,
        keys: Mapping[str, bytes],
        by: str,
        *,
        replace: bool = False,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Imported:
        """Make a list known, all of it or nothing. `progress` is told how many are sealed.

        Raises KeysError if another key is known of one of the cards, unless `replace`.
        """
        sealed = {}
        for number, (card, key) in enumerate(keys.items(), start=1):
            sealed[card] = self._seal(key, self._card(card))
            if number % 1000 == 0:
                progress(number)
        now_us = microseconds(self._clock.now())
        try:
            async with self._engine.begin() as connection:
                known = await rows.read_keys(connection, keys)
                kinds = self._compared(keys, known)
                if kinds.other and not replace:
                    raise KeysError(_conflict(kinds.other))
                put = [c for c in keys if c not in kinds.same]
                new = [
                    rows.KeyRow(
                        card,
                        TransportSource.LIST,
                        sealed[card],
                        kept=card in kinds.proved,
                    )
                    for card in put
                ]
                if new:
                    await rows.put_keys(connection, new, known, now_us)
                    await self._announce(connection, TransportSource.LIST, by, now_us, len(new))
        except IntegrityError:
            raise KeysError(
                "another import ran at the same moment: import the list again"
            ) from None
        await self._done()
        replaced = len(kinds.other)
        return Imported(len(put) - replaced, replaced, len(keys) - len(put))

    async def take_root(
        self,
        source: TransportSource,
        key: bytes,
        by: str,
        *,
        suite: SuiteName,
        replace: bool = False,
    ) -> None:
        """Make a master key (`derived`) or a default known.

        Raises KeysError if there is another, unless `replace`.
        """
        if len(key) != KEY_BYTES:
            raise KeysError(f"a {_NAMES[source]} is {KEY_BYTES} bytes, this one is {len(key)}")
        row = rows.RootRow(source, suite, self._seal(key, self._root(source)))
        now_us = microseconds(self._clock.now())
        try:
            async with self._engine.begin() as connection:
                known = await rows.read_root(connection, source)
                if known is not None:
                    if known.suite == suite and self._open_root(known) == key:
                        return
                    if not replace:
                        raise KeysError(
                            f"there is another {_NAMES[source]} already. --replace takes this one"
                            " in its place; what was bound by the old one stays"
                        )
                    await rows.remove_root(connection, source)
                await rows.put_root(connection, row, now_us)
                await self._announce(connection, source, by, now_us)
        except IntegrityError:
            raise KeysError(
                "another command did the same at this moment: see what is there"
            ) from None
        await self._done()

    async def forget(self, source: TransportSource, by: str) -> int:
        """Forget a list, master key or default; how many keys of cards went.

        A key that a card was bound with stays. Raises KeysError if there is nothing to forget.
        """
        now_us = microseconds(self._clock.now())
        async with self._engine.begin() as connection:
            root = await rows.remove_root(connection, source)
            cards = await rows.forget_keys(connection, source)
            if not root and not cards:
                raise KeysError(f"there is no {_NAMES[source]} that could be forgotten")
            listed = cards if source is TransportSource.LIST else 0
            await self._announce(connection, source, by, now_us, listed, added=False)
        await self._done()
        return cards

    async def give(self, connection: AsyncConnection, card: str) -> Found | None:
        """The key of a card that is to be told now, remembered as the one it was told.

        One that it was bound with before comes first: the card has shown it. Raises KeysError.
        """
        known = (await rows.read_keys(connection, [card])).get(card)
        if known is not None and (known.kept or known.source is TransportSource.LIST):
            return Found(self._open(known.sealed, self._card(card)), known.source)
        found = await self._from_roots(connection, card)
        if found is not None:
            sealed = self._seal(found.key, self._card(card))
            row = rows.KeyRow(card, found.source, sealed, kept=False)
            now_us = microseconds(self._clock.now())
            await rows.put_keys(connection, [row], () if known is None else (card,), now_us)
        return found

    async def _from_roots(self, connection: AsyncConnection, card: str) -> Found | None:
        master = await rows.read_root(connection, TransportSource.DERIVED)
        if master is not None:
            key = suite(master.suite).diversify(self._open_root(master), bytes.fromhex(card))
            return Found(key, TransportSource.DERIVED)
        default = await rows.read_root(connection, TransportSource.DEFAULT)
        if default is None:
            return None
        return Found(self._open_root(default), TransportSource.DEFAULT)

    def _compared(self, keys: Mapping[str, bytes], known: Mapping[str, rows.KeyRow]) -> _Compared:
        result = _Compared()
        for card, row in known.items():
            listed = row.source is TransportSource.LIST
            if not listed and not row.kept:
                continue  # given once, and nothing came of it
            if self._open(row.sealed, self._card(card)) != keys[card]:
                result.other.add(card)
            elif listed:
                result.same.add(card)
            elif row.kept:
                result.proved.add(card)
        return result

    async def _announce(
        self,
        connection: AsyncConnection,
        source: TransportSource,
        by: str,
        now_us: int,
        cards: int = 0,
        *,
        added: bool = True,
    ) -> None:
        data = TransportKeysChanged(
            by=by, source=source, cards=cards, action="added" if added else "removed"
        )
        await announce(connection, "keys.transport_changed", f"sites/{self._site}", data, now_us)

    async def _done(self) -> None:
        self._announced()
        await overwrite_freed(self._engine)

    def _seal(self, key: bytes, context: str) -> bytes:
        return seal_secret(self._kek, key, context, self._random)

    def _open(self, sealed: bytes, context: str) -> bytes:
        try:
            return unseal_secret(self._kek, sealed, context)
        except BadSignature as error:
            raise HomeUnavailable(
                f"{error}: start with the key-encryption key that the site was made with, or forget"
                " the transport keys and import them again"
            ) from None

    def _open_root(self, row: rows.RootRow) -> bytes:
        return self._open(row.sealed, self._root(row.source))

    def _card(self, card: str) -> str:
        return f"{self._site}/transport/{card}"

    def _root(self, source: TransportSource) -> str:
        return f"{self._site}/transport-{source}"


@dataclass
class _Compared:
    same: set[str] = field(default_factory=set)
    other: set[str] = field(default_factory=set)
    proved: set[str] = field(default_factory=set)
    """Derived or default, the same, and a card was bound with it."""


def _conflict(cards: set[str]) -> str:
    few = ", ".join(sorted(cards)[:_SHOWN])
    more = f" and {len(cards) - _SHOWN} more" if len(cards) > _SHOWN else ""
    return (
        f"another transport key is known of {few}{more}. Nothing was imported: see which list is"
        " right; --replace takes this one's keys"
    )
