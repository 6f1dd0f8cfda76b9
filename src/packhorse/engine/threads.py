"""Threads for sync handlers.

A hop to a thread and back costs more than a short handler, so a thread takes a chunk of short jobs and reports them
together: one wake-up of the loop per burst. A handler past its limit gets an exception raised in its thread; one that
does not even then come back loses its thread, which is replaced.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from packhorse.clock import Clock, tick
from packhorse.engine.board import Board
from packhorse.engine.slots import CheckIn, Slot
from packhorse.protocols.base import Delivery
from packhorse.registry import Handler, Registry

Ended = Callable[[Slot, Delivery, float, "BaseException | None"], None]


class Interrupted(BaseException):
    """Raised inside a handler's thread to stop it. Handlers should let it pass."""


class _Worker:
    """One thread. `lock` guards the moment between a job's end and an interruption meant for it."""

    __slots__ = ("abandoned", "inbox", "lock", "running", "thread")

    def __init__(self, name: str) -> None:
        self.inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.lock = threading.Lock()
        self.running: object | None = None
        self.abandoned = False
        # Daemon: at the end of the process a stuck handler must not keep it alive; its job went back before.
        self.thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while not self.abandoned:
            try:
                work = self.inbox.get()
                if work is None:
                    return
                work()
            except Interrupted:
                continue  # came too late for its job

    def interrupt(self, job: object) -> None:
        with self.lock:
            if self.running is job and self.thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self.thread.ident), ctypes.py_object(Interrupted)
                )


class ThreadLane:
    """As many threads as run at once, reused. `ended` is called on the loop for each job of a chunk."""

    def __init__(self, ended: Ended) -> None:
        self.ended = ended
        self._spare: list[_Worker] = []
        self._busy: dict[int, _Worker] = {}
        self._reports: deque[Callable[[], object]] = deque()
        self._woken = False
        self._count = 0

    async def run(self, slot: Slot, registry: Registry, clock: Clock, board: Board | None) -> None:
        """Run `slot.waiting` in one thread, job after job; returns when all have ended and been reported."""
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()
        worker = self._take(slot)
        slot.interrupt = lambda: worker.interrupt(slot)
        run = _Run(self, worker, slot, registry, clock, board, loop)
        worker.inbox.put(lambda: run.all(finished))
        await finished
        self._release(slot)

    async def call(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one handler and give its result; cancelling this call interrupts the thread."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Any] = loop.create_future()
        token = object()
        worker = self._spare.pop() if self._spare else self._new()

        def work() -> None:
            value, error = _guarded(worker, token, lambda: handler.fn(*args, **kwargs))
            self.report(loop, lambda: _resolve(result, value, error))

        worker.inbox.put(work)
        try:
            value = await result
        except asyncio.CancelledError:
            worker.interrupt(token)
            worker.abandoned = True
            worker.inbox.put(None)
            raise
        except BaseException:
            self._spare.append(worker)
            raise
        self._spare.append(worker)
        return value

    def abandon(self, slot: Slot) -> None:
        """Nobody waits for what this slot's thread does any more."""
        worker = self._busy.pop(id(slot), None)
        if worker is not None:
            worker.abandoned = True
            worker.inbox.put(None)

    def close(self) -> None:
        for worker in [*self._spare, *self._busy.values()]:
            worker.inbox.put(None)

    def _take(self, slot: Slot) -> _Worker:
        worker = self._spare.pop() if self._spare else self._new()
        self._busy[id(slot)] = worker
        return worker

    def _new(self) -> _Worker:
        self._count += 1
        return _Worker(f"packhorse-thread-{self._count}")

    def _release(self, slot: Slot) -> None:
        worker = self._busy.pop(id(slot), None)
        if worker is not None:
            self._spare.append(worker)

    def report(self, loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
        self._reports.append(what)
        if not self._woken:
            self._woken = True
            try:
                loop.call_soon_threadsafe(self._read_reports)
            except RuntimeError:
                return  # the loop is closed: the pool is gone, and its jobs went back before

    def _read_reports(self) -> None:
        self._woken = False
        while self._reports:
            self._reports.popleft()()


class _Run:
    """A chunk in its thread: takes from `slot.waiting` until that is empty."""

    __slots__ = ("_board", "_clock", "_lane", "_loop", "_registry", "_slot", "_worker")

    def __init__(
        self, lane: ThreadLane, worker: _Worker, slot: Slot, registry: Registry, clock: Clock, board: Board | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:  # fmt: skip
        self._lane, self._worker, self._slot, self._registry = lane, worker, slot, registry
        self._clock, self._board, self._loop = clock, board, loop

    def all(self, finished: asyncio.Future[None]) -> None:
        try:
            while not self._worker.abandoned:
                try:
                    delivery = self._slot.waiting.popleft()
                except IndexError:
                    break
                self._one(delivery)
        finally:
            self._lane.report(self._loop, lambda: _resolve(finished, None, None))

    def _one(self, delivery: Delivery) -> None:
        slot, job, board = self._slot, delivery.job, self._board
        assert job is not None
        handler = self._registry.get(job.name)
        assert handler is not None
        start = tick()
        slot.delivery, slot.started = delivery, start
        if board is not None:
            board.start(slot.cell, job.id)
        if handler.wants_job:
            job.on_checkin_ = CheckIn(slot, self._clock)

        def run() -> None:
            args, kwargs = handler.bind(job)
            handler.fn(*args, **kwargs)

        _, error = _guarded(self._worker, slot, run)
        seconds = tick() - start
        if not self._worker.abandoned:
            if board is not None:
                board.end(slot.cell)
            self._lane.report(self._loop, lambda: self._lane.ended(slot, delivery, seconds, error))


def _guarded(worker: _Worker, token: object, run: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """(value, error) of `run`; an interruption can only hit while it runs."""
    value: Any = None
    error: BaseException | None = None
    try:
        worker.running = token
        try:
            value = run()
        finally:
            with worker.lock:
                worker.running = None
    except BaseException as exc:  # noqa: BLE001 - a handler may raise anything, and must not end the thread
        error = exc
    return value, error


def _resolve(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, StopIteration):
        # A future refuses this one: it would end the coroutine that waits.
        future.set_exception(RuntimeError("the handler raised StopIteration"))
    else:
        future.set_exception(error)
