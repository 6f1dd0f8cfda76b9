"""Middleware around handlers, what it shares with them, and check-ins."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
from tests.support import Books, eventually, soon

from packhorse import App, GiveUp, Job, RetryLater
from packhorse.engine.pool import WorkerPool
from packhorse.protocols.gocraft import upkeep

CallNext = Callable[[Job], Awaitable[Any]]


async def test_middleware_goes_from_the_outside_in(app: App) -> None:
    seen: list[str] = []

    def step(name: str) -> None:
        @app.middleware
        async def around(job: Job, call_next: CallNext) -> Any:
            seen.append(f"{name} in")
            try:
                return await call_next(job)
            finally:
                seen.append(f"{name} out")

    step("first")
    step("second")

    @app.job
    async def tried() -> None:
        seen.append("handler")

    await run_all(app, tried.enqueue_async())
    assert seen == ["first in", "second in", "handler", "second out", "first out"]


async def test_middleware_gets_what_the_handler_returns(app: App) -> None:
    returned: list[object] = []

    @app.middleware
    async def look(job: Job, call_next: CallNext) -> Any:
        returned.append(await call_next(job))

    @app.job
    async def in_coroutine() -> int:
        return 1

    @app.job
    def in_thread() -> int:
        return 2

    await run_all(app, in_coroutine.enqueue_async(), in_thread.enqueue_async())
    assert sorted(returned) == [1, 2]  # type: ignore[type-var]


async def test_a_job_whose_middleware_does_not_go_on_is_done(app: App, books: Books) -> None:
    ran: list[str] = []

    @app.middleware
    async def stop_here(job: Job, call_next: CallNext) -> Any:
        return None

    @app.job
    async def tried() -> None:
        ran.append("no")

    pool = await run_all(app, tried.enqueue_async())
    assert (ran, pool.stats.done) == ([], 1)
    assert await books.places("tried") == {}


@pytest.mark.parametrize(
    ("error", "place", "text"),
    [
        (ValueError("no entry"), "retry", "ValueError: no entry"),
        (SystemExit(1), "retry", "SystemExit: 1"),
        (StopIteration(), "retry", "RuntimeError: coroutine raised StopIteration"),
        (GiveUp("not for us"), "dead", "not for us"),
        (RetryLater(60), "scheduled", None),
    ],
    ids=str,
)
async def test_an_error_of_middleware_is_the_jobs(
    error: BaseException, place: str, text: str | None, app: App, books: Books
) -> None:
    @app.middleware
    async def refuse(job: Job, call_next: CallNext) -> Any:
        raise error

    @app.job
    async def tried() -> None:
        pass

    await run_all(app, tried.enqueue_async())
    assert await books.places("tried") == {place: 1}
    (job,) = [*await books.retry(), *await books.dead(), *await books.scheduled()]
    assert job.get("err") == text


async def test_middleware_may_turn_an_error_into_another_or_into_success(app: App, books: Books) -> None:
    @app.middleware
    async def judge(job: Job, call_next: CallNext) -> Any:
        try:
            await call_next(job)
        except KeyError:
            return
        except LookupError as exc:
            raise GiveUp(f"really: {exc}") from exc

    @app.job
    async def tried(kind: str) -> None:
        raise {"key": KeyError, "index": IndexError}[kind](kind)

    pool = await run_all(app, tried.enqueue_async(kind="key"), tried.enqueue_async(kind="index"))
    assert (pool.stats.done, pool.stats.failed) == (1, 1)
    assert [job["err"] for job in await books.dead()] == ["really: index"]


async def test_context_is_shared_within_a_run_and_not_beyond(app: App) -> None:
    seen: list[dict[str, Any]] = []

    @app.middleware
    async def fill(job: Job, call_next: CallNext) -> Any:
        assert job.context == {}
        job.context["user"] = job.id
        await call_next(job)
        seen.append(job.context)

    @app.job
    async def in_coroutine(job: Job) -> None:
        job.context["by"] = "coroutine"

    @app.job
    def in_thread(job: Job) -> None:
        job.context["by"] = "thread"

    await run_all(
        app,
        in_coroutine.options(id="1").enqueue_async(), in_thread.options(id="2").enqueue_async(),
        in_coroutine.options(id="3").enqueue_async(),
    )  # fmt: skip
    assert sorted(seen, key=lambda context: context["user"]) == [
        {"user": "1", "by": "coroutine"}, {"user": "2", "by": "thread"}, {"user": "3", "by": "coroutine"},
    ]  # fmt: skip


async def test_what_a_handler_sees_of_its_job(app: App) -> None:
    seen: list[Job] = []

    @app.job
    async def tried(job: Job, n: int) -> None:
        seen.append(job)

    await run_all(app, tried.options(id="mine", expires_in=60).enqueue_async(n=5))
    (job,) = seen
    assert (job.name, job.id, job.queue, job.attempt, job.fails) == ("tried", "mine", "tried", 1, 0)
    assert (job.args, job.args_json, job.last_error) == ({"n": 5}, b'{"n":5}', "")
    assert job.deadline is not None
    assert 0 <= job.deadline - job.enqueued_at <= 62
    assert repr(job) == "<Job tried mine attempt 1>"


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_a_check_in_shows_in_the_observation(
    kind: str, app: App, books: Books, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "OBSERVE_EVERY", 0.02)
    go = threading.Event()

    def start(job: Job, text: str) -> None:
        job.checkin("a first word")
        job.checkin(text)

    if kind == "coroutine":

        @app.job
        async def tried(job: Job, n: int) -> None:
            start(job, "half way ünïcödé")
            while not go.is_set():
                await asyncio.sleep(0.01)
    else:

        @app.job
        def tried(job: Job, n: int) -> None:
            start(job, "half way ünïcödé")
            go.wait(15)

    async with app.worker(concurrency=1) as pool:
        receipt = await tried.enqueue_async(n=5)
        key = f"{books.prefix}worker:{pool.record.worker_ids[0]}"
        await eventually(lambda: raw.hexists(key, "checkin"))
        seen = await raw.hgetall(key)
        shown = {name: seen[name.encode()].decode() for name in ("job_name", "job_id", "args", "checkin")}
        assert shown == {
            "job_name": "tried", "job_id": receipt.id, "args": '{"n":5}', "checkin": "half way ünïcödé",
        }  # fmt: skip
        assert seen[b"checkin_at"] >= seen[b"started_at"]
        go.set()
        await soon(gone(raw, key))


async def gone(raw: redis.asyncio.Redis, key: str) -> None:
    async def is_gone() -> bool:
        return not await raw.exists(key)

    await eventually(is_gone)


async def run_all(app: App, *enqueued: Awaitable[object]) -> WorkerPool:
    """Run what is enqueued, until nothing is left to run now."""
    for each in enqueued:
        await each
    async with app.worker(concurrency=1) as pool:
        await pool.drain()
    return pool
