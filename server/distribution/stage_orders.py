"""Orders to locks about keys: signed by the `keys` role, one agent each, good for a minute."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

import structlog

from schemas.envelope import Signer
from schemas.keys import PACKAGE_LIFE, StageOrder
from schemas.statement import sign_statement
from schemas.suites import SuiteName
from schemas.topics import STAGE, down
from server.clock import Clock, microseconds
from server.core.rotation import Order
from server.distribution.publish import Publish

_NAMED = 3
"""So many locks are named in the log."""

log = structlog.get_logger(__name__)


class StageOrders:
    """`signer` holds the role `keys`."""

    def __init__(
        self, *, site: str, signer: Signer, publish: Publish, executor: Executor, clock: Clock
    ) -> None:
        self._site, self._signer, self._publish = site, signer, publish
        self._executor, self._clock = executor, clock
        self._counter = 0

    async def send(self, domain: str, suite: SuiteName, orders: Sequence[Order]) -> None:
        """Tell these locks. One that can't be sent is due again later."""
        now = self._clock.now()
        statements = []
        for order in orders:
            self._counter = max(self._counter + 1, microseconds(now))
            statements.append(
                StageOrder(
                    site=self._site,
                    audience=order.agent,
                    issued=now,
                    expires=now + PACKAGE_LIFE,
                    counter=self._counter,
                    domain=domain,
                    suite=suite,
                    version=order.version,
                    check_values=order.checks,
                    floor=order.floor,
                )
            )
        envelopes = await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: [sign_statement(each, self._signer) for each in statements]
        )
        log.info("stage_orders", domain=domain, locks=[order.agent for order in orders][:_NAMED])
        for statement, envelope in zip(statements, envelopes, strict=True):
            try:
                await self._publish(down(self._site, statement.audience, STAGE), envelope, False)
            except ConnectionError as error:
                log.info("stage_orders_not_sent", domain=domain, why=str(error))
                return
