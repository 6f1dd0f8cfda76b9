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
from contextvars import copy_context
from typing import Any

from packhorse.clock import Clock, tick
from packhorse.engine.outcome import NO_HANDLER, decide, error_text
from packhorse.engine.pace import Pace
from packhorse.engine.processes import ProcessLane
from packhorse.engine.slots import DeadlineWatch, Interruption, Slot
from packhorse.engine.threads import ThreadLane
from packhorse.errors import JobTimeout
from packhorse.job import Job
from packhorse.protocols.base import RETURNED, Dead, Delivery, Done, Outcome, Settlement, Want
from packhorse.registry import Handler, Kind, Registry

log = logging.getLogger(__name__)

CallNext = Callable[[Job], Awaitable[Any]]
Middleware = Callable[[Job, CallNext], Awaitable[Any]]

#: Longest time that handlers which never suspend may keep the event loop from its connections.
SLICE = 0.001
#: A cancelled handler that has not ended after this long is given up: its slot is replaced.
CANCEL_GRACE = 5.0


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
    ) -> None:
        self.stats = Stats()
        self.pace = Pace()
        self.outcomes: list[Settlement] = []
        self.slots = [Slot(worker_id) for worker_id in worker_ids]
        self._registry = registry
        self._clock = clock
        self._changed = changed
        self._ready: deque[Delivery] = deque()
        self._idle: list[Slot] = list(reversed(self.slots))
        self._chain = _compose(middleware, self._call) if middleware else None
        self._deadlines = DeadlineWatch(self.slots, self._expired)
        self._threads = ThreadLane(self._thread_ended)
        self._processes = ProcessLane()
        self._stale_check: asyncio.TimerHandle | None = None
        self._abandoned: set[asyncio.Task[None]] = set()
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
        ahead = max(self.pace.prefetch() - max(waiting - len(self._idle), 0), 0)
        return Want(slots, ahead, self.pace.quick) if slots or ahead else None

    def take_outcomes(self) -> list[Settlement]:
        taken, self.outcomes = self.outcomes, []
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
            self._ready.extend(_drained(slot.waiting))
        self.outcomes += [(delivery, RETURNED) for delivery in self._ready]
        self.stats.returned += len(self._ready)
        self._ready.clear()
        self._changed()

    def held(self) -> list[Delivery]:
        """Every delivery in hand whose settlement has not been taken away."""
        running = [slot.delivery for slot in self.slots if slot.delivery is not None]
        chunked = [delivery for slot in self.slots for delivery in slot.waiting]
        return [*self._ready, *running, *chunked, *(delivery for delivery, _ in self.outcomes)]

    # -- for the pool ----------------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> bool:
        """Stop a running job for good: it goes to the dead set as cancelled. False if it does not run here."""
        for slot in self.slots:
            if slot.delivery is not None and slot.delivery.job is not None and slot.delivery.job.id == job_id:
                self._interrupt(slot, Interruption.CANCEL)
                return True
        return False

    def interrupt_all(self) -> None:
        """The time to stop has come: running jobs are cancelled and go back to the store."""
        for slot in self.slots:
            if slot.delivery is not None:
                self._interrupt(slot, Interruption.STOP)

    def abandon_all(self) -> None:
        """Whatever still runs is not waited for: its delivery goes back now."""
        for slot in list(self.slots):
            if slot.delivery is not None:
                self._give_up(slot, RETURNED)

    async def close(self) -> None:
        """End the slots and the lanes. Running handlers are cancelled and not waited for."""
        self._stopping = True
        self._deadlines.stop()
        if self._stale_check is not None:
            self._stale_check.cancel()
        tasks = [slot.task for slot in self.slots if slot.task is not None] + list(self._abandoned)
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
        """The life of a slot: job after job until its task is replaced or the pool ends."""
        ready, loop = self._ready, asyncio.get_running_loop()
        context = copy_context()
        slice_end = tick() + SLICE
        while not self._stopping:
            if not ready:
                slot.wake = loop.create_future()
                self._idle.append(slot)
                self._changed()
                await slot.wake
                slice_end = tick() + SLICE
                continue
            delivery = ready.popleft()
            handler = self._registry.get(delivery.job.name) if delivery.job is not None else None
            refusal = self._refusal(delivery, handler)
            if refusal is not None:
                self._end(delivery, refusal)
                continue
            assert handler is not None
            slot.delivery, slot.started_at = delivery, self._clock.wall()
            if handler.kind is Kind.COROUTINE or self._chain is not None:
                await self._run_coroutine(slot, delivery, handler)
            elif handler.kind is Kind.THREAD:
                await self._run_chunk(slot, delivery, handler)
            else:
                await self._run_coroutine(slot, delivery, handler)
            if slot.task is not asyncio.current_task():
                return  # given up while it ran: another task has this slot's place
            slot.delivery, slot.deadline, slot.interruption = None, math.inf, None
            if copy_context() != context:
                # The handler left context variables behind: the next job must not see them.
                slot.task = loop.create_task(self._serve(slot), name=f"packhorse-slot-{slot.worker_id}")
                return
            if tick() > slice_end:
                await asyncio.sleep(0)
                slice_end = tick() + SLICE

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

    async def _run_coroutine(self, slot: Slot, delivery: Delivery, handler: Handler) -> None:
        job = delivery.job
        assert job is not None
        task = slot.task
        assert task is not None
        slot.interrupt = task.cancel
        if handler.wants_job or self._chain is not None:
            job._on_checkin = _CheckIn(slot, self._clock)
        if handler.timeout is not None and handler.kind is Kind.COROUTINE:
            self._deadlines.arm(slot, asyncio.get_running_loop().time() + handler.timeout)
        start = tick()
        error: BaseException | None = None
        try:
            if self._chain is not None:
                await self._chain(job)
            elif handler.kind is Kind.COROUTINE:
                args, kwargs = handler.bind(job)
                await handler.fn(*args, **kwargs)
            else:
                await self._call(job)
        except BaseException as exc:  # a handler may raise anything; nothing may end the slot
            error = exc
            if isinstance(exc, asyncio.CancelledError) and slot.interruption is None and task.cancelling():
                if slot.task is task:
                    self._end(delivery, RETURNED)
                raise
        if slot.task is not task:
            return
        self.pace.ran(delivery.queue, tick() - start)
        if slot.interruption is not None:
            while task.cancelling():
                task.uncancel()
        self._finish(slot, delivery, handler, error)

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

    async def _run_chunk(self, slot: Slot, delivery: Delivery, handler: Handler) -> None:
        """A thread runs this job, and the short ones of its kind behind it, without coming back in between."""
        slot.waiting.append(delivery)
        if handler.timeout is None:
            most = self.pace.chunk(delivery.queue)
            while len(slot.waiting) < most and self._ready and self._chunkable(self._ready[0]):
                slot.waiting.append(self._ready.popleft())
        else:
            self._deadlines.arm(slot, asyncio.get_running_loop().time() + handler.timeout)
        await self._threads.run(slot, self._registry, self._clock)

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
        self._finish(slot, delivery, handler, error)

    # -- ends ------------------------------------------------------------------------------------------------

    def _finish(self, slot: Slot, delivery: Delivery, handler: Handler, error: BaseException | None) -> None:
        job = delivery.job
        assert job is not None
        if slot.interruption is Interruption.STOP and error is not None:
            self.stats.returned += 1
            return self._end(delivery, RETURNED)
        if slot.interruption is Interruption.CANCEL and error is not None:
            return self._end(delivery, Dead("cancelled"))
        if slot.interruption is Interruption.TIMEOUT and error is not None:
            error = JobTimeout(handler.name, handler.timeout or 0.0)
        if error is not None:
            _log_failure(job, error)
        return self._end(delivery, decide(handler, job, error, self._clock.wall()))

    def _end(self, delivery: Delivery, outcome: Outcome) -> None:
        if isinstance(outcome, Done):
            self.stats.done += 1
        elif outcome is not RETURNED:
            self.stats.failed += 1
        self.outcomes.append((delivery, outcome))
        self._changed()

    def _interrupt(self, slot: Slot, why: Interruption) -> None:
        if slot.interruption is None and slot.interrupt is not None:
            slot.interruption = why
            slot.interrupt()
            self._deadlines.arm(slot, asyncio.get_running_loop().time() + CANCEL_GRACE)

    def _expired(self, slot: Slot) -> None:
        if slot.delivery is None:
            return
        if slot.interruption is None:
            self._interrupt(slot, Interruption.TIMEOUT)
            return
        job = slot.delivery.job
        assert job is not None
        handler = self._registry.get(job.name)
        assert handler is not None
        log.error("job %s does not end although it was stopped; its slot is replaced", job)
        if slot.interruption is Interruption.TIMEOUT:
            error = JobTimeout(job.name, handler.timeout or 0.0)
            self._give_up(slot, decide(handler, job, error, self._clock.wall()))
        else:
            self._give_up(slot, RETURNED if slot.interruption is Interruption.STOP else Dead("cancelled"))

    def _give_up(self, slot: Slot, outcome: Outcome) -> None:
        """Settle without waiting for the handler, and put a fresh slot in the place of its slot."""
        delivery, slot.delivery = slot.delivery, None
        assert delivery is not None
        self._threads.abandon(slot)
        if slot.task is not None:
            self._abandoned.add(slot.task)
            slot.task.add_done_callback(self._abandoned.discard)
            slot.task = None
        fresh = Slot(slot.worker_id)
        self.slots[self.slots.index(slot)] = fresh
        self._ready.extendleft(reversed(_drained(slot.waiting)))
        self._idle.append(fresh)
        self._end(delivery, outcome)
        self._start()

    def _hand_back_stale(self) -> None:
        """Jobs that wait behind slots which do not turn over could run elsewhere."""
        self._stale_check = None
        for slot in self.slots:
            if slot.waiting and self._idle:
                self._ready.extend(_drained(slot.waiting))
        self._start()
        if self._ready and not self._idle and tick() - self._ready[0].taken_at > Pace.STALE and self.pace.stalled():
            log.debug("%d jobs go back: no slot came free in time", len(self._ready))
            self.hand_back_waiting()
        elif self._ready or any(slot.waiting for slot in self.slots):
            self._stale_check = asyncio.get_running_loop().call_later(Pace.STALE, self._hand_back_stale)


class _CheckIn:
    """`job.checkin` of one run."""

    __slots__ = ("_clock", "_delivery", "_slot")

    def __init__(self, slot: Slot, clock: Clock) -> None:
        self._slot, self._clock, self._delivery = slot, clock, slot.delivery

    def __call__(self, message: str) -> None:
        if self._slot.delivery is self._delivery:
            self._slot.checkin, self._slot.checkin_at = message, self._clock.wall()


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


def _drained(waiting: deque[Delivery]) -> list[Delivery]:
    """Everything in the deque, taken one by one: a thread may be taking from the other end."""
    taken = []
    while True:
        try:
            taken.append(waiting.popleft())
        except IndexError:
            return taken


def _log_failure(job: Job, error: BaseException) -> None:
    traced = log.isEnabledFor(logging.DEBUG)
    log.info("job %s failed: %s", job, error_text(error), exc_info=error if traced else None)
