"""The list of lockdowns has all of them, however many there were."""

from __future__ import annotations

from sqlalchemy import insert

from server.clock import microseconds
from server.store.distribution_tables import lockdowns
from tests.orders_rig import MOMENT
from tests.served_orders import api, site_fixture

__all__ = ["api", "site_fixture"]

PATH = "/api/v1/lockdowns"


async def test_all_there_ever_were_are_listed_a_page_at_a_time(api):
    for scope in ({"scope": "site"}, {"scope": "door", "name": "front"}, {"scope": "site"}):
        began = (await api.post(PATH, json=scope)).json()
        await api.delete(f"{PATH}/{began['id']}")
    await api.post(PATH, json={"scope": "site"})
    everything = (await api.get(PATH, params={"ended": True})).json()
    assert (len(everything["items"]), everything["next"]) == (4, None)
    listed, query = [], {"ended": True, "limit": 3}
    while True:
        page = (await api.get(PATH, params=query)).json()
        listed += page["items"]
        if page["next"] is None:
            break
        query["after"] = page["next"]
    assert listed == everything["items"]


async def test_a_page_goes_on_only_from_a_lockdown_that_there_is(api):
    answer = await api.get(PATH, params={"after": "no-such-lockdown"})
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "after")


async def test_one_that_began_before_a_thousand_others_can_be_ended(site, api):
    oldest = (await api.post(PATH, json={"scope": "site"})).json()
    later_us = microseconds(MOMENT) + 3_600_000_000
    over = {"scope": "site", "name": "demo", "exempt": "[]", "started_by": "mei"}
    rows = [
        {"id": f"drill-{n}", "since_us": later_us + n, "ended_us": later_us + n + 1, **over}
        for n in range(1001)
    ]
    async with site.site.state.engine.begin() as connection:
        await connection.execute(insert(lockdowns), rows)
    ended = await api.delete(f"{PATH}/{oldest['id']}")
    assert (ended.status_code, ended.json()["id"]) == (200, oldest["id"])
    assert ended.json()["ended_by"] == "local"
    await api.post(PATH, json={"scope": "site", "id": "another"})
    assert [each["id"] for each in (await api.delete(PATH)).json()["items"]] == ["another"]
