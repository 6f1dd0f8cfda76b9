"""Warden: stops jobs from outside (time limits, cancellation, the end of the pool) and says how they ended.

Stopping is asked first and enforced later: a handler that does not end after it was cancelled loses its slot, its
delivery is settled without it, and whatever it returns afterwards is not heard.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from packhorse.clock import Clock, tick
from packhorse.engine.outcome import decide, error_text
from packhorse.engine.pace import Pace
from packhorse.engine.slots import DeadlineWatch, Interruption, Slot, drained
from packhorse.errors import JobTimeout
from packhorse.job import Job
from packhorse.protocols.base import RETURNED, Dead, Delivery, Outcome
from packhorse.registry import Handler, Registry

if TYPE_CHECKING:
    from packhorse.engine.executor import Executor

log = logging.getLogger(__name__)

#: A stopped handler that has not ended after this many seconds is given up.
CANCEL_GRACE = 5.0


class Warden:
    """Acts on the slots of one executor."""

    def __init__(self, executor: Executor, registry: Registry, clock: Clock) -> None:
        self._executor = executor
        self._registry = registry
        self._clock = clock
        self._deadlines = DeadlineWatch(executor.slots, self._expired)
        self._closed = False
        self._stale_check: asyncio.TimerHandle | None = None
        self._abandoned: set[asyncio.Task[None]] = set()

    def arm(self, slot: Slot, seconds: float) -> None:
        """The job in this slot must end within so many seconds."""
        self._deadlines.arm(slot, asyncio.get_running_loop().time() + seconds)

    def cancel(self, job_id: str) -> bool:
        """Stop a running job for good: it goes to the dead set as cancelled. False if it does not run here."""
        for slot in self._executor.slots:
            if slot.delivery is not None and slot.delivery.job is not None and slot.delivery.job.id == job_id:
                return self._interrupt(slot, slot.delivery, Interruption.CANCEL)
        return False

    def interrupt_all(self) -> None:
        """The time to stop has come: running jobs are cancelled and go back to the store."""
        for slot in self._executor.slots:
            if slot.delivery is not None:
                self._interrupt(slot, slot.delivery, Interruption.STOP)

    def abandon_all(self) -> None:
        """Whatever still runs is not waited for: its delivery goes back now."""
        for slot in list(self._executor.slots):
            if slot.delivery is not None:
                self._give_up(slot, slot.delivery, RETURNED)

    def verdict(self, why: Interruption | None, handler: Handler, job: Job, error: BaseException | None) -> Outcome:
        """What becomes of a job whose handler has ended with `error`, or without one although it was stopped."""
        if error is not None:
            if why is Interruption.STOP:
                return RETURNED
            if why is Interruption.CANCEL:
                return Dead("cancelled")
            if why is Interruption.TIMEOUT:
                error = JobTimeout(handler.name, handler.timeout or 0.0)
            traced = error if log.isEnabledFor(logging.DEBUG) else None
            log.info("job %s failed: %s", job, error_text(error), exc_info=traced)
        return decide(handler, job, error, self._clock.wall())

    def watch_waiting(self) -> None:
        """Jobs wait for a slot: look soon whether they would wait on."""
        if self._stale_check is None:
            self._stale_check = asyncio.get_running_loop().call_later(Pace.STALE, self._hand_back_stale)

    def slot_ended(self, slot: Slot, task: asyncio.Task[None]) -> None:
        """A slot's task has ended. If an error of ours ended it, its job is set aside and the slot replaced."""
        error = None if task.cancelled() else task.exception()
        if error is None or isinstance(error, asyncio.CancelledError) or slot.task is not task or self._closed:
            return
        log.error("an error of packhorse ended a slot; it is replaced", exc_info=error)
        delivery, slot.delivery = slot.delivery, None
        if delivery is not None:
            self._executor.end(delivery, Dead(f"internal error: {error_text(error)}"))
        self._executor.replace(slot)

    def close(self) -> list[asyncio.Task[None]]:
        """Stop watching; gives the tasks of given-up handlers that have not ended yet."""
        self._closed = True
        if self._stale_check is not None:
            self._stale_check.cancel()
        self._deadlines.stop()
        return list(self._abandoned)

    def _interrupt(self, slot: Slot, delivery: Delivery, why: Interruption) -> bool:
        """False if the delivery has just ended."""
        if slot.interruption is None and slot.interrupt is not None:
            if not slot.interrupt(delivery):
                return False
            slot.interruption, slot.interrupted = why, delivery
            self.arm(slot, CANCEL_GRACE)
        return slot.interrupted is delivery

    def _expired(self, slot: Slot) -> None:
        delivery = slot.delivery
        if delivery is None or delivery.job is None:
            return
        if slot.interruption is None:
            self._interrupt(slot, delivery, Interruption.TIMEOUT)
            return
        if slot.interrupted is not delivery:
            return
        log.error("job %s does not end although it was stopped; its slot is replaced", delivery.job)
        handler = self._registry.get(delivery.job.name)
        assert handler is not None
        self._give_up(slot, delivery, self.verdict(slot.interruption, handler, delivery.job, TimeoutError()))

    def _give_up(self, slot: Slot, delivery: Delivery, outcome: Outcome) -> None:
        """Settle without waiting for the handler, and put a fresh slot in the place of its slot."""
        if not self._executor.let_go(slot, delivery):
            return  # its thread has just ended it, and says so next
        slot.delivery = None
        if slot.task is not None:
            self._abandoned.add(slot.task)
            slot.task.add_done_callback(self._abandoned.discard)
            slot.task = None
        self._executor.end(delivery, outcome)
        self._executor.replace(slot)

    def _hand_back_stale(self) -> None:
        """Jobs that wait behind slots which do not turn over could run elsewhere."""
        self._stale_check = None
        executor = self._executor
        ready, idle, stalled = executor.ready, executor.idle, executor.pace.stalled()
        for slot in executor.slots:
            if slot.waiting and (idle or stalled):
                ready.extendleft(reversed(drained(slot.waiting)))
        executor.start()
        if ready and not idle and stalled and tick() - ready[0].taken_at > Pace.STALE:
            log.debug("%d jobs go back: no slot came free in time", len(ready))
            executor.hand_back_waiting()
        elif ready or any(slot.waiting for slot in executor.slots):
            self.watch_waiting()
