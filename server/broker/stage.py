"""Who is there while a broker is tried, and what was found."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field

from server.broker.bare import Bare, Heard, TurnedAway, Will, bare
from server.broker.dynamic_security import MosquittoRights
from server.broker.grants import (
    CONTROL_ANSWERS,
    PROBE,
    agent_grant,
    checker_id,
)
from server.broker.rights import Rights


@dataclass(frozen=True)
class Finding:
    """What was tried, and what came of it."""

    attempt: str
    expected: str
    seen: str
    ok: bool


@dataclass(frozen=True)
class Target:
    """A broker, and the means to be anyone there."""

    site: str
    host: str
    port: int
    tls: Callable[[str], ssl.SSLContext]
    """With a certificate of the site for that name."""
    stranger: Callable[[str | None], ssl.SSLContext]
    """With one of another authority for that name, or with none."""
    rights: Rights | None
    """None: mosquitto, to which orders go over the checker's own connection."""

    def enter(
        self,
        name: str,
        client_id: str | None = None,
        *,
        will: Will | None = None,
    ) -> AbstractAsyncContextManager[Bare]:
        """Connect as `name`. Raises TurnedAway."""
        return bare(self.host, self.port, client_id or name, self.tls(name), will)


@dataclass
class Stage:
    """Who is there while attempts are made."""

    target: Target
    observer: Bare
    rights: Rights
    findings: list[Finding] = field(default_factory=list)
    _marks: int = 0
    _token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def site(self) -> str:
        """The site's name."""
        return self.target.site

    def mark(self) -> bytes:
        """What a message says that is not like any other."""
        self._marks += 1
        return f"check {self._token} {self._marks}".encode()

    def topic(self, rest: str) -> str:
        """A topic of the site."""
        return f"ostiary/{self.site}/{rest}"

    def found(self, attempt: str, seen: str, *, ok: bool, expected: str = "nothing") -> None:
        """Note what came of an attempt."""
        self.findings.append(Finding(attempt, expected, seen, ok))

    async def passes(
        self, probe: Bare, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False
    ) -> bool:
        """Let the probe publish, cut off for it or not; whether all is told afterwards."""
        with suppress(TurnedAway):
            await probe.publish(topic, payload, qos=qos, retain=retain)
        return await self.settle(probe)

    async def settle(self, probe: Bare | None = None) -> bool:
        """Wait until whatever the probe sent before would have been passed on.

        A broker passes on one client's messages in order (MQTT 4.6), so it is enough to see one
        that may pass. If the probe's connection is gone, it comes back for that.
        """
        fence = self.mark()
        topic = self.topic(f"up/{PROBE}/will")
        try:
            if probe is None or probe.gone.is_set():
                async with self.target.enter(PROBE) as again:
                    await again.publish(topic, fence)
                    return await self.observer.hears(fence)
            await probe.publish(topic, fence)
        except TurnedAway:
            if probe is not None and not probe.gone.is_set():
                return False
            return await self.settle() if probe is not None else False
        return await self._heard(fence, probe)

    async def _heard(self, fence: bytes, probe: Bare) -> bool:
        """A broker that cuts the probe off may have confirmed the fence, and not pass it on."""
        tasks = (
            asyncio.ensure_future(self.observer.hears(fence)),
            asyncio.ensure_future(probe.gone.wait()),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        heard = tasks[0]
        return heard.result() if heard.done() else await self.settle()


@asynccontextmanager
async def observing(target: Target) -> AsyncIterator[Stage]:
    """Look on, and be able to let agents in. Raises TurnedAway."""
    async with target.enter(checker_id(target.site)) as observer:
        rights = target.rights
        if rights is None:
            orders = MosquittoRights(target.site, observer.publish)

            def answered(message: Heard) -> None:
                if message.topic == CONTROL_ANSWERS:
                    orders.heard(message.payload)

            observer.on_message = answered
            await observer.subscribe(CONTROL_ANSWERS)
            rights = orders
        await observer.subscribe(f"ostiary/{target.site}/#")
        yield Stage(target, observer, rights)


def may_hear(site: str, topic: str) -> bool:
    """Whether the probe has a right to what is said there."""
    return agent_grant(site, PROBE).may_subscribe(topic)
