"""Several pools on one namespace: free slots are used, caps are kept, and what is not ours any more is left alone."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
from tests.support import Books, eventually, running, soon

from packhorse import App, WorkerPool
from packhorse.clock import SYSTEM_CLOCK
from packhorse.engine.pace import Pace
from packhorse.protocols.gocraft.keys import Keys
from packhorse.protocols.gocraft.reaper import reap_pool
from packhorse.store import Link, Store, StoreSettings

NewApp = Callable[[], App]


class Hold:
    """Jobs that run until they are let go, one by one."""

    def __init__(self) -> None:
        self.inside: dict[int, threading.Event] = {}
        self.ran: Counter[int] = Counter()

    async def coroutine(self, n: int) -> None:
        go = self._enter(n)
        while not go.is_set():
            await asyncio.sleep(0.001)

    def thread(self, n: int) -> None:
        self._enter(n).wait(30)

    def _enter(self, n: int) -> threading.Event:
        self.ran[n] += 1
        if n >= 0:
            self.inside[n] = threading.Event()
            return self.inside[n]
        passing = threading.Event()
        passing.set()
        return passing

    def let_go(self, n: int) -> None:
        self.inside.pop(n).set()


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
@pytest.mark.parametrize("history", ["never run before", "known to be short"])
async def test_no_job_waits_while_a_slot_is_free_anywhere(
    kind: str, history: str, app: App, another: NewApp, books: Books
) -> None:
    hold = Hold()
    held = [each.job(name="held")(getattr(hold, kind)) for each in (app, another())]
    pools = [app.worker(concurrency=3), held[1]._app.worker(concurrency=2)]
    jobs = 20
    async with running(*pools):
        if history == "known to be short":
            await app.client.enqueue_many_async(held[0].prepare(n=-1) for _ in range(500))
            await eventually(lambda: hold.ran[-1] == 500)
            assert await all_quick(pools)
        await app.client.enqueue_many_async(held[0].prepare(n=n) for n in range(jobs))
        for left in range(jobs, 0, -1):
            await eventually(lambda left=left: len(hold.inside) == min(5, left))
            hold.let_go(random.choice(list(hold.inside)))
        await eventually(lambda: books.at_rest("held"))
    assert hold.ran == Counter(range(jobs)) + Counter({-1: hold.ran[-1]})
    assert sum(pool.stats.done for pool in pools) == jobs + hold.ran[-1]


async def all_quick(pools: list[WorkerPool]) -> bool:
    """At least one of them believes that it may claim ahead."""
    return any("held" in pool._executor.pace.quick for pool in pools)


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_what_was_claimed_ahead_runs_elsewhere_when_it_would_wait(
    kind: str, app: App, another: NewApp, books: Books
) -> None:
    """Short jobs teach a pool to claim ahead; then one blocks it. A peer that comes later gets the others."""
    hold = Hold()
    held = app.job(name="held")(getattr(hold, kind))
    peer = another()
    peer.job(name="held")(getattr(hold, kind))
    async with running(app.worker(concurrency=1)):
        await app.client.enqueue_many_async(held.prepare(n=-1) for _ in range(500))
        await app.client.enqueue_many_async(held.prepare(n=n) for n in range(10))
        await eventually(lambda: hold.inside)
        async with running(peer.worker(concurrency=9)):
            await eventually(lambda: len(hold.inside) == 10)
            for n in range(10):
                hold.let_go(n)
        await eventually(lambda: books.at_rest("held"))
    assert [hold.ran[n] for n in range(10)] == [1] * 10


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_a_cap_holds_over_all_pools(kind: str, app: App, another: NewApp, books: Books) -> None:
    inside, most, ran, lock = 0, 0, Counter[int](), threading.Lock()

    def enter(n: int) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            ran[n] += 1

    def leave() -> None:
        nonlocal inside
        with lock:
            inside -= 1

    async def coroutine(n: int) -> None:
        enter(n)
        await asyncio.sleep(random.uniform(0, 0.004))
        leave()

    def thread(n: int) -> None:
        enter(n)
        threading.Event().wait(random.uniform(0, 0.004))
        leave()

    apps = [app, another()]
    handler = {"coroutine": coroutine, "thread": thread}[kind]
    capped = [each.job(name="capped", max_concurrency=3)(handler) for each in apps]
    async with running(*(each.worker(concurrency=5) for each in apps)):
        await app.client.enqueue_many_async(capped[0].prepare(n=n) for n in range(60))
        await eventually(lambda: len(ran) == 60)
        await eventually(lambda: books.at_rest("capped"))
    assert most == 3
    assert ran == Counter(range(60))
    assert not any(await books.locks("capped"))


@pytest.fixture
async def link(url: str) -> AsyncIterator[Link]:
    store = Store(StoreSettings(url))
    yield store.link()
    await store.close()


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
@pytest.mark.parametrize("ending", ["returns", "raises"])
async def test_a_pool_that_was_taken_for_dead_changes_nothing(
    kind: str, ending: str, app: App, another: NewApp, books: Books, link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    """Pool A is frozen, its job is given to B; then A wakes up and ends the job: that is not written any more."""
    hold = Hold()
    caplog.set_level(logging.WARNING)

    async def coroutine(n: int) -> None:
        await hold.coroutine(n)
        if ending == "raises":
            raise ValueError("too late")

    def thread(n: int) -> None:
        hold.thread(n)
        if ending == "raises":
            raise ValueError("too late")

    held = app.job(name="held", max_concurrency=2)({"coroutine": coroutine, "thread": thread}[kind])
    a = app.worker(concurrency=1, pulse=False)
    async with running(a):
        await held.enqueue_async(n=1)
        await eventually(lambda: hold.inside)
        frozen = hold.inside[1]
        keys = Keys(app.namespace)
        beat = await link.one("HGET", keys.pool(a.record.id), "heartbeat_at")
        a.quiet()
        assert await reap_pool(link, keys, a.record.id, beat, ["held"], "tail", SYSTEM_CLOCK) == 1
        assert await books.places("held") == {"queue": 1}
        assert await books.at_rest("held")
        b_app = another()
        b_app.job(name="held", max_concurrency=2)(hold.coroutine)
        async with running(b_app.worker(concurrency=1)):
            await eventually(lambda: hold.ran[1] == 2)
            assert await books.locks("held") == [1, 1]
            frozen.set()
            await eventually(lambda: a.stats.lost == 1)
            assert await books.places("held") == {"held": 1}
            assert await books.locks("held") == [1, 1]
            hold.let_go(1)
            await eventually(lambda: books.at_rest("held"))
    assert await books.places("held") == {}
    assert not any(await books.locks("held"))
    assert "was taken away while it ran here" in caplog.text


async def test_a_pool_that_was_taken_for_dead_comes_back(app: App, books: Books, link: Link) -> None:
    """It registers again before it takes the next job, so that it can be found."""
    ran: list[int] = []

    @app.job
    async def tried(n: int) -> None:
        ran.append(n)

    async with running(pool := app.worker(concurrency=1, pulse=False)):
        await tried.enqueue_async(n=1)
        await soon(pool.drain())
        keys = Keys(app.namespace)
        beat = await link.one("HGET", keys.pool(pool.record.id), "heartbeat_at")
        assert await reap_pool(link, keys, pool.record.id, beat, ["tried"], "tail", SYSTEM_CLOCK) == 0
        assert not await link.one("SISMEMBER", keys.worker_pools, pool.record.id)
        await tried.enqueue_async(n=2)
        await eventually(lambda: ran == [1, 2])
        assert await link.one("SISMEMBER", keys.worker_pools, pool.record.id)
    assert await books.at_rest("tried")


def test_claims_ahead_are_bounded_by_rate_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 ms of work at the measured rate, never from slow queues, never many megabytes."""
    now = 0.0
    monkeypatch.setattr("packhorse.engine.pace.tick", lambda: now)
    pace = Pace()

    def work(seconds: float, jobs: int) -> None:
        nonlocal now
        for _ in range(jobs):
            now += seconds
            pace.ran("q", seconds)
            pace.prefetch()

    assert pace.prefetch() == 0
    work(0.001, 200)
    assert 5 <= pace.prefetch() <= 10
    work(0.0003, 400)
    assert 25 <= pace.prefetch() <= 34
    now += Pace.STALE
    assert pace.prefetch() == 0, "nothing has ended for a while"
    work(0.0003, 400)
    pace._mean_bytes = 1 << 20
    assert pace.prefetch() == 4
    work(0.02, 50)
    assert pace.prefetch() == 0
    assert "q" not in pace.quick
