"""Threads for sync handlers.

A hop to a thread and back costs more than a short handler, so a thread takes a chunk of short jobs and reports them
together: one wake-up of the loop per burst. A handler past its limit gets an exception raised in its thread; one that
does not even then come back loses its thread, which is replaced.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, TypeVar

from packhorse.clock import Clock, tick
from packhorse.engine.board import Board
from packhorse.engine.slots import CheckIn, Slot
from packhorse.protocols.base import Delivery
from packhorse.registry import Handler, Registry

log = logging.getLogger(__name__)

Ended = Callable[[Slot, Delivery, float, "BaseException | None"], None]
_Answer = tuple[Any, "BaseException | None"]
T = TypeVar("T")


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

    def interrupt(self, job: object) -> bool:
        """False if the job does not run here (any more)."""
        with self.lock:
            if self.running is not job or self.thread.ident is None:
                return False
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread.ident), ctypes.py_object(Interrupted))
            return True

    def abandon(self, job: object) -> bool:
        """Do not listen to this thread any more. False if the job has ended: then it has a report to make."""
        with self.lock:
            if self.running is not job:
                return False
            self.abandoned = True
        self.inbox.put(None)
        return True


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
        slot.interrupt = worker.interrupt
        run = _Run(self, worker, slot, registry, clock, board, loop)
        worker.inbox.put(lambda: run.all(finished))
        await finished
        self._release(slot)

    async def call(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one handler in this context and give its result.

        Cancelling this call interrupts the thread and waits for it; cancelling it again leaves the thread alone.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[_Answer] = loop.create_future()
        token, context = object(), copy_context()
        worker = self._spare.pop() if self._spare else self._new()

        def work() -> None:
            answer = _guarded(worker, token, lambda: context.run(handler.fn, *args, **kwargs))
            self.report(loop, lambda: _resolve(ended, answer))

        worker.inbox.put(work)
        try:
            value, error = await asyncio.shield(ended)
        except asyncio.CancelledError:
            worker.interrupt(token)
            try:
                value, error = await asyncio.shield(ended)
            except asyncio.CancelledError:
                worker.abandon(token)
                raise
        self._spare.append(worker)
        if error is None:
            return value
        raise asyncio.CancelledError if isinstance(error, Interrupted) else error

    def abandon(self, slot: Slot, delivery: Delivery) -> bool:
        """Nobody waits for what this slot's thread does any more; False if it has just ended this delivery."""
        worker = self._busy.get(id(slot))
        if worker is None:
            return True
        if not worker.abandon(delivery):
            return False
        del self._busy[id(slot)]
        return True

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
            try:
                self._reports.popleft()()
            except Exception:  # one that fails must not keep the others from being heard
                log.exception("a report of a thread failed")


class _Run:
    """A chunk in its thread: takes from `slot.waiting` until that is empty."""

    __slots__ = ("_board", "_clock", "_context", "_lane", "_loop", "_registry", "_slot", "_worker")

    def __init__(
        self, lane: ThreadLane, worker: _Worker, slot: Slot, registry: Registry, clock: Clock, board: Board | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:  # fmt: skip
        self._lane, self._worker, self._slot, self._registry = lane, worker, slot, registry
        self._clock, self._board, self._loop, self._context = clock, board, loop, copy_context()

    def all(self, finished: asyncio.Future[None]) -> None:
        try:
            while not self._worker.abandoned:
                try:
                    delivery = self._slot.waiting.popleft()
                except IndexError:
                    break
                self._one(delivery)
        finally:
            self._lane.report(self._loop, lambda: _resolve(finished, None))

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

        # A copy for each job: what one sets, the next must not see.
        context = self._context.copy()
        _, error = _guarded(self._worker, delivery, lambda: context.run(run))
        seconds = tick() - start
        if not self._worker.abandoned:
            if board is not None:
                board.end(slot.cell)
            self._lane.report(self._loop, lambda: self._lane.ended(slot, delivery, seconds, error))


def _guarded(worker: _Worker, token: object, run: Callable[[], Any]) -> _Answer:
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


def _resolve(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)
