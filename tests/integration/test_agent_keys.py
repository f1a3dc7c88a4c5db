"""The agent in its own process, with a virtual ESAM: keys come over the wire, kills and all."""

from __future__ import annotations

import signal

import pytest

from schemas.topics import STAGE
from tests.agent_rig import DOOR, Rig, standing
from tests.esam_desk import ESAM_SERIAL, EsamDesk
from tests.key_server import KeyServer


class AtTheDoor:
    """The rig's door has an ESAM with version 1, and the server what orders and packages need."""

    def __init__(self, rig, server, suite):
        self.rig, self.server = rig, server
        file = rig.folder / "esam.bin"
        self.authority = KeyServer(EsamDesk(suite, path=file).issue().load(1), rig.voice)
        rig.config.write_text(
            rig.config.read_text()
            + f'[[esams]]\nkind = "virtual"\npath = "esam.bin"\nserial = "{ESAM_SERIAL.hex()}"\n'
            f'domains = ["{DOOR}"]\n'
        )
        server.package = self.authority.package

    async def order(self, version, floor=1):
        order = self.authority.order(version, floor)
        await self.server.tell(STAGE, self.rig.keys.sign(order))

    async def until_held(self, **wanted):
        """Until the lock says so: `versions`, `floor`, `preferred` or `accepted`."""

        def is_it(told):
            seen = {**told, "versions": {int(version) for version in told["held"]}}
            return all(seen[name] == value for name, value in wanted.items())

        await self.server.until(lambda: any(map(is_it, self.server.named("keys.held"))))


@pytest.mark.system
@pytest.mark.parametrize("suite", ["gm", "intl"])
async def test_a_lock_is_staged_activated_and_retired_though_it_is_killed_on_the_way(
    tmp_path, mosquitto, suite
):
    rig = Rig(tmp_path, suite, mosquitto.port)
    async with standing(rig) as server:
        door = AtTheDoor(rig, server, suite)
        await rig.start()
        await server.applied(await server.put_policy())
        await door.until_held(versions={1}, preferred=1, accepted=[])

        answer, server.package = server.package, lambda request: None
        await door.order(2)
        await server.until(lambda: len(server.key_requests) == 1)
        await rig.end(signal.SIGKILL)
        server.package = answer
        await rig.start()
        await server.until(lambda: server.reports[-1].session != server.key_requests[0].session)
        await door.order(2)
        await door.until_held(versions={1, 2}, floor=1, preferred=1)

        settings = rig.policy()["doors"][DOOR] | {"key_version": 2, "accepted_key_versions": [1]}
        await server.put_policy(doors={DOOR: settings})
        await door.until_held(versions={1, 2}, preferred=2, accepted=[1])
        settings["accepted_key_versions"] = []
        await server.put_policy(doors={DOOR: settings})
        await door.until_held(preferred=2, accepted=[])
        await door.order(2, floor=2)
        await door.until_held(versions={2}, floor=2)

        await door.order(1)
        await server.until(lambda: "keys.refused" in server.names)
        assert [each["reason"] for each in server.named("keys.refused")] == ["failed"]
        assert await rig.end(signal.SIGTERM) == 0
        told = "".join(map(str, rig.log)) + "".join(link.line.decode() for link in server.events)
        desk = door.authority.desk
        for key in (desk.control_key, *desk.secrets[1].values(), *desk.secrets[2].values()):
            assert key.hex() not in told
