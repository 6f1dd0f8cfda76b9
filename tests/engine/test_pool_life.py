"""The life of a pool: start, quiet, drain, stop, and what becomes of the jobs in its hands."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from tests.engine import process_jobs
from tests.support import Books, RespProxy, eventually, running, runs, soon

from packhorse import App, ConfigError, Job, JobFunction, StoreUnavailable, WorkerSettings
from packhorse.embedded import EmbeddedServer
from packhorse.engine import pool as pool_module
from packhorse.engine.pace import Pace
from packhorse.protocols.gocraft import scripts


class Gate:
    """Handlers that wait until the gate opens."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside: list[int] = []
        self.passed: list[int] = []
        self.stopped: list[int] = []

    async def coroutine(self, n: int) -> None:
        self.inside.append(n)
        try:
            while not self.open.is_set():
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            self.stopped.append(n)
            raise
        self.passed.append(n)

    def thread(self, n: int) -> None:
        self.inside.append(n)
        try:
            while not self.open.wait(0.002):
                pass
        except BaseException:
            self.stopped.append(n)
            raise
        self.passed.append(n)

    async def stubborn(self, n: int) -> None:
        self.inside.append(n)
        while not self.open.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.002)
        self.passed.append(n)

    def stubborn_thread(self, n: int) -> None:
        self.inside.append(n)
        self.open.wait(15)  # nothing interrupts a thread in here
        self.passed.append(n)


@pytest.fixture
def gate() -> Any:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_stop_lets_running_jobs_finish(kind: str, app: App, gate: Gate, books: Books) -> None:
    held = app.job(name="held")(getattr(gate, kind))
    pool = app.worker(concurrency=2)
    await pool.start()
    for n in range(3):
        await held.enqueue_async(n=n)
    await eventually(lambda: len(gate.inside) == 2)
    stopping = asyncio.create_task(pool.stop())
    await eventually(lambda: pool.running == 2)
    assert not stopping.done()
    gate.open.set()
    await soon(stopping)
    assert sorted(gate.passed) == sorted(gate.inside) == [0, 1]
    assert (pool.stats.done, pool.stats.failed, pool.stats.returned) == (2, 0, 0)
    assert await books.places("held") == {"queue": 1}
    assert await books.at_rest("held")
    assert await nobody_is_listed(books)


@pytest.mark.parametrize("way", ["direct", "in middleware"])
@pytest.mark.parametrize("kind", ["coroutine", "thread", "stubborn", "stubborn_thread"])
async def test_stop_hands_back_what_does_not_finish(
    kind: str, way: str, app: App, gate: Gate, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "CANCEL_WAIT", 0.1)
    if way == "in middleware":

        @app.middleware
        async def through(job: Job, call_next: Callable[[Job], Any]) -> None:
            await call_next(job)

    held = app.job(name="held")(getattr(gate, kind))
    for n in range(2):
        await held.options(expires_in=60).enqueue_async(n=n)
    payloads = await books.queue("held")
    pool = app.worker(concurrency=2)
    await pool.start()
    await eventually(lambda: len(gate.inside) == 2)
    await soon(pool.stop(timeout=0.05))
    assert sorted(await books.queue("held")) == sorted(payloads)
    assert await books.places("held") == {"queue": 2}
    assert await books.at_rest("held")
    assert await nobody_is_listed(books)
    assert sorted(gate.stopped) == ([] if "stubborn" in kind else [0, 1])
    assert (pool.stats.returned, pool.stats.failed) == (2, 0)
    gate.open.set()
    await eventually(lambda: kind != "stubborn" or len(gate.passed) == 2)


async def test_stop_hands_back_what_runs_in_a_process(app: App, books: Books) -> None:
    tried = app.job(name="tried", kind="process")(process_jobs.end.fn)
    await tried.enqueue_async(how="sleeps")
    (payload,) = await books.queue("tried")
    pool = app.worker(concurrency=1)
    await pool.start()
    await eventually(lambda: pool.running)
    await soon(pool.stop(timeout=0.05))
    assert await books.queue("tried") == [payload]
    assert await books.at_rest("tried")


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
@pytest.mark.parametrize("end", ["quiet", "stop"])
async def test_what_was_claimed_ahead_goes_back_in_its_order(
    kind: str, end: str, app: App, gate: Gate, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "prefetch", lambda _: 50)
    monkeypatch.setattr(Pace, "STALE", 60)
    held = app.job(name="held")(getattr(gate, kind))
    gate.open.set()
    pool = app.worker(concurrency=1)
    async with running(pool):
        await held.enqueue_async(n=-1)
        await eventually(lambda: gate.passed)
        gate.open.clear()
        await app.client.enqueue_many_async(held.prepare(n=n) for n in range(20))
        await eventually(lambda: len(gate.inside) == 2)
        await eventually(lambda: holds(books, "held", 20))
        if end == "quiet":
            pool.quiet()
            await eventually(lambda: holds(books, "held", 1))
        else:
            stopping = asyncio.create_task(pool.stop())
            await eventually(lambda: holds(books, "held", 1))
        gate.open.set()
        if end == "stop":
            await stopping
    assert gate.passed == [-1, 0]
    assert pool.stats.returned == 19
    async with app.worker(concurrency=1) as other:
        await soon(other.drain())
    assert gate.passed == list(range(-1, 20))
    assert await books.at_rest("held")


async def test_what_arrives_after_quiet_goes_back(app: App, server: EmbeddedServer, tmp_path: Path) -> None:
    """The answer to a fetch can be on its way when the pool becomes quiet: its jobs do not start any more."""
    async with RespProxy(str(server.socket), str(tmp_path / "proxy")) as proxy:
        behind = App(proxy.url, namespace=app.namespace)
        ran: list[int] = []

        @behind.job
        async def tried(n: int) -> None:
            ran.append(n)

        pool = behind.worker(concurrency=4)
        async with running(pool):
            await eventually(lambda: pool.round_trips)
            proxy.slow(0.1, 0.1)
            seen = len(proxy.commands)
            await app.client.enqueue_many_async(app.client.prepare("tried", {"n": n}) for n in range(4))
            await eventually(lambda: any(runs(scripts.FETCH)(command) for command in proxy.commands[seen:]))
            pool.quiet()
            await eventually(lambda: pool.stats.returned == 4)
            proxy.slow(0, 0)
        assert not ran
        async with behind.worker(concurrency=1) as pool:
            await soon(pool.drain())
        assert ran == [0, 1, 2, 3]


async def test_a_quiet_pool_is_alive(app: App, gate: Gate, books: Books, raw: redis.asyncio.Redis) -> None:
    held = app.job(name="held")(gate.coroutine)
    async with app.worker(concurrency=2) as pool:
        await held.enqueue_async(n=1)
        await eventually(lambda: gate.inside)
        pool.quiet()
        await held.enqueue_async(n=2)
        members = await raw.smembers(f"{books.prefix}worker_pools")
        assert members == {pool.record.id.encode()}
        assert await raw.hget(f"{books.prefix}worker_pools:{pool.record.id}", "heartbeat_at")
        gate.open.set()
        await soon(pool.drain())
        assert gate.passed == [1]
        assert await books.places("held") == {"queue": 1}


async def test_drain_waits_for_the_last_settlement(app: App, books: Books) -> None:
    @app.job
    async def tried() -> None:
        await asyncio.sleep(0.001)

    async with app.worker(concurrency=5) as pool:
        for _ in range(30):
            await tried.enqueue_async()
            await soon(pool.drain())
            assert await books.places("tried") == {}
            assert await books.at_rest("tried")


async def test_a_pool_ends_with_the_task_that_runs_it(app: App, gate: Gate, books: Books) -> None:
    held = app.job(name="held")(gate.coroutine)
    inside = asyncio.Event()

    async def program() -> None:
        async with app.worker(concurrency=1, stop_timeout=0.05):
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(program())
    await soon(inside.wait())
    await held.enqueue_async(n=1)
    await eventually(lambda: gate.inside)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert await books.places("held") == {"queue": 1}
    assert await books.at_rest("held")
    assert await nobody_is_listed(books)


@pytest.mark.parametrize("runs_something", [True, False])
@pytest.mark.parametrize("turns", [1, 3, 5, 8, 12, 20])
async def test_a_stop_that_is_cancelled_leaves_nothing_running(
    turns: int, runs_something: bool, app: App, gate: Gate
) -> None:
    held = app.job(name="held")(gate.coroutine)
    before = asyncio.all_tasks()
    pool = app.worker(concurrency=1)
    await pool.start()
    if runs_something:
        await held.enqueue_async(n=1)
        await eventually(lambda: gate.inside)
    stopping = asyncio.create_task(pool.stop())
    for _ in range(turns):
        await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping], timeout=15)
    assert stopping.done()
    await eventually(lambda: asyncio.all_tasks() <= before)
    await eventually(lambda: "packhorse-pulse" not in thread_names())


@pytest.mark.parametrize("turns", [0, 1, 3, 5, 8, 12, 20])
async def test_a_start_that_is_cancelled_leaves_nothing_running(turns: int, app: App, books: Books) -> None:
    app.job(name="held")(Gate().coroutine)
    before = asyncio.all_tasks()

    async def program() -> None:
        async with app.worker(concurrency=1, stop_timeout=0):
            await asyncio.sleep(60)

    task = asyncio.create_task(program())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert asyncio.all_tasks() <= before
    assert "packhorse-pulse" not in thread_names()
    # A pool that was just being listed is found by others like any dead one; nothing else may be left.
    assert not await books.raw.keys(f"{books.prefix}worker:*")


async def test_a_pool_that_does_nothing_stops_at_once(app: App, books: Books) -> None:
    app.job(name="held")(Gate().coroutine)
    async with app.worker():
        pass
    pool = app.worker()
    await pool.start()
    await pool.stop()
    await pool.stop()
    never_started = app.worker()
    await never_started.stop()
    assert await nobody_is_listed(books)
    assert "packhorse-pulse" not in thread_names()


async def test_several_apps_and_pools_share_a_loop(url: str, app: App, namespace: str) -> None:
    """Jobs of one App run in its own pools only, and each exactly once."""
    apps = [app, App(url, namespace=f"{namespace}-second")]
    ran: list[list[int]] = [[], []]
    jobs: list[JobFunction[[int], Any]] = []
    for which, each in enumerate(apps):

        def make(into: list[int]) -> Callable[[int], Any]:
            async def tried(n: int) -> None:
                into.append(n)

            return tried

        jobs.append(each.job(name="tried")(make(ran[which])))
    async with running(*(each.worker(concurrency=3) for each in (*apps, *apps))):
        for n in range(20):
            for which, job in enumerate(jobs):
                await job.enqueue_async(n=100 * which + n)
        await eventually(lambda: sum(map(len, ran)) == 40)
    assert [sorted(each) for each in ran] == [list(range(20)), list(range(100, 120))]


def test_a_pool_inside_another_program_cleans_up_after_itself(app: App) -> None:
    """Everything goes with `asyncio.run`: threads, tasks, connections (a warning would fail this test)."""
    ran: list[str] = []

    @app.job
    async def in_coroutine() -> None:
        ran.append("coroutine")

    @app.job
    def in_thread() -> None:
        ran.append("thread")

    async def program() -> None:
        async with app.worker(concurrency=2) as pool:
            await in_coroutine.enqueue_async()
            await asyncio.to_thread(in_thread.enqueue)
            await eventually(lambda: len(ran) == 2)
            await soon(pool.drain())

    for _ in range(2):
        asyncio.run(program())
        assert sorted(ran) == ["coroutine", "thread"]
        ran.clear()
    app.client.close()
    assert not [name for name in thread_names() if name.startswith("packhorse")]


async def test_a_pool_cannot_start_without_its_store(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "server")
    app = App(server.url, namespace="down")
    done = asyncio.Event()

    @app.job
    async def tried() -> None:
        done.set()

    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        async with app.worker():
            raise AssertionError("unreachable")
    pool = app.worker()
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await pool.start()
    with server:
        await pool.start()
        await tried.enqueue_async()
        await soon(done.wait())
        await pool.stop()
    await app.client.aclose()


def test_a_pool_without_jobs_makes_no_sense(app: App) -> None:
    with pytest.raises(ConfigError, match="this App has no jobs"):
        app.worker()


@pytest.mark.parametrize(
    "settings", [{"concurrency": 0}, {"concurrency": 10_001}, {"stop_timeout": -1}, {"pool_id": ""}, {"pool_id": "a,b"}]
)
def test_settings_that_cannot_work(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        WorkerSettings(**settings)


async def holds(books: Books, name: str, count: int) -> bool:
    return len(await books.held(name)) == count


async def nobody_is_listed(books: Books) -> bool:
    return not await books.raw.keys(f"{books.prefix}worker*")


def thread_names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]
