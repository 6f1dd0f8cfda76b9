"""The shortest way through everything: enqueue, run, look."""

from __future__ import annotations

import asyncio

import redis.asyncio

from packhorse import App


async def test_a_job_runs(app: App, raw: redis.asyncio.Redis, namespace: str) -> None:
    ran = asyncio.Event()
    seen: list[str] = []

    @app.job
    async def greet(name: str) -> None:
        seen.append(name)
        ran.set()

    async with app.worker(concurrency=2):
        receipt = await greet.enqueue_async(name="Ada")
        await asyncio.wait_for(ran.wait(), 10)
    assert seen == ["Ada"]
    assert len(receipt.id) == 24
    assert await raw.llen(f"{namespace}:jobs:greet") == 0
    assert await raw.get(f"{namespace}:jobs:greet:lock") == b"0"
    assert await raw.smembers(f"{namespace}:worker_pools") == set()
    await app.client.aclose()
