"""Checking many messages on several threads, and again those of agents that were just added."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from schemas.envelope import KeyRing
from server.ingest.registry import Registry
from server.ingest.verify import AlarmKind, Refusal
from server.store.database import DATABASE_ERRORS

log = structlog.get_logger(__name__)
Result = TypeVar("Result")
Check = Callable[[str, bytes, KeyRing], Result]
"""What a message says, or why it is refused: by its topic, its payload and the keys that count."""


async def check_all(
    messages: Sequence[tuple[str, bytes]],
    check: Check[Result],
    *,
    registry: Registry,
    executor: ThreadPoolExecutor,
    threads: int,
) -> list[Result | Refusal]:
    """What `check` makes of each message, in their order; it runs on `threads` of the executor."""

    async def spread(some: Sequence[tuple[str, bytes]]) -> list[Result | Refusal]:
        loop, ring = asyncio.get_running_loop(), registry.ring
        share = -(-len(some) // threads)
        parts = await asyncio.gather(
            *(
                loop.run_in_executor(executor, _check_some, some[at : at + share], check, ring)
                for at in range(0, len(some), share)
            )
        )
        return [result for part in parts for result in part]

    checked = await spread(messages)
    unknown = [
        n
        for n, result in enumerate(checked)
        if isinstance(result, Refusal) and result.kind is AlarmKind.UNKNOWN_KEY
    ]
    if unknown and await _more_agents(registry):
        again = await spread([messages[n] for n in unknown])
        for n, result in zip(unknown, again, strict=True):
            checked[n] = result
    return checked


def _check_some(
    messages: Sequence[tuple[str, bytes]], check: Check[Result], ring: KeyRing
) -> list[Result | Refusal]:
    return [_check_one(topic, payload, check, ring) for topic, payload in messages]


def _check_one(topic: str, payload: bytes, check: Check[Result], ring: KeyRing) -> Result | Refusal:
    try:
        return check(topic, payload, ring)
    except Exception as error:  # a fault of ours: it must stop neither the server nor the others
        log.exception("message_not_checked", topic=topic[:200])
        said = f"a message could not be checked: {type(error).__name__}; see the server's log"
        return Refusal(AlarmKind.MALFORMED, None, said)


async def _more_agents(registry: Registry) -> bool:
    """Whether agents were added just now. One that can't be read of now will send again."""
    try:
        return await registry.refresh()
    except DATABASE_ERRORS as error:
        log.error(
            "agents_not_read",
            why=str(error)[:500],
            next_step="check the database; agents added just now are not heard so long",
        )
        return False
