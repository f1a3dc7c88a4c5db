"""Asks the key authority for packages, each for one challenge of one ESAM.

One question of an agent is open at a time: its ESAM has one challenge, and the authority answers
the newest question. A package counts for the very question it answers, and is handed on once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiomqtt

from edge_agent.log import log
from edge_agent.neighbours import Say
from edge_agent.recorder import Recorder
from edge_agent.secure_element.esam_chip import Esam
from edge_agent.trust_store import TrustStore
from schemas.envelope import Signer
from schemas.errors import Replayed
from schemas.keys import Item, KeyPackage, KeyRequest, KeyVersion
from schemas.names import SERVER
from schemas.statement import sign_statement
from schemas.topics import KEYS

RECONNECTED_S = 60.0
"""How long a question waits for another connection when there is none, or when it broke."""
_NAMED = ("session", "esam", "domain", "index", "version", "item", "challenge")


@dataclass(frozen=True)
class _Question:
    request: KeyRequest
    answer: asyncio.Future[KeyPackage]


class KeyPackages:
    """The questions of one agent."""

    def __init__(self, store: TrustStore, recorder: Recorder, signer: Signer) -> None:
        self._store = store
        self._recorder = recorder
        self._signer = signer
        self._say: Say | None = None
        self._session = ""
        self._count = 0
        self._open: _Question | None = None
        self._turn = asyncio.Lock()
        self._connection = asyncio.Event()

    def connected(self, say: Say, session: str) -> None:
        """Ask by this connection from now on. What another one asked is answered no more."""
        self._say, self._session, self._count = say, session, 0
        if self._open is not None and not self._open.answer.done():
            self._open.answer.set_exception(ConnectionError("there is another connection now"))
        self._connection.set()

    def packaged(self, package: KeyPackage) -> None:
        """Take a package whose signature, audience and time were verified.

        Raises Replayed if it is not the one that is waited for.
        """
        question = self._open
        if question is None or question.answer.done() or not _answers(question.request, package):
            raise Replayed(
                f"no {package.item} of version {package.version} of domain {package.domain} is"
                " waited for, or not for this challenge"
            )
        question.answer.set_result(package)

    async def ask(
        self, esam: Esam, domain: str, item: Item, version: KeyVersion, patience_s: float
    ) -> KeyPackage | None:
        """A package for a fresh challenge of the ESAM; None: none came. Raises EsamUnavailable."""
        async with self._turn:
            challenge = await esam.challenge()
            self._connection.clear()
            try:
                async with asyncio.timeout(patience_s):
                    return await self._answer(esam, domain, item, version, challenge)
            except TimeoutError:
                log.warning("key_package_late", domain=domain, item=item, after_s=patience_s)
                return None
            except (aiomqtt.MqttError, OSError) as error:
                log.info("key_package_not_asked_for", domain=domain, item=item, why=str(error))
            finally:
                self._open = None
        try:
            async with asyncio.timeout(RECONNECTED_S):
                await self._connection.wait()
        except TimeoutError:
            log.warning("key_package_not_asked_for", domain=domain, item=item, why="no connection")
        return None

    async def _answer(
        self, esam: Esam, domain: str, item: Item, version: KeyVersion, challenge: bytes
    ) -> KeyPackage:
        if self._say is None:
            raise ConnectionError("there was no connection yet")
        self._count += 1
        request = KeyRequest(
            site=self._store.state.root.site,
            audience=SERVER,
            issued=self._recorder.judge_time()[0],
            counter=self._count,
            session=self._session,
            esam=esam.serial.hex(),
            domain=domain,
            index=esam.index(domain),
            version=version,
            item=item,
            challenge=challenge.hex(),
        )
        question = self._open = _Question(request, asyncio.get_running_loop().create_future())
        await self._say(KEYS, sign_statement(request, self._signer))
        return await question.answer


def _answers(request: KeyRequest, package: KeyPackage) -> bool:
    return all(getattr(request, name) == getattr(package, name) for name in _NAMED)
