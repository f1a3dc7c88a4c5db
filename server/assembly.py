"""The parts of a running server, made and joined: `server.app` starts and stops them."""

from __future__ import annotations

import random
import secrets
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from schemas.events import event_name
from schemas.topics import ROOT, everyone
from server.broker.dynamic_security import MosquittoRights
from server.broker.joining import rights_at, tls_to_broker
from server.broker.link import Link
from server.config import ServerConfig
from server.distribution.commands import CommandMetrics, Commands, Session
from server.distribution.convergence import Convergence
from server.distribution.handing import Handing
from server.distribution.heartbeats import Facts, HeartbeatMetrics, Heartbeats
from server.distribution.inbox import Inbox
from server.distribution.key_work import open_keys
from server.distribution.lock_keys import LockKeys
from server.distribution.lockdowns import Lockdowns
from server.distribution.policies import Policies
from server.distribution.presence import Presence
from server.distribution.pulls import Pulls
from server.distribution.revocation_messages import RevocationMessages
from server.distribution.revocations import Revocations
from server.distribution.rotation_work import open_rotations
from server.enrolment.desk import open_desk
from server.enrolment.reception import Reached
from server.ingest.acknowledge import Acknowledger
from server.ingest.heads import Row
from server.ingest.intake import Intake
from server.ingest.journal import Journal
from server.ingest.ledger import Ledger
from server.ingest.metrics import IngestMetrics
from server.ingest.pipeline import Pipeline
from server.ingest.registry import Registry
from server.model.bound import Bound
from server.model.reading import served_doors
from server.pki import Authority
from server.site import Site
from server.state import ServerState
from server.tls import listener_files

VERIFY_THREADS = 2
"""Curve arithmetic releases the interpreter lock; parsing does not, so more bring nothing."""


@dataclass(frozen=True)
class Where:
    """The broker's URL for the server itself, its client id there, and where devices find us."""

    broker: str
    client_id: str
    reached: Reached


class Assembly:
    """Everything between broker, database and API; `load` before anything runs."""

    def __init__(
        self,
        *,
        site: Site,
        authority: Authority,
        config: ServerConfig,
        environ: Mapping[str, str],
        state: ServerState,
        where: Where,
        stack: ExitStack,
    ) -> None:
        """Raises SiteError if a key can't be had."""
        self.site, self.state = site, state
        online = site.signer("online", environ)
        engine, clock, metrics = state.engine, state.clock, state.registry

        def threads(count: int, name: str) -> ThreadPoolExecutor:
            return stack.enter_context(ThreadPoolExecutor(count, name))

        verifying, signing = threads(VERIFY_THREADS, "verify"), threads(1, "sign")
        ingest_metrics = IngestMetrics(metrics)
        self.registry = Registry(engine, site.suite, clock)
        self._bound, lock_keys = Bound(clock), LockKeys(clock)
        self.ledger = Ledger(engine, [self._bound.project, lock_keys.project])
        self.intake = Intake()
        self.link = Link(
            url=where.broker,
            site=site.name,
            intake=self.intake,
            status=state.link,
            clock=clock,
            metrics=ingest_metrics,
            uniform=random.SystemRandom().uniform,
            client_id=where.client_id,
            offer=self._offer,
            control=self._control,
            tls=tls_to_broker(site, authority, where.broker, where.client_id, clock),
        )
        self.rights = rights_at(site, config, self.link)
        self.acknowledger = Acknowledger(
            site=site.name,
            signer=online,
            publish=self.link.publish,
            executor=signing,
            clock=clock,
            metrics=ingest_metrics,
            others_wait=lambda: len(self.intake) > 0,
        )
        self.pipeline = Pipeline(
            site=site.name,
            suite=site.suite,
            intake=self.intake,
            registry=self.registry,
            ledger=self.ledger,
            journal=Journal(site.name, site.suite, online, lambda: secrets.token_hex(8)),
            acknowledger=self.acknowledger,
            hub=state.hub,
            clock=clock,
            metrics=ingest_metrics,
            executor=verifying,
            threads=VERIFY_THREADS,
            engine=engine,
            committed=self._committed,
            reloaded=self._model_changed,
        )
        announced, alarm, publish = self.pipeline.announced, self.pipeline.alarm, self._publish
        self.heartbeats = Heartbeats(
            engine=engine,
            site=site.name,
            signer=online,
            publish=publish,
            executor=threads(1, "heartbeat"),
            clock=clock,
            connected=self._is_connected,
            agents=lambda: self.registry.agents,
            facts=self._facts,
            metrics=HeartbeatMetrics(metrics),
        )
        self.presence = Presence(
            engine=engine,
            link=state.link,
            clock=clock,
            alarm=alarm,
            announced=announced,
            new_session=self._new_session,
        )
        self.revocations = Revocations(
            engine=engine,
            site=site.name,
            suite=site.suite,
            messages=RevocationMessages(
                engine=engine,
                site=site.name,
                suite=site.suite,
                signer=site.signer("revoke", environ),
                executor=signing,
                clock=clock,
            ),
            publish=publish,
            clock=clock,
            announced=announced,
            alarm=alarm,
        )
        self.lockdowns = Lockdowns(
            engine=engine,
            root=lambda: site.root,
            signer=online,
            publish=publish,
            executor=signing,
            clock=clock,
            announced=announced,
            alarm=alarm,
            new_id=lambda: secrets.token_hex(4),
        )
        self.policies = Policies(
            engine=engine,
            root=lambda: site.root,
            suite=site.suite,
            signer=site.signer("policy", environ),
            executor=threads(1, "policy"),
            clock=clock,
            metrics=metrics,
            publish=publish,
            live=lambda agent: self.presence.session(agent) is not None,
            beat=self.heartbeats.beat,
            announced=announced,
            alarm=alarm,
        )
        self.commands = Commands(
            engine=engine,
            site=site.name,
            signer=online,
            publish=publish,
            executor=threads(1, "command"),
            clock=clock,
            announced=announced,
            connected=self._is_connected,
            session=self._session,
            new_id=lambda: secrets.token_hex(8),
            metrics=CommandMetrics(metrics),
        )
        self.pulls = Pulls(
            site=site.name,
            root_after=site.root_after,
            policies=self.policies,
            revocations=self.revocations,
            lockdowns=self.lockdowns,
            publish=publish,
            metrics=metrics,
        )
        state.announced = announced
        self.desk = open_desk(
            state,
            site,
            authority,
            registry=self.registry,
            rights=self.rights,
            signer=online,
            publish=publish,
            reached=where.reached,
            tls=listener_files(site.path, authority, where.reached.host, clock.now()),
            came=self.heartbeats.beat,
            went=self._went,
        )
        self.keys = open_keys(
            state,
            site,
            config,
            environ,
            publish=publish,
            session=self.presence.session,
            alarm=alarm,
            announced=announced,
            threads=threads,
            signers=VERIFY_THREADS,
        )
        self.rotations = open_rotations(
            state,
            site,
            environ,
            authority=self.keys.authority,
            lock_keys=lock_keys,
            publish=publish,
            executor=threads(1, "stage"),
            present=self.presence.live,
            announced=announced,
            policies_changed=self.policies.model_changed,
            alarm=alarm,
        )
        self.inbox = Inbox(
            site=site.name,
            registry=self.registry,
            executor=threads(VERIFY_THREADS, "hear"),
            threads=VERIFY_THREADS,
            clock=clock,
            metrics=metrics,
            refused=alarm,
            handlers=Handing(
                site=site,
                presence=self.presence,
                policies=self.policies,
                revocations=self.revocations,
                lockdowns=self.lockdowns,
                pulls=self.pulls,
                renewals=self.desk.renewals,
                key_requests=self.keys.requests,
                transport_requests=self.keys.transport,
            ),
        )
        self.convergence = Convergence(
            engine=engine,
            clock=clock,
            root=lambda: site.root.version,
            policy=self.policies.newest,
            revocation=lambda: self.revocations.head,
            lockdown=lambda: self.lockdowns.counter,
            applied=lambda: self.ledger.applied,
            agents=lambda: self.registry.agents,
            doors=self._doors_of,
            alarm=alarm,
            announced=announced,
        )
        self._tell(environ)

    def _tell(self, environ: Mapping[str, str]) -> None:
        state = self.state
        state.the_site, state.environ = self.site, environ
        state.presence, state.policies = self.presence, self.policies
        state.revocations, state.lockdowns = self.revocations, self.lockdowns
        state.commands, state.heartbeats = self.commands, self.heartbeats
        state.keys, state.esams = self.keys.authority, self.keys.esams
        state.enrolments, state.convergence = self.desk.enrolments, self.convergence
        state.rotations, state.model_changed = self.rotations, self._model_changed
        state.served_doors = self._served_doors

    async def load(self) -> None:
        """Read where everything stands."""
        await self.registry.refresh(now=True)
        await self.ledger.load()
        await self.presence.load()
        await self.revocations.load()
        await self.lockdowns.load()
        await self.policies.load()
        await self.rotations.load()
        await self.heartbeats.load()

    async def welcome(self) -> None:
        """The broker's connection stands: what it may have missed is told again.

        Raises ConnectionError if it broke meanwhile.
        """
        self.pipeline.greet()
        await self.lockdowns.republish()  # first: a broker may take no orders about rights
        await self.rights.reconcile(self.registry.agents)

    async def publish_root(self) -> None:
        """Tell every agent that is there of the root documents that are newer than ours.

        Raises ConnectionError.
        """
        for envelope in self.site.root_after(self.site.root.version):
            await self._publish(everyone(self.site.name, ROOT), envelope, False)

    def _went(self, agent: str) -> None:
        self.ledger.forget_receipts(agent)
        self.presence.forget(agent)
        self.heartbeats.forget(agent)

    def _publish(self, topic: str, payload: bytes, retain: bool) -> Awaitable[None]:
        return self.link.publish(topic, payload, retain=retain)

    def _offer(self, topic: str, payload: bytes) -> bool:
        return self.inbox.offer(topic, payload)

    def _control(self, payload: bytes) -> None:
        if isinstance(self.rights, MosquittoRights):
            self.rights.heard(payload)

    def _is_connected(self) -> bool:
        return self.state.link.connected

    def _committed(self, rows: Sequence[Row]) -> None:
        for row in rows:
            name = event_name(row.link.event.type)
            if name in ("command.executed", "command.refused"):
                self.commands.result(name, row.link.event.data, row.source)
        bound = self._bound.taken()
        if bound.policies:
            self.policies.model_changed()
        if bound.announced:
            self.pipeline.announced()
        for refusal in bound.alarms:
            self.pipeline.alarm(refusal)
        self.rotations.told()

    def _model_changed(self) -> None:
        self.policies.model_changed()
        self.rotations.model_changed()

    def _facts(self, agent: str) -> Facts | None:
        if self.presence.session(agent) is None:
            # Kept by the broker, it would lengthen what a door that is cut off may still let in.
            return None
        return Facts(
            root=self.site.root.version,
            policy=self.policies.newest(agent),
            revocation=self.revocations.head,
            lockdown=self.lockdowns.named(agent),
            key_floors=self.rotations.floors(agent),
        )

    def _new_session(self, agent: str) -> None:
        self.heartbeats.beat(agent)
        self.rotations.came(agent)

    def _session(self, agent: str) -> Session | None:
        report = self.presence.report(agent)
        name = self.presence.session(agent)
        return None if report is None or name is None else Session(name, report.command)

    def _doors_of(self, agent: str) -> list[str]:
        return sorted(self.ledger.doors.of(agent))

    async def _served_doors(self) -> list[tuple[str, str]]:
        async with self.state.engine.connect() as connection:
            return await served_doors(connection)
