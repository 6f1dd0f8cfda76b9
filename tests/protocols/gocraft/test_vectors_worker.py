"""Golden vectors of the worker: what a pool writes when it starts, runs jobs, fails at them and stops."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from keyspace import FakeClock, Keyspace, State, golden, holding, nothing, poke, state, working
from tests.support import eventually
from vectors import Vector

from packhorse import App
from packhorse.protocols.gocraft import codec
from packhorse.protocols.gocraft.mover import Mover
from packhorse.protocols.gocraft.upkeep import Observer

Args = dict[str, Any] | None


@pytest.fixture(autouse=True)
def _within_a_second(clock: FakeClock) -> None:
    """The start of a job is reckoned back from now, which must not lead into the second before."""
    clock.advance(0.5)


# The life of a pool.


@golden("worker", "pool_start_stop")
async def test_start_and_stop(vector: Vector, still_app: App, space: Keyspace) -> None:
    still_app.job(name="b")(nothing)
    still_app.job(name="a", priority=10, max_concurrency=3)(nothing)
    async with working(still_app, space, concurrency=2):
        await space.becomes(state(vector, "started"))
    await space.becomes(state(vector, "stopped"))


@golden("worker", "fetch_script_keys")
async def test_an_empty_poll_leaves_nothing(vector: Vector, still_app: App, space: Keyspace) -> None:
    still_app.job(name="a")(nothing)
    still_app.job(name="b")(nothing)
    async with working(still_app, space, concurrency=1) as pool:
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
    async with working(still_app, space, concurrency=1):
        pass
    async with working(second, space, concurrency=1):
        pass
    await space.becomes(state(vector).having("ns:jobs:wat:max_concurrency", "string", "3"))


# Running.


@golden("worker", "run_success_with_checkin")
async def test_a_job_that_checks_in_and_succeeds(vector: Vector, still_app: App, space: Keyspace) -> None:
    held = holding(still_app)
    await still_app.client.enqueue_async("wat", {"a": 1, "h": "<&>"})
    async with working(still_app, space, concurrency=1) as pool:
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
async def test_no_arguments_are_observed_as_empty_text(vector: Vector, still_app: App, space: Keyspace) -> None:
    held = holding(still_app)
    await still_app.client.enqueue_async("wat")
    async with working(still_app, space, concurrency=1) as pool:
        await held.has_started()
        poke(pool, Observer)
        await space.becomes(state(vector, "running"))
        held.let_go()


@golden("worker", "stale_checkin", quirk=11)
async def test_a_check_in_ends_with_its_job(vector: Vector, still_app: App, space: Keyspace) -> None:
    held = holding(still_app)
    await still_app.client.enqueue_async("wat", {"n": 1})
    await still_app.client.enqueue_async("wat", {"n": 2})
    async with working(still_app, space, concurrency=1) as pool:
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


async def test_each_job_of_a_slot_is_observed(still_app: App, space: Keyspace) -> None:
    held = holding(still_app)
    for n in range(5):
        await still_app.client.enqueue_async("wat", {"n": n})
    async with working(still_app, space, concurrency=1) as pool:
        worker = f"worker:{pool.record.worker_ids[0]}"
        for n in range(5):
            await held.has_started(n + 1)
            poke(pool, Observer)
            await space.gets(worker, "args", b'{"n":%d}' % n)
            held.let_go()


async def test_what_runs_lies_in_the_list_with_the_newest_at_its_head(still_app: App, space: Keyspace) -> None:
    held = holding(still_app)
    await still_app.client.enqueue_async("wat", {"n": 1})
    await still_app.client.enqueue_async("wat", {"n": 2})
    newest_first = await space.items("jobs:wat")
    async with working(still_app, space, concurrency=2, pool_id="here"):
        await held.has_started(2)
        assert [job.args for job in held.running] == [{"n": 1}, {"n": 2}]
        assert await space.items("jobs:wat:here:inprogress") == newest_first
        held.let_go()
        held.let_go()


@golden("worker", "paused_1", "paused_2", "paused_3")
async def test_any_value_pauses(vector: Vector, still_app: App, space: Keyspace) -> None:
    holding(still_app)
    await space.raw.set(space.key("jobs:wat:paused"), state(vector)["ns:jobs:wat:paused"])
    await still_app.client.enqueue_async("wat")
    async with working(still_app, space, concurrency=1) as pool:
        await pool.drain()
    await space.becomes(state(vector))


@golden("worker", "max_concurrency_1")
async def test_a_limit_holds(vector: Vector, still_app: App, space: Keyspace) -> None:
    held = holding(still_app, max_concurrency=1)
    await still_app.client.enqueue_async("wat", {"n": 1})
    await still_app.client.enqueue_async("wat", {"n": 2})
    async with working(still_app, space, concurrency=2) as pool:
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
    async with working(still_app, space, concurrency=1):
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
        differs=(
            "runtime error: index out of range [24] with length 1",
            "IndexError: list index out of range",
        ),
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


async def fails(vector: Vector, failure: Failure, app: App, space: Keyspace) -> None:
    """Run the job to its failure, stop, and compare with what Go left."""

    @app.job(name="wat", **failure.options)
    async def wat(**args: Any) -> None:
        raise failure.error

    await app.client.enqueue_async("wat", failure.args)
    async with working(app, space, concurrency=1) as pool:
        await pool.drain()
    wanted = state(vector).signed_off()
    for name in {"ns:retry", "ns:dead"} & wanted.names():
        (kept,) = wanted[name]
        assert failure.differs[0] in kept["member"]
        kept = {**kept, "member": kept["member"].replace(*failure.differs)}
        wanted = wanted.having(name, "zset", [kept])
    await space.becomes(wanted, parsed=vector["name"] == "fail_error_text")


@golden("worker", *FAILURES)
async def test_a_failure(vector: Vector, still_app: App, space: Keyspace) -> None:
    await fails(vector, FAILURES[vector["name"]], still_app, space)
    retries = [score - space.clock.start for _, score in await space.members("retry")]
    if vector["name"] == "fail_custom_backoff":
        assert retries == [vector["facts"]["retry_score_minus_failed_at"]] == [5]
    elif vector["name"] == "fail_first_retry":
        assert retries[0] in range(16, 75, 2)


@golden("worker", *FAILURES_IN_PYTHON, quirk=14)
async def test_a_failure_in_words_of_python(vector: Vector, still_app: App, space: Keyspace) -> None:
    await fails(vector, FAILURES_IN_PYTHON[vector["name"]], still_app, space)


@golden("worker", *FAILURES_WITHOUT_LOSS, quirk=2)
async def test_a_failure_leaves_args_alone(vector: Vector, still_app: App, space: Keyspace) -> None:
    await fails(vector, FAILURES_WITHOUT_LOSS[vector["name"]], still_app, space)


@golden("worker", "raw_producer_payload_reencoded", quirk=2)
async def test_a_foreign_producers_payload_keeps_its_args_and_its_own_fields(
    vector: Vector, still_app: App, space: Keyspace
) -> None:
    args = r'{"f": 1.0, "big": 12345678901234567890, "e": 1E5, "s": "a\/b \u00e9"}'
    sent = f'{{"args": {args}, "name": "wat", "id": "py-1", "t": 1700000000, "extra": {{"x": 1}}}}'
    assert sent in [command["argv"][-1] for command in vector["commands"]]

    @still_app.job(name="wat")
    async def wat(**args: Any) -> None:
        raise Exception("oops")

    await space.raw.lpush(space.key("jobs:wat"), sent)
    await space.raw.sadd(space.key("known_jobs"), "wat")
    async with working(still_app, space, concurrency=1) as pool:
        await pool.drain()
    kept = (
        f'{{"name":"wat","id":"py-1","t":1700000000,"args":{args},"fails":1,"err":"oops","failed_at":<T>,'
        '"extra":{"x": 1}}'
    )
    wanted = state(vector).signed_off()
    await space.becomes(wanted.having("ns:retry", "zset", [{"member": kept, "score": "<RETRY_AT>"}]))


@golden("worker", "fail_second_time_then_dead", quirk=2)
async def test_three_failures_and_the_moves_between_them(
    vector: Vector, still_app: App, space: Keyspace, clock: FakeClock
) -> None:
    """Go's mover makes `{}` of `[]` on the way; here the list stays one."""

    @still_app.job(name="wat", max_fails=3)
    async def wat(**args: Any) -> None:
        raise Exception("oops")

    paused = space.key("jobs:wat:paused")
    await still_app.client.enqueue_async("wat", {"path": "a/b", "l": [], "o": {}, "n": None})
    async with working(still_app, space, concurrency=1) as pool:
        first = state(vector, "after failure 1").without("ns:worker:<WORKER_1>")
        await space.becomes(first)
        for run in (2, 3):
            await space.raw.set(paused, "1")
            clock.advance(200)
            poke(pool, Mover)
            moved = with_list(
                state(
                    vector,
                    f"moved back to the queue by the retrier (paused so that it stays), before run {run}",
                )
            )
            await space.becomes(moved, parsed=True)
            await space.raw.delete(paused)
            await space.becomes(with_list(state(vector, f"after failure {run}")))


def with_list(wanted: State) -> State:
    """A state with the empty list that Go turned into an object."""
    text = json.dumps(wanted.entries).replace(r"\"l\":{}", r"\"l\":[]")
    assert text != json.dumps(wanted.entries)
    return State(json.loads(text))


# Payloads that nobody here runs.


@golden("worker", "stray_job", "payload_without_name", quirk=8)
async def test_a_stray_job_goes_to_dead_and_the_locks_stay_right(
    vector: Vector, still_app: App, space: Keyspace
) -> None:
    """Go takes the lock of the queue and gives back the one of the name in the payload."""
    holding(still_app)
    stray = vector["name"] == "stray_job"
    sent = '{"name":"other","id":"stray1","t":1700000000,"args":null}'
    await space.raw.lpush(
        space.key("jobs:wat"),
        sent if stray else sent.replace('"name":"other",', "").replace("stray", "noname"),
    )
    async with working(still_app, space, concurrency=1) as pool:
        await pool.drain()
    other = "ns:jobs:other" if stray else "ns:jobs:"
    wanted = state(vector).without(f"{other}:lock", f"{other}:lock_info", "ns:jobs:wat:lock_info")
    await space.becomes(wanted.having("ns:jobs:wat:lock", "string", "0"))


@golden("worker", "odd_payload_7", "odd_payload_8")
async def test_an_odd_payload_that_go_can_read_runs(vector: Vector, still_app: App, space: Keyspace) -> None:
    held = holding(still_app)
    held.let_go()
    await space.raw.lpush(space.key("jobs:wat"), vector["go_call"].removeprefix("LPUSH ns:jobs:wat "))
    async with working(still_app, space, concurrency=1):
        await held.has_started()
    (job,) = held.running
    shown = " ".join(f"{key}:{value}" for key, value in job.args.items())
    assert vector["facts"]["handler_saw"] == f'id="{job.id}" t={job.enqueued_at} args=map[{shown}]'
    await space.becomes(state(vector).signed_off())


@golden("worker", *[f"odd_payload_{n}" for n in (1, 2, 3, 4, 5, 6, 9)], quirk=3)
async def test_an_odd_payload_that_go_cannot_read_is_kept_in_dead_and_frees_its_lock(
    vector: Vector, still_app: App, space: Keyspace
) -> None:
    held = holding(still_app)
    sent = vector["go_call"].removeprefix("LPUSH ns:jobs:wat ").encode()
    await space.raw.lpush(space.key("jobs:wat"), sent)
    async with working(still_app, space, concurrency=1) as pool:
        await pool.drain()
    assert held.running == []
    ((kept, score),) = await space.members("dead")
    assert score == space.clock.start
    # Go's page of dead jobs can show it, and nothing of it is lost.
    job = codec.decode(kept, "")
    assert (job.name, job.fails) == ("wat", 1)
    assert job.last_error.startswith("undecodable payload: ")
    assert codec.unwrapped(kept) == sent
    wanted = state(vector).without("ns:jobs:wat:<POOL_1>:inprogress", "ns:jobs:wat:lock_info")
    wanted = wanted.having("ns:jobs:wat:lock", "string", "0")
    await space.becomes(wanted.having("ns:dead", "zset", [{"member": kept.decode(), "score": "<T>"}]))
