"""What an agent's request comes to: a place in one ESAM, and a statement for that agent. Pure.

The bytes themselves are `schemas.esam`; the keys are asked of their home.
"""

from __future__ import annotations

from datetime import datetime

from schemas.esam import KeyPlace
from schemas.keys import PACKAGE_LIFE, CheckValues, KeyPackage, KeyRequest


def place_of(request: KeyRequest) -> KeyPlace:
    """What the request wants changed, in which ESAM."""
    return KeyPlace(bytes.fromhex(request.esam), request.index, request.item, request.version)


def answer(
    request: KeyRequest,
    agent: str,
    body: bytes,
    check_values: CheckValues | None,
    *,
    issued: datetime,
    counter: int,
) -> KeyPackage:
    """The package for the agent that asked; it must not outlive the challenge by much."""
    return KeyPackage(
        site=request.site,
        audience=agent,
        issued=issued,
        expires=issued + PACKAGE_LIFE,
        counter=counter,
        session=request.session,
        esam=request.esam,
        domain=request.domain,
        index=request.index,
        version=request.version,
        item=request.item,
        challenge=request.challenge,
        check_values=check_values,
        body=body.hex(),
    )
