"""Golden vectors of unique jobs at work and of faults: mostly what Go loses, leaks or runs twice."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from keyspace import FakeClock, Keyspace, golden, holding, poke, state, working
from tests.support import eventually
from vectors import Vector

from packhorse import App, ConfigError, Job
from packhorse.protocols.gocraft import codec
from packhorse.protocols.gocraft.upkeep import Auditor, Observer

UNIQUE_KEY = 'unique:wat:{"k":1}\n'


@pytest.fixture(autouse=True)
def _within_a_second(clock: FakeClock) -> None:
    """The start of a job is reckoned back from now, which must not lead into the second before."""
    clock.advance(0.5)


def recording(app: App, **options: Any) -> list[tuple[Any, int]]:
    """`wat` as a handler that notes its argument `a` and how often the job has failed."""
    seen: list[tuple[Any, int]] = []

    @app.job(name="wat", **options)
    async def wat(job: Job, a: Any = None) -> None:
        seen.append((a, job.fails))

    return seen


# Unique jobs.


@golden("worker", "unique_while_running_and_after_failure")
async def test_the_unique_key_goes_when_the_job_starts(vector: Vector, still_app: App, space: Keyspace) -> None:
    held = holding(still_app, fails_with="no")
    await still_app.client.enqueue_async("wat", {"a": 1}, unique=True)
    async with working(still_app, space, concurrency=1) as pool:
        await held.has_started()
        poke(pool, Observer)
        await space.becomes(state(vector, "running"))
        held.let_go()
    await space.becomes(state(vector, "after failure").signed_off())


@golden("worker", "unique_retry_eats_newer_key", quirk=10)
async def test_a_retry_leaves_the_key_to_the_newer_job(vector: Vector, still_app: App, space: Keyspace) -> None:
    """In Go the retry deletes it, and a third equal job is accepted while the second waits."""
    held = holding(still_app, fails_with="oops")
    held.let_go()
    await still_app.client.enqueue_async("wat", {"a": 1}, unique=True)
    async with working(still_app, space, concurrency=1):
        await held.has_started()
    await still_app.client.enqueue_async("wat", {"a": 1}, unique=True)
    await space.becomes(state(vector, "retry entry and a fresh").signed_off())

    ((retried, _),) = await space.members("retry")
    await space.raw.zrem(space.key("retry"), retried)
    await space.raw.rpush(space.key("jobs:wat"), retried)
    async with working(still_app, space, concurrency=1) as pool:
        await held.has_started(2)
        poke(pool, Observer)
        running = state(vector, "retried job running").signed_off()
        await space.becomes(running.having('ns:unique:wat:{"a":1}\n', "string", "1", ttl=86400))
        third = await still_app.client.enqueue_async("wat", {"a": 1}, unique=True)
        assert third.duplicate
        held.let_go()
        held.let_go()


@golden("worker", "unique_by_key_single")
async def test_a_job_unique_by_key(vector: Vector, still_app: App, space: Keyspace) -> None:
    seen = recording(still_app)
    await still_app.client.enqueue_async("wat", {"a": "only"}, key={"k": 1})
    async with working(still_app, space, concurrency=1) as pool:
        await pool.drain()
    assert seen == [("only", 0)]
    await space.becomes(state(vector).signed_off())


@golden("worker", "unique_by_key_dup_leaks_in_progress", quirk=4)
async def test_the_newest_arguments_run_and_the_old_payload_is_gone(
    vector: Vector, still_app: App, space: Keyspace
) -> None:
    seen = recording(still_app)
    await still_app.client.enqueue_async("wat", {"a": "old"}, key={"k": 1})
    await still_app.client.enqueue_async("wat", {"a": "new"}, key={"k": 1})
    async with working(still_app, space, concurrency=1) as pool:
        await pool.drain()
    assert seen == [(vector["facts"]["handler_saw"], 0)]
    await space.becomes(state(vector).without("ns:jobs:wat:<POOL_1>:inprogress").signed_off())


@golden("worker", "unique_in_by_key_leaks_in_progress", quirk=4)
async def test_a_scheduled_job_unique_by_key_leaves_nothing(vector: Vector, still_app: App, space: Keyspace) -> None:
    seen = recording(still_app)
    await still_app.client.enqueue_async("wat", {"a": 1}, key={"k": 1}, delay=-1)
    async with working(still_app, space, concurrency=1):
        await eventually(lambda: seen == [(1, 0)])
    await space.becomes(state(vector).without("ns:jobs:wat:<POOL_1>:inprogress").signed_off())


@golden("fault", "unique_by_key_retry_swallowed", quirk=10)
async def test_a_retry_runs_with_its_own_arguments(vector: Vector, still_app: App, space: Keyspace) -> None:
    """In Go it takes the newer job's: those run twice, and its own never again."""
    seen = recording(still_app)
    await space.plant(state(vector, "retry entry first"))
    async with working(still_app, space, concurrency=1) as pool:
        await pool.drain()
    assert seen == [("old", 1), ("new", 0)]
    after = state(vector, "after both").without("ns:jobs:wat:<POOL_2>:inprogress")
    await space.becomes(after.having("ns:jobs:wat:lock_info", "hash", [["<POOL_1>", "0"]]))


@pytest.mark.parametrize("value", ["garbage", '{"name":"wat","id":7}', "5"])
async def test_a_unique_key_that_holds_no_job_costs_none(value: str, still_app: App, space: Keyspace) -> None:
    held = holding(still_app, fails_with="oops")
    await still_app.client.enqueue_async("wat", {"a": 1}, key={"k": 1})
    (sent,) = await space.items("jobs:wat")
    await space.raw.set(space.key(UNIQUE_KEY), value)
    async with working(still_app, space, concurrency=1, pool_id="here"):
        await held.has_started()
        assert await space.items("jobs:wat:here:inprogress") == [sent]
        held.let_go()
    ((kept, _),) = await space.members("retry")
    assert json.loads(kept)["args"] == {"a": 1}
    assert not await space.raw.exists(space.key(UNIQUE_KEY))


@pytest.mark.parametrize("args", ['{"a":1e400}', '{"a":' + "[" * 150 + "]" * 150 + "}"])
async def test_a_unique_job_whose_key_nobody_can_compute_stops_nothing(
    args: str, still_app: App, space: Keyspace
) -> None:
    seen = recording(still_app)
    odd = f'{{"name":"wat","id":"x","t":1,"args":{args},"unique":true}}'
    await space.raw.lpush(space.key("jobs:wat"), odd)
    await still_app.client.enqueue_async("wat", {"a": 1})
    async with working(still_app, space, concurrency=1) as pool:
        await pool.drain()
    assert (1, 0) in seen
    assert len(seen) + len(await space.members("dead")) == 2


# Faults.


@golden("fault", "fetch_reply_lost", quirk=9)
async def test_a_job_whose_fetch_was_never_answered_is_put_back_and_runs(
    vector: Vector, still_app: App, space: Keyspace
) -> None:
    seen = recording(still_app)
    await still_app.client.enqueue_async("wat")
    (payload,) = await space.items("jobs:wat")
    await space.raw.delete(space.key("jobs:wat"))
    async with working(still_app, space, concurrency=1) as pool:
        me = pool.record.id
        async with space.raw.pipeline(transaction=True) as fetch:
            fetch.lpush(space.key(f"jobs:wat:{me}:inprogress"), payload)
            fetch.incr(space.key("jobs:wat:lock"))
            fetch.hincrby(space.key("jobs:wat:lock_info"), me, 1)
            await fetch.execute()
        await space.becomes(state(vector, "1.5 s later"))

        (auditor,) = [service for service in pool._services if isinstance(service, Auditor)]
        await auditor.put_back_orphans()
        await auditor.put_back_orphans()
        await eventually(lambda: seen == [(None, 0)])
        await space.gets("jobs:wat:lock_info", me, b"0")
        assert await space.raw.get(space.key("jobs:wat:lock")) == b"0"
    wanted = state(vector, "pool stopped").without("ns:jobs:wat:<POOL_1>:inprogress", "ns:jobs:wat:lock_info")
    await space.becomes(wanted.having("ns:jobs:wat:lock", "string", "0"))


@golden("fault", "fetch_reply_lost", quirk=9)
async def test_a_pool_that_stops_puts_back_what_nobody_held(vector: Vector, still_app: App, space: Keyspace) -> None:
    recording(still_app)
    async with working(still_app, space, concurrency=1) as pool:
        pool.quiet()
        await space.raw.lpush(space.key(f"jobs:wat:{pool.record.id}:inprogress"), "payload")
        await space.raw.set(space.key("jobs:wat:lock"), 1)
        await space.raw.hset(space.key("jobs:wat:lock_info"), pool.record.id, 1)
    wanted = state(vector).without("ns:jobs:wat:<POOL_1>:inprogress", "ns:jobs:wat:lock_info")
    wanted = wanted.having("ns:jobs:wat:lock", "string", "0")
    await space.becomes(wanted.having("ns:jobs:wat", "list", ["payload"]))


@golden("fault", "ack_refused", quirk=9)
async def test_a_job_ends_although_the_store_is_full(vector: Vector, still_app: App, space: Keyspace) -> None:
    held = holding(still_app)
    await still_app.client.enqueue_async("wat")
    async with working(still_app, space, concurrency=1):
        await held.has_started()
        await space.raw.config_set("maxmemory", 1)
        try:
            held.let_go()
            alive = state(vector, "memory is back").without("ns:jobs:wat:<POOL_1>:inprogress")
            alive = alive.having("ns:jobs:wat:lock", "string", "0")
            await space.becomes(alive.having("ns:jobs:wat:lock_info", "hash", [["<POOL_1>", "0"]]))
        finally:
            await space.raw.config_set("maxmemory", 0)
    stopped = state(vector, "pool stopped").without("ns:jobs:wat:<POOL_1>:inprogress")
    await space.becomes(stopped.having("ns:jobs:wat:lock", "string", "0").without("ns:jobs:wat:lock_info"))


@golden("fault", "queue_name_collision", quirk=13)
async def test_a_queue_that_is_the_lock_of_another_is_refused_and_never_written_over(
    vector: Vector, still_app: App, space: Keyspace
) -> None:
    """Go takes both names; then its fetches fail for all names of the pool."""
    with pytest.raises(ConfigError, match="lock"):
        await still_app.client.enqueue_async("wat:lock")
    seen = recording(still_app)
    other = asyncio.Event()

    @still_app.job(name="other")
    async def runs() -> None:
        other.set()

    before = state(vector)
    await space.plant(before)
    async with working(still_app, space, concurrency=1) as pool:
        (auditor,) = [service for service in pool._services if isinstance(service, Auditor)]
        await auditor.mend_locks()
        await still_app.client.enqueue_async("other")
        await asyncio.wait_for(other.wait(), 10)
    assert seen == []
    for name in ("jobs:wat", "jobs:wat:lock"):
        (waiting,) = await space.items(name)
        assert codec.decode(waiting, "").name == name.removeprefix("jobs:")
    assert before.names() <= {entry["key"] for entry in await space.dump()}

    # Once the way is free, the job runs.
    await space.raw.delete(space.key("jobs:wat:lock"))
    async with working(still_app, space, concurrency=1):
        await eventually(lambda: seen == [(None, 0)])


async def test_a_pool_that_nobody_lists_any_more_registers_again(still_app: App, space: Keyspace) -> None:
    """Quirk 7: jobs that it fetched while unlisted would be found by no reaper."""
    seen = recording(still_app)
    async with working(still_app, space, concurrency=1) as pool:
        await space.raw.delete(space.key("worker_pools"), space.key(f"worker_pools:{pool.record.id}"))
        await still_app.client.enqueue_async("wat", {"a": 1})
        await eventually(lambda: seen == [(1, 0)])
        assert await space.raw.smembers(space.key("worker_pools")) == {pool.record.id.encode()}
