"""Handlers in processes: whatever they do to their process, the job has one place and the pool goes on.

Processes take a while to start, so each test runs many endings in one pool.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pebble.common.types
import pytest
from tests.engine import process_jobs
from tests.support import Books, eventually

from packhorse import App, GiveUp, Job, JobFunction, RetryLater
from packhorse.engine.pool import WorkerPool

LOST = "WorkerLost: the process running job 'tried' was lost: exit code "

#: how -> (place, error)
ENDINGS = {
    "returns": (None, ""),
    "returns what cannot travel": (None, ""),
    "raises": ("retry", "ValueError: no such user"),
    "raises a class of its own": ("retry", "Particular: no such user (5)"),
    "raises what cannot be pickled": ("retry", "Unpicklable: holds a file"),
    "asks for later": ("scheduled", None),
    "gives up": ("dead", "not ours"),
    "times out by itself": ("retry", "TimeoutError: the other side is slow"),
    "raises an error of packhorse": ("retry", "JobTimeout: job 'some other job' ran longer"),
    "exits": ("retry", "SystemExit: 3"),
    "is interrupted": ("retry", "KeyboardInterrupt"),
    "recurses for ever": ("retry", "RecursionError: maximum recursion depth exceeded"),
    "has no memory": ("retry", "MemoryError"),
}
CRASHES = {
    "ends its process": "7",
    "ends its process with success": "0",
    "aborts": "-6",
    "is killed": "-9",
    "reads nowhere": "-11",
}


@pytest.fixture(autouse=True)
def short_term(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long pebble waits for a process that does not listen."""
    monkeypatch.setattr(pebble.common.types.CONSTS, "term_timeout", 0.2)


def process_job(app: App, **options: Any) -> JobFunction[[str], object]:
    return app.job(name="tried", kind="process", **options)(process_jobs.end.fn)


def after(app: App, books: Books, tmp_path: Path) -> Callable[[], Any]:
    next_one = app.job(kind="process")(process_jobs.next_one.fn)
    path = tmp_path / "ran"

    async def go_on() -> None:
        path.unlink(missing_ok=True)
        await next_one.enqueue_async(path=str(path))
        await eventually(lambda: path.exists())
        await settled(books, "next_one")

    return go_on


async def settled(books: Books, name: str) -> None:
    async def at_rest() -> bool:
        return not await books.queue(name) and await books.at_rest(name)

    await eventually(at_rest)


async def found(books: Books) -> dict[str, tuple[str, str | None]]:
    """id -> (place, error) of every job that is left."""
    places = {"retry": books.retry, "dead": books.dead, "scheduled": books.scheduled}
    return {job["id"]: (place, job.get("err")) for place, look in places.items() for job in await look()}


@pytest.mark.parametrize("way", ["direct", "in middleware"])
async def test_endings_of_handlers_in_processes(way: str, app: App, books: Books, tmp_path: Path) -> None:
    tried = process_job(app)
    go_on = after(app, books, tmp_path)
    if way == "in middleware":

        @app.middleware
        async def through(job: Job, call_next: Callable[[Job], Any]) -> None:
            await call_next(job)

    async with app.worker(concurrency=2):
        for how in ENDINGS:
            await tried.options(id=how).enqueue_async(how=how)
        await settled(books, "tried")
        await go_on()
    left = await found(books)
    for how, (place, error) in ENDINGS.items():
        if place is None:
            assert how not in left
        else:
            assert left[how][0] == place, how
            assert (left[how][1] or "").startswith(error or ""), how
            assert (left[how][1] is None) == (error is None), how


async def test_a_crash_is_the_failure_of_one_job(app: App, books: Books, tmp_path: Path) -> None:
    tried = process_job(app)
    go_on = after(app, books, tmp_path)
    async with app.worker(concurrency=1):
        for how in CRASHES:
            await tried.options(id=how).enqueue_async(how=how)
            await settled(books, "tried")
            await go_on()
    assert await found(books) == {how: ("retry", LOST + code) for how, code in CRASHES.items()}


async def test_a_process_that_dies_idle_is_replaced(app: App, books: Books, tmp_path: Path) -> None:
    go_on = after(app, books, tmp_path)
    async with app.worker(concurrency=1):
        for _ in range(2):
            await go_on()
            pid = int((tmp_path / "ran").read_text())
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda pid=pid: not Path(f"/proc/{pid}").exists())
        await go_on()
    assert not await books.retry()


@pytest.mark.parametrize("how", ["sleeps", "sleeps and does not listen"])
async def test_a_process_past_its_timeout_is_killed(how: str, app: App, books: Books, tmp_path: Path) -> None:
    tried = process_job(app, timeout=0.1)
    go_on = after(app, books, tmp_path)
    async with app.worker(concurrency=1):
        await go_on()
        await tried.options(id="slow").enqueue_async(how=how)
        await settled(books, "tried")
        await go_on()
    assert await found(books) == {"slow": ("retry", "JobTimeout: job 'tried' ran longer than its timeout of 0.1 s")}


@pytest.mark.parametrize("how", ["sleeps", "sleeps and does not listen"])
async def test_a_cancelled_process_is_killed(how: str, app: App, books: Books, tmp_path: Path) -> None:
    tried = process_job(app)
    go_on = after(app, books, tmp_path)
    async with app.worker(concurrency=1) as pool:
        await go_on()
        receipt = await tried.enqueue_async(how=how)
        await runs(pool, books)
        assert pool.cancel(receipt.id)
        await settled(books, "tried")
        await go_on()
    assert await found(books) == {receipt.id: ("dead", "cancelled")}


async def test_verdicts_survive_the_way_from_a_process() -> None:
    """They are pickled as every exception of a library may be."""
    import pickle

    for error in (RetryLater(5), GiveUp("no")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


async def runs(pool: WorkerPool, books: Books) -> None:
    async def taken() -> bool:
        return pool.running == 1 and bool(await books.held("tried"))

    await eventually(taken)
