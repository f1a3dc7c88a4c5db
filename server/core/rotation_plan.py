"""When a key domain may be moved to another version. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from schemas.keys import MAX_KEY_VERSION, MAX_VERSIONS
from server.core.rotation import Campaign, Domain, NotNow


def plan(
    identity: str,
    domain: Domain,
    to_version: int,
    deadline: datetime,
    past: Collection[Campaign] = (),
) -> Campaign:
    """A campaign to a version that the domain never had. `past`: its campaigns so far.

    A card has two key slots: so there is one campaign at a time in a domain, and the next one waits
    until no door accepts the old version. Raises NotNow.
    """
    for other in past:
        if not other.ended:
            raise NotNow(
                f"rotation {other.id} of domain {domain.name} is {other.state}: let it end, or roll"
                " it back"
            )
    if domain.accepted:
        raise NotNow(f"doors of {domain.name} still accept key version {domain.accepted[0]}")
    newest = max((domain.preferred, *(max(o.from_version, o.to_version) for o in past)))
    if not newest < to_version <= MAX_KEY_VERSION:
        raise NotNow(
            f"key version {to_version} of {domain.name} can't be next: {newest} was there already,"
            f" and {MAX_KEY_VERSION} is the last"
        )
    held = {to_version, *(v for v in domain.checks if v >= domain.floor)}
    if len(held) > MAX_VERSIONS:
        raise NotNow(
            f"locks of {domain.name} hold {MAX_VERSIONS} versions already, for so many rotations"
            " were rolled back: a lock takes no more. Make a new domain"
        )
    return Campaign(identity, domain.name, domain.preferred, to_version, deadline)
