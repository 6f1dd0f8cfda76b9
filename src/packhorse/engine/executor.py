"""Executor: runs deliveries in slots and gathers their outcomes.

Fed by the fetcher, which also takes the outcomes away. Each slot is one long-lived task: a handler that never
suspends costs no task of its own, and one that does suspends its slot only. Invariant: every delivery that was
fed comes out exactly once as a settlement, whatever its handler does.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from typing import Any

from packhorse.clock import Clock, tick
from packhorse.engine.board import Board
from packhorse.engine.outcome import NO_HANDLER
from packhorse.engine.pace import Pace
from packhorse.engine.processes import ProcessLane
from packhorse.engine.slots import CheckIn, Slot, drained
from packhorse.engine.threads import ThreadLane
from packhorse.engine.warden import Warden
from packhorse.job import Job
from packhorse.protocols.base import DONE, RETURNED, Dead, Delivery, Outcome, Settlement, Want
from packhorse.registry import Handler, Kind, Registry

log = logging.getLogger(__name__)

CallNext = Callable[[Job], Awaitable[Any]]
Middleware = Callable[[Job, CallNext], Awaitable[Any]]

#: Longest time that handlers which never suspend may keep the event loop from its connections.
SLICE = 0.001


class Stats:
    """What happened in this pool since it started."""

    __slots__ = ("done", "failed", "lost", "returned")

    def __init__(self) -> None:
        self.done = self.failed = self.lost = self.returned = 0


class Executor:
    """`changed` is called whenever there is something to settle or room for more."""

    def __init__(
        self,
        registry: Registry,
        middleware: Sequence[Middleware],
        worker_ids: Sequence[str],
        clock: Clock,
        changed: Callable[[], None],
        board: Board | None = None,
        first_cell: int = 0,
    ) -> None:
        self.stats = Stats()
        self.pace = Pace()
        self.outcomes: list[Settlement] = []
        self.slots = [Slot(worker_id, first_cell + i) for i, worker_id in enumerate(worker_ids)]
        self._board = board
        self._registry = registry
        self._clock = clock
        self._changed = changed
        self._ready: deque[Delivery] = deque()
        self._idle: list[Slot] = list(reversed(self.slots))
        self._chain = _compose(middleware, self._call) if middleware else None
        self.warden = Warden(self, registry, clock)
        self._threads = ThreadLane(self._thread_ended)
        self._processes = ProcessLane()
        self._stale_check: asyncio.TimerHandle | None = None
        self._told = False
        self._stopping = False

    # -- for the fetcher -------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        return len(self.slots) - len(self._idle)

    @property
    def busy(self) -> bool:
        return bool(self._ready) or self.running > 0

    def want(self) -> Want | None:
        """How many jobs may come now, or None for none."""
        waiting = len(self._ready)
        slots = max(len(self._idle) - waiting, 0)
        most = self.pace.prefetch()
        ahead = max(most - max(waiting - len(self._idle), 0), 0)
        if not slots and ahead < most / 2:
            return None  # half a batch waits still: many small fetches would cost more than they bring
        return Want(slots, ahead, self.pace.quick) if slots or ahead else None

    def take_outcomes(self) -> list[Settlement]:
        taken, self.outcomes = self.outcomes, []
        self._told = False
        return taken

    def feed(self, deliveries: Sequence[Delivery]) -> None:
        """Run these as soon as there is room."""
        now = tick()
        for delivery in deliveries:
            delivery.taken_at = now
        self.pace.sized(deliveries)
        self._ready.extend(deliveries)
        self._start()
        if self._ready and self._stale_check is None:
            self._stale_check = asyncio.get_running_loop().call_later(Pace.STALE, self._hand_back_stale)

    def hand_back_waiting(self) -> None:
        """Everything that has not started goes back to the store."""
        for slot in self.slots:
            self._ready.extendleft(reversed(drained(slot.waiting)))
        # The last one to be written is the first one to be taken again: that must be the oldest.
        self.outcomes += [(delivery, RETURNED) for delivery in reversed(self._ready)]
        self.stats.returned += len(self._ready)
        self._ready.clear()
        self._tell()

    def held(self) -> list[Delivery]:
        """Every delivery in hand whose settlement has not been taken away."""
        running = [slot.delivery for slot in self.slots if slot.delivery is not None]
        # Copied in one step each: threads take from these at any moment.
        chunked = [delivery for slot in self.slots for delivery in slot.waiting.copy()]
        return [*self._ready, *running, *chunked, *(delivery for delivery, _ in self.outcomes)]

    async def close(self) -> None:
        """End the slots and the lanes. Running handlers are cancelled and not waited for."""
        self._stopping = True
        if self._stale_check is not None:
            self._stale_check.cancel()
        tasks = [slot.task for slot in self.slots if slot.task is not None]
        tasks += self.warden.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        self._threads.close()
        await self._processes.close()

    # -- slots -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Wake as many idle slots as there are jobs waiting."""
        for _ in range(min(len(self._ready), len(self._idle))):
            slot = self._idle.pop()
            if slot.task is None:
                slot.task = asyncio.create_task(self._serve(slot), name=f"packhorse-slot-{slot.worker_id}")
            elif slot.wake is not None and not slot.wake.done():
                slot.wake.set_result(None)

    async def _serve(self, slot: Slot) -> None:
        """The life of a slot: slices of jobs until its task is replaced or the pool ends."""
        loop, task, context = asyncio.get_running_loop(), asyncio.current_task(), copy_context()
        assert task is not None
        slot.interrupt = lambda _: task.cancel()
        while not self._stopping:
            if not self._ready:
                slot.wake = loop.create_future()
                self._idle.append(slot)
                self._tell()
                await slot.wake
            clean = await self._run_slice(slot, task, context)
            if slot.task is not task:
                return  # given up while it ran: another task has this slot's place
            slot.delivery = None
            if not clean:
                # The handler left context variables behind: the next job must not see them.
                slot.task = loop.create_task(self._serve(slot), name=task.get_name(), context=context)
                return
            if self._ready:
                await asyncio.sleep(0)

    async def _run_slice(self, slot: Slot, task: asyncio.Task[None], context: Context) -> bool:
        """Run jobs one after the other for a short while; the hot loop of packhorse (benchmark: work).

        False if the last one left context variables behind. Nothing here makes an object per job that it could do
        without.
        """
        ready, get, stats, ran, board = self._ready, self._registry.get, self.stats, self.pace.ran, self._board
        direct = self._chain is None
        now = tick()
        end = now + SLICE
        while ready and now < end:
            delivery = ready.popleft()
            job = delivery.job
            handler = get(job.name) if job is not None else None
            if handler is None or job is None or delivery.error is not None or job.deadline is not None:
                refusal = self._refusal(delivery, handler)
                if refusal is not None:
                    self.end(delivery, refusal)
                    continue
                assert handler is not None
                assert job is not None
            slot.delivery, slot.started = delivery, now
            if board is not None:
                board.start(slot.cell, job.id)
            if direct and handler.kind is Kind.THREAD:
                await self._run_chunk(slot, task, delivery, handler)
                now = tick()
                continue
            if handler.wants_job or not direct:
                job.on_checkin_ = CheckIn(slot, self._clock)
            if handler.timeout is not None and handler.kind is not Kind.PROCESS:
                self.warden.arm(slot, handler.timeout)
            error: BaseException | None = None
            try:
                if direct and handler.kind is Kind.COROUTINE:
                    args, kwargs = handler.bind(job)
                    await handler.fn(*args, **kwargs)
                else:
                    await (self._chain or self._call)(job)
            except BaseException as exc:  # noqa: BLE001 - a handler may raise anything, and must not end the slot
                error = exc
            if error is not None or slot.interruption is not None or slot.task is not task:
                self._end_badly(slot, task, delivery, handler, error)
                if slot.task is not task:
                    return True
            else:
                stats.done += 1
                self.outcomes.append((delivery, DONE))
                if not self._told:
                    self._tell()
            slot.deadline = math.inf
            if board is not None:
                board.end(slot.cell)
            ended = tick()
            ran(delivery.queue, ended - now)
            now = ended
            if copy_context() != context or task.cancelling():
                return False
        return True

    def _end_badly(
        self, slot: Slot, task: asyncio.Task[None], delivery: Delivery, handler: Handler, error: BaseException | None
    ) -> None:
        """A job failed, was stopped from outside, or ended after its slot had been given up."""
        if slot.task is not task:
            return
        assert delivery.job is not None
        if isinstance(error, asyncio.CancelledError) and slot.interruption is None and task.cancelling():
            # The slot's task is cancelled: by its handler, or because the pool or the program around it ends.
            if self._stopping:
                self.end(delivery, RETURNED)
            else:
                self.end(delivery, self.warden.verdict(None, handler, delivery.job, error))
                self.replace(slot)
            slot.delivery = None
            raise error
        while slot.interruption is not None and task.cancelling():
            task.uncancel()
        self.end(delivery, self.warden.verdict(slot.interruption, handler, delivery.job, error))
        slot.interruption = slot.interrupted = None

    def _refusal(self, delivery: Delivery, handler: Handler | None) -> Outcome | None:
        """Why this delivery cannot run at all."""
        job = delivery.job
        if delivery.error is not None or job is None:
            log.error("queue %r: %s; kept in the dead set", delivery.queue, delivery.error)
            return Dead(str(delivery.error))
        if handler is None:
            log.error("queue %r: no handler for job %s; kept in the dead set", delivery.queue, job)
            return NO_HANDLER
        if job.deadline is not None and self._clock.wall() > job.deadline:
            return Dead(f"expired: not started by {job.deadline:.0f}")
        return None

    async def _call(self, job: Job) -> Any:
        """The innermost step of the middleware chain: the handler itself, wherever it runs."""
        handler = self._registry.get(job.name)
        assert handler is not None
        if handler.kind is Kind.PROCESS:
            return await self._processes.run(handler, job)
        args, kwargs = handler.bind(job)
        if handler.kind is Kind.THREAD:
            return await self._threads.call(handler, args, kwargs)
        return await handler.fn(*args, **kwargs)

    async def _run_chunk(
        self, slot: Slot, task: asyncio.Task[None], delivery: Delivery, handler: Handler
    ) -> None:
        """A thread runs this job, and the short ones of its kind behind it, without coming back in between."""
        slot.waiting.append(delivery)
        if handler.timeout is None:
            most = self.pace.chunk(delivery.queue)
            while len(slot.waiting) < most and self._ready and self._chunkable(self._ready[0]):
                slot.waiting.append(self._ready.popleft())
        else:
            self.warden.arm(slot, handler.timeout)
        await self._threads.run(slot, self._registry, self._clock, self._board)
        if slot.task is task:
            slot.interrupt, slot.deadline = lambda _: task.cancel(), math.inf

    def _chunkable(self, delivery: Delivery) -> bool:
        handler = self._registry.get(delivery.job.name) if delivery.job is not None else None
        return (
            handler is not None
            and handler.kind is Kind.THREAD
            and handler.timeout is None
            and self.pace.chunk(delivery.queue) > 1
            and self._refusal(delivery, handler) is None
        )

    def _thread_ended(self, slot: Slot, delivery: Delivery, seconds: float, error: BaseException | None) -> None:
        """One job of a chunk has ended; called on the loop."""
        assert delivery.job is not None
        handler = self._registry.get(delivery.job.name)
        assert handler is not None
        self.pace.ran(delivery.queue, seconds)
        why = None
        if slot.interrupted is delivery:
            why, slot.interruption, slot.interrupted, slot.deadline = slot.interruption, None, None, math.inf
        self.end(delivery, self.warden.verdict(why, handler, delivery.job, error))

    # -- ends ------------------------------------------------------------------------------------------------

    def end(self, delivery: Delivery, outcome: Outcome) -> None:
        if outcome is DONE:
            self.stats.done += 1
        elif outcome is RETURNED:
            self.stats.returned += 1
        else:
            self.stats.failed += 1
        self.outcomes.append((delivery, outcome))
        self._tell()

    def _tell(self) -> None:
        """The fetcher has something to settle or room to fill; once until it has looked."""
        if not self._told:
            self._told = True
            self._changed()

    def let_go(self, slot: Slot, delivery: Delivery) -> bool:
        """Do not wait for this delivery any more; False if its thread has ended it and is about to say so."""
        return self._threads.abandon(slot, delivery)

    def replace(self, slot: Slot) -> None:
        """A fresh slot in the place of one that is given up; what waited behind its job may run elsewhere."""
        fresh = Slot(slot.worker_id, slot.cell)
        self.slots[self.slots.index(slot)] = fresh
        self._ready.extendleft(reversed(drained(slot.waiting)))
        self._idle.append(fresh)
        self._start()

    def _hand_back_stale(self) -> None:
        """Jobs that wait behind slots which do not turn over could run elsewhere."""
        self._stale_check = None
        for slot in self.slots:
            if slot.waiting and (self._idle or self.pace.stalled()):
                self._ready.extendleft(reversed(drained(slot.waiting)))
        self._start()
        if self._ready and not self._idle and tick() - self._ready[0].taken_at > Pace.STALE and self.pace.stalled():
            log.debug("%d jobs go back: no slot came free in time", len(self._ready))
            self.hand_back_waiting()
        elif self._ready or any(slot.waiting for slot in self.slots):
            self._stale_check = asyncio.get_running_loop().call_later(Pace.STALE, self._hand_back_stale)


def _compose(middleware: Sequence[Middleware], call: CallNext) -> CallNext:
    """One function for the whole chain, made once per pool."""
    for step in reversed(middleware):
        call = _Step(step, call).__call__
    return call


class _Step:
    __slots__ = ("_call_next", "_step")

    def __init__(self, step: Middleware, call_next: CallNext) -> None:
        self._step, self._call_next = step, call_next

    def __call__(self, job: Job) -> Awaitable[Any]:
        return self._step(job, self._call_next)
