"""mosquitto's dynamic-security plugin: the rights it starts with, and orders to it over MQTT.

https://mosquitto.org/documentation/dynamic-security/ (seen to hold with 2.0.11)

Every client has one role, named like it, and no password: its certificate is how it is known. To
disable a client is not enough, since the plugin heeds that only where it checks a password: one
that is cut off is deleted, and its role with it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from server.broker.grants import CONTROL, Grant, agent_grant, grants, refuse_own

ANSWER_S = 10.0
_ORDERS_AT_ONCE = 10
"""In one message: the plugin writes its whole file after each order, while the broker waits."""
_PAGE = 200
_DEFAULTS = ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe")

Order = dict[str, Any]
Acl = tuple[str, str]
"""The kind of access, and the topic filter; whatever is not granted is denied."""


def rights_document(site: str, agents: Iterable[str]) -> bytes:
    """The plugin's file for a broker that has not run yet. Raises ValueError."""
    every = grants(site, agents)
    document = {
        "defaultACLAccess": dict.fromkeys(_DEFAULTS, False),
        "clients": [{"username": name, "roles": _role_of(name)} for name in every],
        "groups": [],
        "roles": [{"rolename": name, "acls": _acls(grant)} for name, grant in every.items()],
    }
    return json.dumps(document, indent=1).encode()


class MosquittoRights:
    """Rights by orders to the plugin, over the connection of a client that may give them.

    `publish` sends to CONTROL; whoever receives on CONTROL_ANSWERS hands it to `heard`.
    """

    def __init__(self, site: str, publish: Callable[[str, bytes], Awaitable[None]]) -> None:
        self._site, self._publish = site, publish
        self._waiting: dict[str, asyncio.Future[list[Order]]] = {}
        self._turn = asyncio.Lock()

    def heard(self, payload: bytes) -> None:
        """Take an answer of the plugin; what is none, or comes too late, is passed over."""
        try:
            answers = json.loads(payload)["responses"]
            which = answers[0]["correlationData"]
        except (ValueError, KeyError, IndexError, TypeError):
            return
        waiter = self._waiting.get(which) if isinstance(which, str) else None
        if waiter is not None and not waiter.done():
            waiter.set_result(answers)

    async def admit(self, agent: str) -> None:
        """Raises ConnectionError, or ValueError for a name that no agent may have."""
        grant = agent_grant(self._site, refuse_own(self._site, agent))
        async with self._turn:
            answers = await self._give(_creation(agent, grant))
            if any("already exists" in str(answer.get("error")) for answer in answers):
                await self._give([*_removal(agent), *_creation(agent, grant)])

    async def expel(self, agent: str) -> None:
        """Raises ConnectionError."""
        async with self._turn:
            await self._give(_removal(refuse_own(self._site, agent)))

    async def reconcile(self, agents: Iterable[str]) -> None:
        """Raises ConnectionError, or ValueError for a name that no agent may have."""
        wanted = {name: _needed(grant) for name, grant in grants(self._site, agents).items()}
        async with self._turn:
            roles = {r["rolename"]: _held(r) async for r in self._all("listRoles", "roles")}
            clients = {c["username"]: c async for c in self._all("listClients", "clients")}
            orders: list[Order] = [_nothing_by_default()]
            for name in clients.keys() - wanted.keys():
                orders.append({"command": "deleteClient", "username": name})
            for name in roles.keys() - wanted.keys():
                orders.append({"command": "deleteRole", "rolename": name})
            for name, needed in wanted.items():
                if roles.get(name) != needed:
                    verb = "modifyRole" if name in roles else "createRole"
                    orders.append({"command": verb, "rolename": name, "acls": _listed(needed)})
                if not _is_plain(clients.get(name), name):
                    verb = "modifyClient" if name in clients else "createClient"
                    orders.append(
                        {"command": verb, "username": name, "roles": _role_of(name), "groups": []}
                    )
            pending = iter(orders)
            while batch := list(islice(pending, _ORDERS_AT_ONCE)):
                await self._give(batch)

    async def _all(self, command: str, what: str) -> Any:
        offset = 0
        while True:
            ask = {"command": command, "verbose": True, "count": _PAGE, "offset": offset}
            page = (await self._give([ask]))[0]["data"][what]
            for each in page:
                yield each
            offset += len(page)
            if len(page) < _PAGE:
                return

    async def _give(self, orders: list[Order]) -> list[Order]:
        which = secrets.token_hex(8)
        numbered = [{**order, "correlationData": which} for order in orders]
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[which] = waiter
        try:
            await self._publish(CONTROL, json.dumps({"commands": numbered}).encode())
            async with asyncio.timeout(ANSWER_S):
                answers: list[Order] = await waiter
        except TimeoutError:
            raise ConnectionError(
                f"the broker did not answer on {CONTROL} in {ANSWER_S:g} s: run it with the "
                "configuration that `ostiary broker config mosquitto` writes"
            ) from None
        finally:
            del self._waiting[which]
        for answer in answers:
            error = str(answer.get("error", ""))
            if error and "already exists" not in error and "not found" not in error:
                raise ConnectionError(f"the broker refused {answer.get('command')}: {error}")
        return answers


def _creation(name: str, grant: Grant) -> list[Order]:
    return [
        {"command": "createRole", "rolename": name, "acls": _acls(grant)},
        {"command": "createClient", "username": name, "roles": _role_of(name)},
    ]


def _removal(name: str) -> list[Order]:
    return [
        {"command": "deleteClient", "username": name},
        {"command": "deleteRole", "rolename": name},
    ]


def _role_of(name: str) -> list[Order]:
    return [{"rolename": name, "priority": 0}]


def _nothing_by_default() -> Order:
    return {
        "command": "setDefaultACLAccess",
        "acls": [{"acltype": kind, "allow": False} for kind in _DEFAULTS],
    }


def _is_plain(client: Order | None, name: str) -> bool:
    if client is None or client.get("disabled") or client.get("groups"):
        return False
    return [role.get("rolename") for role in client.get("roles", [])] == [name]


def _needed(grant: Grant) -> frozenset[Acl]:
    return frozenset(_pairs(grant))


def _held(role: Order) -> frozenset[Acl]:
    """What a role grants; a pair that none of ours has stands for any denial or priority."""
    return frozenset(
        (acl["acltype"], acl["topic"]) if acl.get("allow") else ("deny", acl["topic"])
        for acl in role.get("acls", [])
    )


def _pairs(grant: Grant) -> Iterator[Acl]:
    for topic in grant.publish:
        yield "publishClientSend", topic
    for topic in grant.receive:
        yield "publishClientReceive", topic
        yield "subscribePattern", topic
    yield "unsubscribePattern", "#"


def _acls(grant: Grant) -> list[Order]:
    return _listed(_pairs(grant))


def _listed(pairs: Iterable[Acl]) -> list[Order]:
    return [
        {"acltype": kind, "topic": topic, "allow": True, "priority": 0} for kind, topic in pairs
    ]
