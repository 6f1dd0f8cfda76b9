"""Golden vectors of the worker: what a pool writes when it starts, runs jobs, fails at them and stops."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from keyspace import FakeClock, Keyspace, State, eventually, golden, state
from vectors import Vector

from packhorse import App, Job
from packhorse.engine.pool import WorkerPool
from packhorse.protocols.gocraft.mover import Mover
from packhorse.protocols.gocraft.upkeep import Observer
from packhorse.service import Service

Args = dict[str, Any] | None


class Held:
    """A handler whose runs last until a test lets them go on, one by one."""

    def __init__(self) -> None:
        self.running: list[Job] = []
        self._gate = asyncio.Semaphore(0)

    async def __call__(self) -> None:
        await self._gate.acquire()

    def let_go(self) -> None:
        self._gate.release()

    async def has_started(self, count: int = 1) -> None:
        await eventually(lambda: len(self.running) == count)


def holding(app: App, **options: Any) -> Held:
    """`wat` as a handler that holds."""
    held = Held()

    @app.job(name="wat", **options)
    async def wat(job: Job, **args: Any) -> None:
        held.running.append(job)
        await held()

    return held


def poke(pool: WorkerPool, kind: type[Service]) -> None:
    """Have services of the pool run now."""
    for service in pool._services:
        if isinstance(service, kind):
            service.poke()


# The life of a pool.


@golden("worker", "pool_start_stop")
async def test_start_and_stop(vector: Vector, still_app: App, space: Keyspace) -> None:
    still_app.job(name="b")(nothing)
    still_app.job(name="a", priority=10, max_concurrency=3)(nothing)
    async with still_app.worker(concurrency=2):
        await space.becomes(state(vector, "started"))
    await space.becomes(state(vector, "stopped"))


@golden("worker", "fetch_script_keys")
async def test_an_empty_poll_leaves_nothing(vector: Vector, still_app: App, space: Keyspace) -> None:
    still_app.job(name="a")(nothing)
    still_app.job(name="b")(nothing)
    async with still_app.worker(concurrency=1) as pool:
        await pool.drain()
        assert pool.round_trips > 0
    await space.becomes(state(vector))


@golden("worker", "second_pool_overwrites_limit", quirk=8)
async def test_a_pool_without_a_limit_leaves_the_limit_of_another_alone(
    vector: Vector, still_app: App, space: Keyspace, url: str, namespace: str
) -> None:
    still_app.job(name="wat", max_concurrency=3)(nothing)
    second = App(url, namespace=namespace, clock=space.clock)
    second.job(name="wat")(nothing)
    async with still_app.worker(concurrency=1):
        pass
    async with second.worker(concurrency=1):
        pass
    await space.becomes(state(vector).having("ns:jobs:wat:max_concurrency", "string", "3"))


async def nothing() -> None: ...


# Running.


@golden("worker", "run_success_with_checkin")
async def test_a_job_that_checks_in_and_succeeds(vector: Vector, still_app: App, space: Keyspace) -> None:
    held = holding(still_app)
    await still_app.client.enqueue_async("wat", {"a": 1, "h": "<&>"})
    async with still_app.worker(concurrency=1) as pool:
        await held.has_started()
        poke(pool, Observer)
        await space.becomes(state(vector, "running, before"))

        held.running[0].checkin("half way <&>")
        poke(pool, Observer)
        await space.becomes(state(vector, "running, check-in"))

        held.let_go()
        await space.becomes(state(vector, "finished, observation not yet"))
        poke(pool, Observer)
        await space.becomes(state(vector, "finished, after"))
    await space.becomes(state(vector, "stopped").signed_off())


@golden("worker", "observation_no_args")
async def test_no_arguments_are_observed_as_empty_text(
    vector: Vector, still_app: App, space: Keyspace
) -> None:
    held = holding(still_app)
    await still_app.client.enqueue_async("wat")
    async with still_app.worker(concurrency=1) as pool:
        await held.has_started()
        poke(pool, Observer)
        await space.becomes(state(vector, "running"))
        held.let_go()


@golden("worker", "stale_checkin", quirk=11)
async def test_a_check_in_ends_with_its_job(vector: Vector, still_app: App, space: Keyspace) -> None:
    held = holding(still_app)
    await still_app.client.enqueue_async("wat", {"n": 1})
    await still_app.client.enqueue_async("wat", {"n": 2})
    async with still_app.worker(concurrency=1) as pool:
        await held.has_started()
        held.running[0].checkin("first")
        poke(pool, Observer)
        worker = space.key(f"worker:{pool.record.worker_ids[0]}")
        await eventually(lambda: space.raw.hget(worker, "checkin"))

        held.let_go()
        await held.has_started(2)
        poke(pool, Observer)
        wanted = state(vector, "second job running")
        fields = [field for field in wanted["ns:worker:<WORKER_1>"] if not field[0].startswith("checkin")]
        await space.becomes(wanted.having("ns:worker:<WORKER_1>", "hash", fields, ttl=86400))
        held.let_go()


@golden("worker", "paused_1", "paused_2", "paused_3")
async def test_any_value_pauses(vector: Vector, still_app: App, space: Keyspace) -> None:
    holding(still_app)
    await space.raw.set(space.key("jobs:wat:paused"), state(vector)["ns:jobs:wat:paused"])
    await still_app.client.enqueue_async("wat")
    async with still_app.worker(concurrency=1) as pool:
        await pool.drain()
    await space.becomes(state(vector))


@golden("worker", "max_concurrency_1")
async def test_a_limit_holds(vector: Vector, still_app: App, space: Keyspace) -> None:
    held = holding(still_app, max_concurrency=1)
    await still_app.client.enqueue_async("wat", {"n": 1})
    await still_app.client.enqueue_async("wat", {"n": 2})
    async with still_app.worker(concurrency=2) as pool:
        await held.has_started()
        poke(pool, Observer)
        await space.becomes(state(vector, "first running"))
        held.let_go()
        await held.has_started(2)
        held.let_go()
    await space.becomes(state(vector, "all done").signed_off())


@golden("worker", "max_concurrency_lock_stuck", quirk=8)
async def test_a_stuck_lock_is_mended(vector: Vector, still_app: App, space: Keyspace) -> None:
    held = holding(still_app, max_concurrency=1)
    held.let_go()
    await space.raw.set(space.key("jobs:wat:lock"), state(vector)["ns:jobs:wat:lock"])
    await still_app.client.enqueue_async("wat")
    async with still_app.worker(concurrency=1):
        await held.has_started()
    await space.becomes(state(vector).without("ns:jobs:wat").having("ns:jobs:wat:lock", "string", "0"))


# Failing.


@dataclass
class Failure:
    """A job, how its handler fails, and the texts in which packhorse differs from Go."""

    error: Exception
    args: Args = None
    options: dict[str, Any] = field(default_factory=lambda: {"max_fails": 1})
    differs: tuple[str, str] = ("", "")


FAILURES = {
    "fail_first_retry": Failure(Exception("oops"), {"a": 1}, {}),
    "fail_custom_backoff": Failure(Exception("oops"), {"a": 1}, {"backoff": lambda job: 5.0}),
    "fail_dead": Failure(Exception("oops"), {"a": 1}),
    "fail_skip_dead": Failure(Exception("oops"), {"a": 1}, {"max_fails": 1, "skip_dead": True}),
    # A byte that is no text comes as a lone surrogate, and is the replacement character afterwards.
    "fail_error_text": Failure(Exception('bad <&> "é" \udcff\nline2'), None),
    "panic_string": Failure(Exception("boom")),
    "panic_error": Failure(Exception("an error value")),
    "panic_int": Failure(Exception(42)),
}
#: Python has no text for an empty exception, and other words for its own errors (quirk 14).
FAILURES_IN_PYTHON = {
    "fail_empty_error": Failure(
        Exception(), differs=('"failed_at"', '"err":"Exception","failed_at"')
    ),
    "panic_runtime": Failure(
        IndexError("list index out of range"),
        differs=("runtime error: index out of range [24] with length 1", "IndexError: list index out of range"),
    ),
}  # fmt: skip
I53_1, MAX = "9007199254740993", "9223372036854775807"
#: Go writes args again from float64s, with what the handler did to them; here they stay as they were sent.
FAILURES_WITHOUT_LOSS = {
    "fail_reencodes_args": Failure(
        Exception("x"),
        {"i53p1": int(I53_1), "max": int(MAX), "e15": 10**15, "empty": [], "nilmap": None, "html": "<"},
        {},
        (
            '"added":1,"e15":1000000000000000,"empty":[],"html":"\\u003c","i53p1":9007199254740992,'
            '"max":9223372036854776000',
            f'"e15":1000000000000000,"empty":[],"html":"\\u003c","i53p1":{I53_1},"max":{MAX}',
        ),
    )
}


@golden("worker", *FAILURES)
@golden("worker", *FAILURES_IN_PYTHON, quirk=14)
@golden("worker", *FAILURES_WITHOUT_LOSS, quirk=2)
def test_placeholder() -> None: ...
