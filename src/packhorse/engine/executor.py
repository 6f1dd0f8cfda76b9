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
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from functools import partial

from packhorse.clock import Clock, tick
from packhorse.engine.board import Board
from packhorse.engine.chain import Chain, Middleware
from packhorse.engine.chunks import Chunks
from packhorse.engine.outcome import NO_HANDLER
from packhorse.engine.pace import Pace
from packhorse.engine.processes import ProcessLane
from packhorse.engine.slots import CheckIn, Slot, Stats, drained, room_for_slow
from packhorse.engine.warden import Warden
from packhorse.protocols.base import DONE, RETURNED, Dead, Delivery, Outcome, Settlement, Want
from packhorse.registry import Handler, Kind, Registry

log = logging.getLogger(__name__)

#: Longest time that handlers which never suspend may keep the event loop from its connections.
SLICE = 0.001


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
        self.ready: deque[Delivery] = deque()
        self.idle: list[Slot] = list(reversed(self.slots))
        self.warden = Warden(self, registry, clock)
        self._chunks = Chunks(self, registry, clock, board)
        self._processes = ProcessLane()
        self._chain = Chain(middleware, registry, self._chunks.threads, self._processes)
        self._direct = not middleware
        self._told = False
        self._stopping = False

    # -- for the fetcher -------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        return len(self.slots) - len(self.idle)

    @property
    def busy(self) -> bool:
        return bool(self.ready) or self.running > 0

    def want(self) -> Want | None:
        """How many jobs may come now, or None for none."""
        waiting, pace = len(self.ready), self.pace
        slots = max(len(self.idle) - waiting, 0)
        most = pace.prefetch()
        ahead = max(most - max(waiting - len(self.idle), 0), 0)
        if not slots and (ahead < most / 2 or not ahead):
            return None  # half a batch waits still: many small fetches would cost more than they bring
        return Want(slots + ahead, room_for_slow(self.slots, self.ready, pace.quick), pace.quick, pace.measured)

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
        self.ready.extend(deliveries)
        self.start()
        if self.ready:
            self.warden.watch_waiting()

    def hand_back_waiting(self) -> None:
        """Everything that has not started goes back to the store."""
        for slot in self.slots:
            self.ready.extendleft(reversed(drained(slot.waiting)))
        # The last one to be written is the first one to be taken again: that must be the oldest.
        self.outcomes += [(delivery, RETURNED) for delivery in reversed(self.ready)]
        self.stats.returned += len(self.ready)
        self.ready.clear()
        self._tell()

    def held(self) -> list[Delivery]:
        """Every delivery in hand whose settlement has not been taken away."""
        running = [slot.delivery for slot in self.slots if slot.delivery is not None]
        # Copied in one step each: threads take from these at any moment.
        chunked = [delivery for slot in self.slots for delivery in slot.waiting.copy()]
        return [*self.ready, *running, *chunked, *(delivery for delivery, _ in self.outcomes)]

    async def close(self) -> None:
        """End the slots and the lanes. Running handlers are cancelled and not waited for."""
        self._stopping = True
        tasks = [slot.task for slot in self.slots if slot.task is not None]
        tasks += self.warden.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        self._chunks.threads.close()
        await self._processes.close()

    # -- slots -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Wake as many idle slots as there are jobs waiting."""
        for _ in range(min(len(self.ready), len(self.idle))):
            slot = self.idle.pop()
            if slot.task is None:
                slot.task = asyncio.create_task(self._serve(slot), name=f"packhorse-slot-{slot.worker_id}")
                slot.task.add_done_callback(partial(self.warden.slot_ended, slot))
            elif slot.wake is not None and not slot.wake.done():
                slot.wake.set_result(None)

    async def _serve(self, slot: Slot) -> None:
        """The life of a slot: slices of jobs until its task is replaced or the pool ends."""
        loop, task, context = asyncio.get_running_loop(), asyncio.current_task(), copy_context()
        assert task is not None
        slot.interrupt = lambda _: task.cancel()
        while not self._stopping:
            if not self.ready:
                slot.wake = loop.create_future()
                self.idle.append(slot)
                self._tell()
                await slot.wake
            clean = await self._run_slice(slot, task, context)
            if slot.task is not task:
                return  # given up while it ran: another task has this slot's place
            slot.delivery = None
            if not clean:
                # The handler left context variables behind: the next job must not see them.
                slot.task = loop.create_task(self._serve(slot), name=task.get_name(), context=context)
                slot.task.add_done_callback(partial(self.warden.slot_ended, slot))
                return
            if self.ready:
                await asyncio.sleep(0)

    async def _run_slice(self, slot: Slot, task: asyncio.Task[None], context: Context) -> bool:
        """Run jobs one after the other for a short while; the hot loop of packhorse (benchmark: work).

        False if the last one left context variables behind. Nothing here makes an object per job that it could do
        without.
        """
        ready, get, stats, ran, board = self.ready, self._registry.get, self.stats, self.pace.ran, self._board
        direct, chain, run_chunk = self._direct, self._chain.run, self._chunks.run
        now = tick()
        end = now + SLICE
        while ready and now < end:
            delivery = ready.popleft()
            job = delivery.job
            handler = get(job.name) if job is not None else None
            odd = handler is None or job is None or delivery.error is not None or job.deadline is not None
            if (odd and self._refuse(delivery, handler)) or handler is None or job is None:
                continue
            slot.delivery, slot.started = delivery, now
            if board is not None:
                board.start(slot.cell, job.id)
            if direct and handler.kind is Kind.THREAD:
                await run_chunk(slot, task, delivery, handler)
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
                    await chain(job)
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
            started, now = now, tick()
            ran(delivery.queue, now - started)
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

    def _refuse(self, delivery: Delivery, handler: Handler | None) -> bool:
        """End a delivery that cannot run at all; False if it can."""
        job = delivery.job
        if delivery.error is not None or job is None:
            log.error("queue %r: %s; kept in the dead set", delivery.queue, delivery.error)
            self.end(delivery, Dead(str(delivery.error)))
        elif handler is None:
            log.error("queue %r: no handler for job %s; kept in the dead set", delivery.queue, job)
            self.end(delivery, NO_HANDLER)
        elif job.deadline is not None and self._clock.wall() > job.deadline:
            self.end(delivery, Dead(f"expired: not started by {job.deadline:.0f}"))
        else:
            return False
        return True

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
        return self._chunks.threads.abandon(slot, delivery)

    def replace(self, slot: Slot) -> None:
        """A fresh slot in the place of one that is given up; what waited behind its job may run elsewhere."""
        fresh = Slot(slot.worker_id, slot.cell)
        self.slots[self.slots.index(slot)] = fresh
        self.ready.extendleft(reversed(drained(slot.waiting)))
        self.idle.append(fresh)
        self.start()
