"""The admin facade: bulk changes touch everything that matches, and nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from packhorse import App
from packhorse.admin import PAGE, Admin
from packhorse.errors import StoreUnavailable
from packhorse.protocols.inspect import Filter, State

MANY = 2 * PAGE + 50


@pytest.fixture
async def admin(app: App) -> AsyncIterator[Admin]:
    async with app.admin() as admin:
        yield admin
    await app.client.aclose()


@pytest.fixture
async def dead(raw: redis.asyncio.Redis, namespace: str) -> str:
    """A dead set of jobs `a` and `b` by turns, every third with the error `slow`; its key."""
    key = f"{namespace}:dead"
    jobs = {}
    for i in range(MANY):
        job = {
            "name": "ab"[i % 2],
            "id": str(i),
            "t": 1,
            "args": {"n": i},
            "err": "fast" if i % 3 else "slow",
        }
        jobs[json.dumps(job, separators=(",", ":"))] = i
    await raw.zadd(key, jobs)
    await raw.sadd(f"{namespace}:known_jobs", "a", "b")
    return key


async def test_retry_all(admin: Admin, dead: str, raw: redis.asyncio.Redis, namespace: str) -> None:
    assert await admin.count(State.DEAD) == MANY
    assert await admin.retry_all(State.DEAD) == MANY
    assert await raw.exists(dead) == 0
    assert await raw.llen(f"{namespace}:jobs:a") == await raw.llen(f"{namespace}:jobs:b") == MANY / 2
    assert await admin.retry_all(State.DEAD) == 0


async def test_retry_all_that_match(admin: Admin, dead: str, raw: redis.asyncio.Redis) -> None:
    where = Filter(name="a", error="slow")
    wanted = len(range(0, MANY, 6))
    assert await admin.count(State.DEAD, where) == wanted
    assert await admin.retry_all(State.DEAD, where) == wanted
    assert await admin.count(State.DEAD, where) == 0
    page = await admin.jobs(State.QUEUED, queue="a", limit=MANY)
    assert [row.id for row in page.rows] == [str(i) for i in range(0, MANY, 6)]
    assert await raw.zcard(dead) == MANY - wanted


async def test_delete_all_that_match(admin: Admin, dead: str, raw: redis.asyncio.Redis) -> None:
    assert await admin.delete_all(State.DEAD, Filter(text=f'"n":{MANY - 1}')) == 1
    assert await admin.delete_all(State.DEAD, queue="a") == MANY / 2
    assert {row.name for row in (await admin.jobs(State.DEAD, limit=MANY)).rows} == {"b"}
    assert await admin.delete_all(State.DEAD) == MANY / 2 - 1
    assert await raw.exists(dead) == 0


async def test_delete_all_of_a_queue(admin: Admin, app: App) -> None:
    await app.client.enqueue_many_async(
        [app.client.prepare(name, {"n": n}) for name in ("a", "b") for n in range(MANY)]
    )
    assert await admin.delete_all(State.QUEUED, Filter(text='"n":4'), queue="a") == len(
        [n for n in range(MANY) if str(n).startswith("4")]
    )
    assert await admin.delete_all(State.QUEUED, queue="a") > 0
    assert [(row.name, row.depth) for row in await admin.queues()] == [("a", 0), ("b", MANY)]
    assert await admin.purge("b") == MANY


async def test_pause_takes_several_names(admin: Admin, app: App) -> None:
    for name in ("a", "b", "c"):
        await app.client.enqueue_async(name)
    await admin.pause("a", "c")
    assert [row.paused for row in await admin.queues()] == [True, False, True]
    await admin.resume("a", "b", "c")
    assert [row.paused for row in await admin.queues()] == [False] * 3


async def test_a_store_that_is_not_there(namespace: str) -> None:
    async with App("unix:///nowhere/there.sock", namespace=namespace).admin() as admin:
        with pytest.raises(StoreUnavailable):
            await admin.ping()
        with pytest.raises(StoreUnavailable):
            await admin.queues()
