"""A change through the API becomes a policy at the doors it concerns, and a receipt."""

import asyncio

from tests.integration.test_orders_live import CARD, LIMIT_S, building

ALL_DAY = {"start": "00:00", "end": "24:00", "days": ["mon", "tue", "wed", "thu", "fri"]}


async def put(site, path, body):
    answer = await site.api.put(f"/api/v1/{path}", json=body)
    assert answer.status_code < 300, answer.text


async def statuses(site):
    answer = await site.api.get("/api/v1/policies")
    assert answer.status_code == 200, answer.text
    return {item["agent"]: item for item in answer.json()["items"]}


async def test_a_changed_card_is_signed_pulled_applied_and_confirmed_at_its_door_alone(tmp_path):
    async with building(tmp_path, "front-agent", "back-agent") as site, asyncio.timeout(LIMIT_S):
        front, back = site.members["front-agent"], site.members["back-agent"]
        await put(site, "groups/staff", {})
        await put(site, "schedules/always", {"windows": [ALL_DAY]})
        await put(site, "persons/ada", {"groups": ["staff"]})
        await put(site, f"cards/{CARD}", {"person": "ada"})
        await put(site, "rules/r", {"group": "staff", "schedule": "always", "doors": ["front"]})
        await site.until(lambda: front.trust.policy is not None and front.trust.policy.cards)
        assert front.trust.policy.rules[0].doors == ("front",)
        while (item := (await statuses(site))["front-agent"])["applied"] != item["version"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        before = back.trust.policy

        await put(site, f"cards/{CARD}", {"person": "ada", "state": "lost"})
        await site.until(lambda: front.trust.policy.counter > item["version"])
        while (now := (await statuses(site))["front-agent"])["applied"] != now["version"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert now["version"] == item["version"] + 1
        assert (now["cards"], now["failure"]) == (1, None)
        assert back.trust.policy == before
        assert before is not None
        assert not before.cards
        assert front.refused == back.refused == {}

        events = (await site.api.get("/api/v1/events", params={"last": 1000, "limit": 1000})).json()
        published = {
            e["data"]["policy_version"]: e["data"]["hash"]
            for e in events["events"]
            if e["type"].endswith(".policy.published.v1") and e["data"]["agent"] == "front-agent"
        }
        assert published[now["version"]] == now["hash"] == front.trust.policy_hash
