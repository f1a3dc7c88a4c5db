"""`ostiary broker check`: tries what must not work at a broker, and sees whether it does.

Two agents that are nobody's are let in for as long as it takes: a probe that tries, and a victim
whose topics it is after. A third connection looks on. What counts is what arrives: a broker may
accept a subscription or a message and pass nothing on, or refuse it and pass it on all the same.
"""

from __future__ import annotations

from server.broker.attempts import attempt_everything
from server.broker.bare import TurnedAway
from server.broker.grants import PROBE, VICTIM
from server.broker.rights import Rights
from server.broker.stage import Finding, Target, observing


class CheckImpossible(Exception):
    """The broker does not let the check itself do its work; the message says what to do."""


async def check_broker(target: Target) -> list[Finding]:
    """Everything that was tried, in order. Raises CheckImpossible.

    Whatever happens, the two agents are cut off again at the end.
    """
    findings: list[Finding] = []
    let_in = False
    try:
        async with observing(target) as stage:
            let_in, stage.findings = True, findings
            for agent in (PROBE, VICTIM):
                await stage.rights.admit(agent)
            await attempt_everything(stage)
            return findings
    except (TurnedAway, ConnectionError) as error:
        if any(not finding.ok for finding in findings):  # no wonder
            return [*findings, Finding("go on from there", "possible", str(error), ok=False)]
        raise CheckImpossible(
            f"the broker at {target.host}:{target.port} does not serve the check itself: {error};"
            " see that it runs, with what `ostiary broker config mosquitto` or `ostiary serve` set"
            " up for this very site"
        ) from error
    finally:
        if let_in:
            await _expel(target)


async def _expel(target: Target) -> None:
    """On a connection of its own, if one is needed: the other may be gone."""
    if target.rights is not None:
        await _cut_off(target.rights)
        return
    try:
        async with observing(target) as stage:
            await _cut_off(stage.rights)
    except (TurnedAway, ConnectionError) as error:
        raise CheckImpossible(
            f"the check's own agents {PROBE} and {VICTIM} may still have rights at the broker:"
            f" {error}; their certificates run out soon, and `ostiary serve` takes the rights away"
            " when it connects"
        ) from error


async def _cut_off(rights: Rights) -> None:
    for agent in (PROBE, VICTIM):
        await rights.expel(agent)
