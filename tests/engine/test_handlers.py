"""However a handler ends, its job has one place in the store, its lock is released, and the pool goes on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest
from tests.support import Books, eventually, soon

from packhorse import App, GiveUp, Job, JobFunction, RetryLater
from packhorse.engine import warden
from packhorse.engine.pool import WorkerPool
from packhorse.protocols.base import Receipt

pytestmark = pytest.mark.usefixtures("short_grace")

Act = Callable[[], object]


@dataclass(frozen=True)
class Ending:
    """What a handler does, where its job must then lie (None: gone), and with which error."""

    name: str
    act: Act
    place: str | None
    error: str = ""


class Mute(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def raises(error: BaseException) -> Act:
    def act() -> NoReturn:
        raise error

    return act


def recurse() -> object:
    return [recurse()]


ENDINGS = [
    Ending("returns", lambda: 5, None),
    Ending("raises", raises(ValueError("no such user")), "retry", "ValueError: no such user"),
    Ending("raises a plain Exception", raises(Exception("no such user")), "retry", "no such user"),
    Ending("raises without a text", raises(ValueError()), "retry", "ValueError"),
    Ending("raises something that has no text", raises(Mute()), "retry", "Mute"),
    Ending("raises half a character", raises(ValueError("\ud800")), "retry", "ValueError: \ufffd"),
    Ending("asks for later", raises(RetryLater(60)), "scheduled"),
    Ending("gives up", raises(GiveUp("not ours")), "dead", "not ours"),
    Ending("exits", raises(SystemExit(3)), "retry", "SystemExit: 3"),
    Ending("is interrupted", raises(KeyboardInterrupt()), "retry", "KeyboardInterrupt"),
    Ending("closes a generator", raises(GeneratorExit()), "retry", "GeneratorExit"),
    Ending("ends an iteration", raises(StopIteration(1)), "retry", "StopIteration"),
    Ending("raises CancelledError itself", raises(asyncio.CancelledError()), "retry", "CancelledError"),
    Ending("times out by itself", raises(TimeoutError()), "retry", "TimeoutError"),
    Ending(
        "raises a group",
        raises(ExceptionGroup("two", [ValueError("a"), KeyError("b")])),
        "retry",
        "ExceptionGroup: two (2 sub-exceptions)",
    ),
    Ending("recurses for ever", recurse, "retry", "RecursionError: maximum recursion depth exceeded"),
    Ending("has no memory", raises(MemoryError()), "retry", "MemoryError"),
]


def coroutine(app: App, act: Act) -> JobFunction[[], Any]:
    async def handler() -> None:
        act()

    return app.job(name="tried")(handler)


def suspending(app: App, act: Act) -> JobFunction[[], Any]:
    async def handler() -> None:
        await asyncio.sleep(0.001)
        act()

    return app.job(name="tried")(handler)


def thread(app: App, act: Act) -> JobFunction[[], Any]:
    def handler() -> None:
        act()

    return app.job(name="tried")(handler)


def with_middleware(make: Callable[[App, Act], JobFunction[[], Any]]) -> Any:
    def made(app: App, act: Act) -> JobFunction[[], Any]:
        @app.middleware
        async def through(job: Job, call_next: Callable[[Job], Any]) -> None:
            await call_next(job)

        return make(app, act)

    return made


WAYS = {
    "coroutine": coroutine,
    "suspending": suspending,
    "thread": thread,
    "coroutine in middleware": with_middleware(suspending),
    "thread in middleware": with_middleware(thread),
}


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.name)
@pytest.mark.parametrize("way", WAYS)
async def test_a_handler_that(way: str, ending: Ending, app: App, books: Books) -> None:
    tried = WAYS[way](app, ending.act)
    went_on = after(app)
    async with app.worker(concurrency=1) as pool:
        receipt = await tried.enqueue_async()
        await settled(pool, books, "tried")
        await lies_in(books, receipt, ending.place, ending.error)
        await went_on()


class Blocked:
    """A handler that waits until it is told to go on, and says what it saw."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go = threading.Event()
        self.saw = ""

    async def coroutine(self) -> None:
        self.started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.saw = "cancelled"
            raise

    def thread(self) -> None:
        self.started.set()
        try:
            while not self.go.wait(0.002):
                pass
        except BaseException:
            self.saw = "cancelled"
            raise

    async def stubborn_coroutine(self) -> None:
        self.started.set()
        while not self.go.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                self.saw = "cancelled"

    def stubborn_thread(self) -> None:
        self.started.set()
        while not self.go.is_set():
            try:
                while not self.go.wait(0.002):
                    pass
            except BaseException:  # noqa: BLE001 - exactly what a handler should not do
                self.saw = "cancelled"


def stoppable(way: str, app: App, blocked: Blocked, stubborn: bool, **options: Any) -> JobFunction[[], Any]:
    kind = "thread" if "thread" in way else "coroutine"
    if "middleware" in way:

        @app.middleware
        async def through(job: Job, call_next: Callable[[Job], Any]) -> None:
            await call_next(job)

    return app.job(name="tried", **options)(getattr(blocked, f"stubborn_{kind}" if stubborn else kind))


STOPPABLE = [way for way in WAYS if way != "coroutine"]
STUBBORN = pytest.mark.parametrize("stubborn", [False, True], ids=["that listens", "that does not listen"])


@STUBBORN
@pytest.mark.parametrize("way", STOPPABLE)
async def test_a_handler_past_its_timeout(way: str, stubborn: bool, app: App, books: Books) -> None:
    blocked = Blocked()
    tried = stoppable(way, app, blocked, stubborn, timeout=0.05)
    went_on = after(app)
    async with app.worker(concurrency=1) as pool:
        receipt = await tried.enqueue_async()
        await settled(pool, books, "tried")
        await lies_in(books, receipt, "retry", "JobTimeout: job 'tried' ran longer than its timeout of 0.05 s")
        await went_on()
        assert blocked.saw == "cancelled"
        blocked.go.set()
        await went_on()
    assert (await books.retry())[0]["fails"] == 1


@STUBBORN
@pytest.mark.parametrize("way", STOPPABLE)
async def test_a_job_that_is_cancelled(way: str, stubborn: bool, app: App, books: Books) -> None:
    blocked = Blocked()
    tried = stoppable(way, app, blocked, stubborn)
    went_on = after(app)
    async with app.worker(concurrency=1) as pool:
        receipt = await tried.enqueue_async()
        await eventually(blocked.started.is_set)
        assert pool.cancel(receipt.id)
        assert not pool.cancel("of nobody")
        await settled(pool, books, "tried")
        await lies_in(books, receipt, "dead", "cancelled")
        assert blocked.saw == "cancelled"
        await went_on()
        blocked.go.set()
        await went_on()


async def test_a_handler_that_returns_although_it_was_cancelled_has_done_its_job(app: App, books: Books) -> None:
    started = asyncio.Event()

    @app.job
    async def tried() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return

    went_on = after(app)
    async with app.worker(concurrency=1) as pool:
        receipt = await tried.enqueue_async()
        await soon(started.wait())
        pool.cancel(receipt.id)
        await settled(pool, books, "tried")
        assert not await books.places("tried")
        await went_on()
        assert pool.stats.done == 2


async def test_a_handler_that_cancels_its_own_task_fails_alone(app: App, books: Books) -> None:
    @app.job
    async def tried() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    went_on = after(app)
    async with app.worker(concurrency=1) as pool:
        receipt = await tried.enqueue_async()
        await settled(pool, books, "tried")
        await lies_in(books, receipt, "retry", "CancelledError")
        await went_on()


async def test_a_cancellation_that_a_handler_leaves_behind_hits_nobody(app: App, books: Books) -> None:
    @app.job
    async def tried() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    went_on = after(app)
    async with app.worker(concurrency=1) as pool:
        for _ in range(3):
            await tried.enqueue_async()
            await settled(pool, books, "tried")
            await went_on()
        assert not await books.retry()


async def test_a_timeout_belongs_to_one_job_only(app: App, books: Books) -> None:
    """A slot runs jobs with and without a limit; the limit of one must not hit the next."""
    release = asyncio.Event()

    @app.job(timeout=0.05)
    async def hurried() -> None:
        pass

    @app.job
    async def tried() -> None:
        await release.wait()

    async with app.worker(concurrency=1) as pool:
        await hurried.enqueue_async()
        await settled(pool, books, "hurried")
        await tried.enqueue_async()
        await eventually(lambda: pool.running == 1)
        end = time.monotonic() + 0.15
        await eventually(lambda: time.monotonic() > end)
        release.set()
        await settled(pool, books, "tried")
        assert pool.stats.failed == 0


async def test_a_cancelled_thread_takes_nobody_along(app: App, books: Books) -> None:
    """Short jobs are handed to a thread in chunks; cancelling one of them must not touch its chunk-mates."""
    reached, go, ran = threading.Event(), threading.Event(), []

    @app.job(max_fails=1)
    def tried(number: int) -> None:
        if number == 1000:
            reached.set()
            while not go.wait(0.002):
                pass
        ran.append(number)
        if number == 1001:
            raise ValueError("my own failure")

    async with app.worker(concurrency=1) as pool:
        for number in range(300):  # teach the pool that these are short
            await tried.enqueue_async(number=number)
        await settled(pool, books, "tried")
        jobs = [tried.options(id=str(number)).prepare(number=number) for number in range(1000, 1004)]
        await app.client.enqueue_many_async(jobs)
        await eventually(reached.is_set)
        assert pool.cancel("1000")
        await settled(pool, books, "tried")
        assert ran[-3:] == [1001, 1002, 1003]
        errors = {job["id"]: job["err"] for job in await books.dead()}
        assert errors == {"1000": "cancelled", "1001": "ValueError: my own failure"}


async def test_context_variables_do_not_reach_the_next_job(app: App, books: Books) -> None:
    found: list[str] = []
    variable: ContextVar[str] = ContextVar("variable", default="empty")

    @app.job
    async def in_coroutine() -> None:
        found.append(variable.get())
        variable.set("coroutine")

    @app.job
    def in_thread() -> None:
        found.append(variable.get())
        variable.set("thread")

    async with app.worker(concurrency=1) as pool:
        for _ in range(3):
            for job in (in_coroutine, in_thread):
                await job.enqueue_async()
                await settled(pool, books, job.name)
    assert found == ["empty"] * 6


async def test_a_threads_handler_sees_the_context_of_its_middleware(app: App, books: Books) -> None:
    found: list[str] = []
    variable: ContextVar[str] = ContextVar("variable", default="empty")

    @app.middleware
    async def trace(job: Job, call_next: Callable[[Job], Any]) -> None:
        variable.set(job.id)
        await call_next(job)

    @app.job
    def in_thread() -> None:
        found.append(variable.get())

    async with app.worker(concurrency=1) as pool:
        receipt = await in_thread.enqueue_async()
        await settled(pool, books, "in_thread")
    assert found == [receipt.id]


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warden, "CANCEL_GRACE", 0.1)


def after(app: App) -> Callable[[], Any]:
    """Registers a further job, and gives what runs it and waits for it: the pool works on."""
    ran = asyncio.Event()

    @app.job
    async def next_one() -> None:
        ran.set()

    async def go_on() -> None:
        ran.clear()
        await next_one.enqueue_async()
        await soon(ran.wait())

    return go_on


async def settled(pool: WorkerPool, books: Books, name: str) -> None:
    """Every job of this name has run and its end is written."""

    async def at_rest() -> bool:
        return not await books.queue(name) and await books.at_rest(name)

    await eventually(at_rest)


async def lies_in(books: Books, receipt: Receipt, place: str | None, error: str) -> None:
    """The job is here, nowhere else, with this error."""
    assert await books.places("tried") == ({place: 1} if place else {})
    left = [*await books.retry(), *await books.dead(), *await books.scheduled()]
    if place is None:
        assert not left
        return
    (job,) = left
    assert job["id"] == receipt.id
    assert job.get("fails", 0) == (0 if place == "scheduled" else 1)
    if error == "StopIteration":
        assert error in job["err"]  # Python makes a RuntimeError of it in a coroutine
    elif error:
        assert job["err"].startswith(error)
    else:
        assert "err" not in job
