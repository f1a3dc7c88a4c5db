"""Where each thing that an agent says or asks goes, once the inbox has verified it."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.enrolment import Renewal
from schemas.keys import KeyRequest
from schemas.report import Pull, Report
from schemas.transport import TransportRequest
from server.distribution.key_requests import KeyRequests
from server.distribution.lockdowns import Lockdowns
from server.distribution.policies import Policies
from server.distribution.presence import Presence
from server.distribution.pulls import Pulls
from server.distribution.revocations import Revocations
from server.distribution.transport_requests import TransportRequests
from server.enrolment.renewals import Renewals
from server.site import Site


@dataclass(frozen=True)
class Handing:
    """The handlers of `server.distribution.inbox`."""

    site: Site
    presence: Presence
    policies: Policies
    revocations: Revocations
    lockdowns: Lockdowns
    pulls: Pulls
    renewals: Renewals
    key_requests: KeyRequests
    transport_requests: TransportRequests

    def heard(self, agent: str, report: Report) -> None:
        """A verified report."""
        if not self.presence.heard(agent, report):
            return  # played again: what it says was so once
        self.policies.reported(agent, report.policy)
        self.revocations.reported(agent, report.revocation)
        self.lockdowns.reported(agent, report.lockdown)
        if report.root < self.site.root.version:
            # Its heartbeat may be signed by a key that this agent has not heard of.
            self.pulls.answer(
                agent,
                Pull(
                    site=self.site.name,
                    audience=report.audience,
                    issued=report.issued,
                    counter=0,
                    session=report.session,
                    root_after=report.root,
                ),
            )

    def pulled(self, agent: str, pull: Pull) -> None:
        """A verified pull."""
        self.pulls.answer(agent, pull)

    def broken(self, agent: str) -> None:
        """The broker says that the agent's connection broke."""
        self.presence.broken(agent)

    async def renewed(self, agent: str, renewal: Renewal) -> None:
        """A verified request for a certificate."""
        await self.renewals.answer(agent, renewal)

    def keys_asked(self, agent: str, request: KeyRequest) -> None:
        """A verified request for a key package."""
        self.key_requests.asked(agent, request)

    def transport_asked(self, agent: str, request: TransportRequest) -> None:
        """A verified request for a card's transport key."""
        self.transport_requests.asked(agent, request)
