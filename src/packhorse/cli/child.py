"""The life of one worker process: its pools, one per App, and the signals that stop them.

TERM, INT (and HUP, unless it is ignored as under nohup): take no more, finish what runs within the stop time,
hand the rest back; the second one: now. USR1 and TSTP: take no more, stay. Nothing stays claimed at the end.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from packhorse.app import App
from packhorse.engine.board import Board
from packhorse.engine.pool import WorkerPool
from packhorse.errors import StoreError, StoreUnfit
from packhorse.settings import WorkerSettings

log = logging.getLogger(__name__)

LOOK_EVERY = 0.05
QUIET_SIGNALS = (signal.SIGUSR1, signal.SIGTSTP)


class Orders:
    """What signals have asked for: `stop` = end in good order, `now` = without waiting for jobs."""

    def __init__(self, pools: Sequence[WorkerPool]) -> None:
        self._pools = pools
        self.stop = asyncio.Event()
        self.now = asyncio.Event()

    def on_stop(self) -> None:
        if self.stop.is_set():
            log.warning("stopping now")
            self.now.set()
            return
        running = sum(pool.running for pool in self._pools)
        log.info("stopping: %d running; the same signal once more stops at once", running)
        self.stop.set()

    def on_orphaned(self, lifeline: int) -> None:
        """The supervisor is gone: nobody beats for this process any more."""
        asyncio.get_running_loop().remove_reader(lifeline)
        log.error("the supervisor has died")
        for pool in self._pools:
            pool.beat_from_here()
        self.on_stop()

    def on_quiet(self) -> None:
        log.info("taking no more jobs")
        for pool in self._pools:
            pool.quiet()


@dataclass(frozen=True, slots=True)
class ChildPlace:
    """What a supervisor tells its child: identities for its pools, where to note what runs, how to see it end."""

    pool_ids: tuple[str, ...]
    board_fd: int
    lifeline_fd: int

    def written(self) -> str:
        return f"{','.join(self.pool_ids)}:{self.board_fd}:{self.lifeline_fd}"

    @classmethod
    def read(cls, text: str) -> ChildPlace:
        pool_ids, board, lifeline = text.split(":")
        return cls(tuple(pool_ids.split(",")), int(board), int(lifeline))


async def run_child(
    apps: Sequence[App], settings: WorkerSettings, place: ChildPlace, max_jobs: int | None, drain: bool
) -> int:
    """Run a pool for each App until a signal, an empty store (`drain`) or `max_jobs`; gives the exit code.

    A store that goes away is waited for. Errors: StoreUnfit when it can never do.
    """
    # Handlers that run in threads take turns with the event loop; the interpreter's 5 ms turns would make it late.
    sys.setswitchinterval(0.001)
    board = Board(place.board_fd, settings.concurrency * len(apps))
    pools = [
        app.worker(replace(settings, pool_id=pool_id, pulse=False), board=board, first_cell=i * settings.concurrency)
        for i, (app, pool_id) in enumerate(zip(apps, place.pool_ids, strict=True))
    ]
    orders = Orders(pools)
    # The pipe ends when the supervisor does, however it ends.
    asyncio.get_running_loop().add_reader(place.lifeline_fd, orders.on_orphaned, place.lifeline_fd)
    with listening(orders.on_stop, orders.on_quiet):
        try:
            await _first(_start(pools), orders.stop.wait())
            await _until_it_ends(pools, orders, drain, max_jobs)
        finally:
            await _stop(pools, settings.stop_timeout, orders.now)
            await asyncio.gather(*(app.client.aclose() for app in apps))
    log.info("stopped after %d jobs", sum(pool.stats.done + pool.stats.failed for pool in pools))
    return 0


@contextmanager
def listening(on_stop: Callable[[], None], on_quiet: Callable[[], None]) -> Iterator[None]:
    """Take the signals of a worker, here and in its supervisor."""
    loop = asyncio.get_running_loop()
    stops = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        stops.append(signal.SIGHUP)
    for number in stops:
        loop.add_signal_handler(number, on_stop)
    for number in QUIET_SIGNALS:
        loop.add_signal_handler(number, on_quiet)
    try:
        yield
    finally:
        for number in (*stops, *QUIET_SIGNALS):
            loop.remove_signal_handler(number)


async def _start(pools: Sequence[WorkerPool]) -> None:
    pause = 0.1
    for pool in pools:
        while True:
            try:
                await pool.start()
                break
            except StoreUnfit:
                raise
            except StoreError as exc:
                log.warning("waiting for the store: %s", exc)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)


async def _until_it_ends(pools: Sequence[WorkerPool], orders: Orders, drain: bool, max_jobs: int | None) -> None:
    reasons: list[Coroutine[Any, Any, object]] = [orders.stop.wait()]
    if drain:
        reasons.append(_drained(pools))
    if max_jobs is not None:
        reasons.append(_ran(pools, max_jobs))
    await _first(*reasons)


async def _stop(pools: Sequence[WorkerPool], timeout: float, now: asyncio.Event) -> None:
    """Wait for running jobs here rather than in the pool, so that a second signal can end the waiting."""
    for pool in pools:
        pool.quiet()
    if any(pool.running for pool in pools):
        await _first(_idle(pools), now.wait(), asyncio.sleep(timeout))
    await asyncio.gather(*(pool.stop(0.0) for pool in pools))


async def _idle(pools: Sequence[WorkerPool]) -> None:
    while any(pool.running for pool in pools):  # noqa: ASYNC110 - pools tell numbers
        await asyncio.sleep(LOOK_EVERY)


async def _drained(pools: Sequence[WorkerPool]) -> None:
    # Twice: a job of the second pool may have left one for the first.
    for pool in (*pools, *pools):
        await pool.drain()
    log.info("nothing is left to run now")


async def _ran(pools: Sequence[WorkerPool], limit: int) -> None:
    while sum(pool.stats.done + pool.stats.failed for pool in pools) < limit:  # noqa: ASYNC110 - as above
        await asyncio.sleep(LOOK_EVERY)
    log.info("%d jobs have run: this process ends", limit)


async def _first(*works: Coroutine[Any, Any, object]) -> None:
    """Return, or raise, as soon as one of these does; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
