import asyncio

import pytest

from server.feed.hub import Hub, HubClosed


async def test_every_waiter_wakes_on_one_commit():
    hub = Hub()
    waiters = [asyncio.ensure_future(hub.wait_beyond(4)) for _ in range(100)]
    await asyncio.sleep(0)
    hub.committed(7)
    assert await asyncio.gather(*waiters) == [7] * 100


async def test_a_commit_before_the_wait_is_not_lost():
    hub = Hub()
    hub.committed(1)
    assert await hub.wait_beyond(0) == 1


async def test_a_commit_that_is_not_beyond_wakes_nobody():
    hub = Hub()
    hub.committed(5)
    waiter = asyncio.ensure_future(hub.wait_beyond(5))
    hub.committed(5)
    hub.committed(3)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiter.done()
    assert hub.position == 5
    hub.committed(6)
    assert await waiter == 6


async def test_a_waiter_between_two_commits_sees_the_second():
    hub = Hub()
    seen: list[int] = []

    async def listen() -> None:
        position = 0
        while position < 50:
            position = await hub.wait_beyond(position)
            seen.append(position)

    async with asyncio.TaskGroup() as group:
        group.create_task(listen())
        for position in range(1, 51):
            hub.committed(position)
            if position % 7 == 0:
                await asyncio.sleep(0)
    assert seen == sorted(set(seen))
    assert seen[-1] == 50


async def test_a_cancelled_waiter_leaves_the_others_waiting():
    hub = Hub()
    gone = asyncio.ensure_future(hub.wait_beyond(0))
    stays = asyncio.ensure_future(hub.wait_beyond(0))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    hub.committed(1)
    assert await stays == 1


async def test_a_closed_hub_sends_waiters_home_now_and_later():
    hub = Hub()
    waiter = asyncio.ensure_future(hub.wait_beyond(0))
    await asyncio.sleep(0)
    hub.close()
    with pytest.raises(HubClosed):
        await waiter
    with pytest.raises(HubClosed):
        await hub.wait_beyond(0)


async def test_a_closed_hub_still_tells_what_was_committed_before():
    hub = Hub()
    hub.committed(3)
    hub.close()
    assert await hub.wait_beyond(2) == 3
