"""Cases that a careful reader found: each lost a job, ran one twice or stopped a pool before it was mended."""

from __future__ import annotations

import asyncio

import redis.asyncio
from tests.support import eventually

from packhorse import App, RetryLater


async def test_a_unique_job_that_is_handed_back_keeps_its_own_arguments(app: App) -> None:
    """The key is free once the job has started, so a newer job may own it when this one starts again."""
    started, seen = asyncio.Event(), list[tuple[str, int]]()

    @app.job
    async def send(v: int) -> None:
        seen.append(("start", v))
        started.set()
        if len(seen) == 1:
            await asyncio.sleep(60)
        seen.append(("end", v))

    await send.enqueue_unique_by_key_async({"k": 1}, v=1)
    async with app.worker(stop_timeout=0.0):
        await asyncio.wait_for(started.wait(), 10)
        newer = await send.enqueue_unique_by_key_async({"k": 1}, v=2)
        assert not newer.duplicate
    async with app.worker(concurrency=1):
        await eventually(lambda: len([what for what, _ in seen if what == "end"]) == 2)
    assert sorted(seen) == [("end", 1), ("end", 2), ("start", 1), ("start", 1), ("start", 2)]
    await app.client.aclose()


async def test_thousands_of_jobs_in_one_fetch(app: App, raw: redis.asyncio.Redis, namespace: str) -> None:
    """More than Lua can unpack at once."""
    ran = 0

    @app.job
    async def tick() -> None:
        nonlocal ran
        ran += 1
        await asyncio.sleep(0)

    await app.client.enqueue_many_async(tick.prepare() for _ in range(9000))
    async with app.worker(concurrency=10_000):
        await eventually(lambda: ran == 9000)
    assert await raw.llen(f"{namespace}:jobs:tick") == 0
    await app.client.aclose()


async def test_quick_jobs_do_not_starve_slow_ones(app: App) -> None:
    """Room for slow jobs is counted by what slow ones take, not by quick ones that pass through."""
    quick_done, slow_started = 0, asyncio.Event()
    at_start: list[int] = []

    @app.job
    async def quick() -> None:
        nonlocal quick_done
        quick_done += 1

    @app.job
    async def slow() -> None:
        at_start.append(quick_done)
        slow_started.set()
        await asyncio.sleep(0.05)

    jobs = 60_000
    await app.client.enqueue_many_async(quick.prepare() for _ in range(jobs))
    async with app.worker(concurrency=4):
        await eventually(lambda: quick_done > 2000)
        await slow.enqueue_async()
        await asyncio.wait_for(slow_started.wait(), 20)
        assert at_start[0] < jobs, "the slow job had to wait for every quick one"
        await eventually(lambda: quick_done == jobs)
    await app.client.aclose()


class Broken(RetryLater):
    """A verdict that forgot to call its base class."""

    def __init__(self) -> None:
        Exception.__init__(self, "broken")


async def test_a_slot_outlives_an_error_of_our_own(app: App, raw: redis.asyncio.Redis, namespace: str) -> None:
    ran = asyncio.Event()

    @app.job
    async def odd() -> None:
        raise Broken

    @app.job
    async def fine() -> None:
        ran.set()

    await odd.enqueue_async()
    async with app.worker(concurrency=1):
        await eventually(lambda: raw.zcard(f"{namespace}:dead"))
        await fine.enqueue_async()
        await asyncio.wait_for(ran.wait(), 10)
    assert await raw.get(f"{namespace}:jobs:odd:lock") == b"0"
    await app.client.aclose()


async def test_a_lock_that_a_vanished_pool_left_is_mended(app: App, raw: redis.asyncio.Redis, namespace: str) -> None:
    ran = asyncio.Event()

    @app.job(max_concurrency=1)
    async def limited() -> None:
        ran.set()

    await raw.set(f"{namespace}:jobs:limited:lock", 1)
    await raw.hset(f"{namespace}:jobs:limited:lock_info", "gone", 1)
    await limited.enqueue_async()
    async with app.worker(concurrency=2):
        await asyncio.wait_for(ran.wait(), 15)
    assert await raw.hgetall(f"{namespace}:jobs:limited:lock_info") == {}
    await app.client.aclose()


async def test_a_lock_that_is_no_integer_harms_nobody(app: App, raw: redis.asyncio.Redis, namespace: str) -> None:
    """`0.0` is a number for Lua and none for INCRBY: nothing may be claimed before that is known."""
    ran = asyncio.Event()

    @app.job
    async def odd() -> None: ...

    @app.job
    async def fine() -> None:
        ran.set()

    await raw.set(f"{namespace}:jobs:odd:lock", "0.0")
    await app.client.enqueue_many_async([odd.prepare(), fine.prepare()])
    async with app.worker():
        await asyncio.wait_for(ran.wait(), 10)
    jobs = await raw.llen(f"{namespace}:jobs:odd")
    lock = await raw.get(f"{namespace}:jobs:odd:lock")
    assert (jobs, lock) in {(1, b"0.0"), (0, b"0"), (1, b"0")}
    await app.client.aclose()
