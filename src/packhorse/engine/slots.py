"""Slots: room for running jobs, and the watch over their time limits.

A slot serves one job after the other (a chunk of short ones in a thread). The executor owns them; the deadline
watch looks at them when the earliest limit is due, so a limit costs two assignments per job and no timer.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum, auto

from packhorse.clock import Clock, tick
from packhorse.protocols.base import Delivery, Observation


class Stats:
    """What happened in this pool since it started."""

    __slots__ = ("done", "failed", "lost", "returned")

    def __init__(self) -> None:
        self.done = self.failed = self.lost = self.returned = 0


class Interruption(Enum):
    """Why a running job is stopped from outside."""

    TIMEOUT = auto()
    CANCEL = auto()
    STOP = auto()


class Slot:
    """Room for one running job. `waiting` are chunk-mates of the running job that have not started."""

    __slots__ = (
        "_checkin_of", "_observed", "cell", "checkin", "checkin_at", "deadline", "delivery", "interrupt",
        "interrupted", "interruption", "started", "task", "waiting", "wake", "worker_id",
    )  # fmt: skip

    def __init__(self, worker_id: str, cell: int) -> None:
        self.worker_id = worker_id
        self.cell = cell
        self.delivery: Delivery | None = None
        self.waiting: deque[Delivery] = deque()
        #: Start of the running job, by `tick`.
        self.started = 0.0
        self.deadline = math.inf
        self.interruption: Interruption | None = None
        #: Which delivery `interruption` is meant for: a thread may have gone on to the next one.
        self.interrupted: Delivery | None = None
        #: Stops this delivery if it runs here; False if it has just ended. Set by whoever runs it.
        self.interrupt: Callable[[Delivery], bool] | None = None
        self.task: asyncio.Task[None] | None = None
        self.wake: asyncio.Future[None] | None = None
        self.checkin = ""
        self.checkin_at = 0.0
        self._checkin_of: Delivery | None = None
        self._observed: tuple[Delivery, str] | None = None

    def check_in(self, delivery: Delivery, message: str, wall: float) -> None:
        """`job.checkin` of the job that runs here; a job that has ended is not heard."""
        if self.delivery is delivery:
            self._checkin_of = delivery
            self.checkin, self.checkin_at = message, wall

    def observation(self, wall: float) -> Observation | None:
        """What the slot is doing, if that changed since the last call. `wall` = now in epoch seconds."""
        delivery = self.delivery
        if delivery is not self._checkin_of:
            self.checkin = ""
        if delivery is None or delivery.job is None:
            if self._observed is None:
                return None
            self._observed = None
            return Observation(self.worker_id, None)
        now = (delivery, self.checkin)
        if now == self._observed:
            return None
        self._observed = now
        started_at = wall - (tick() - self.started)
        return Observation(self.worker_id, delivery.job, started_at, self.checkin, self.checkin_at)


class CheckIn:
    """`job.checkin` of one run. May be called from the handler's thread."""

    __slots__ = ("_clock", "_delivery", "_slot")

    def __init__(self, slot: Slot, clock: Clock) -> None:
        self._slot, self._clock, self._delivery = slot, clock, slot.delivery

    def __call__(self, message: str) -> None:
        if self._delivery is not None:
            self._slot.check_in(self._delivery, message, self._clock.wall())


class DeadlineWatch:
    """Calls `expired(slot)` for each slot whose deadline (loop time) has passed."""

    def __init__(self, slots: Iterable[Slot], expired: Callable[[Slot], None]) -> None:
        self._slots = slots
        self._expired = expired
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, slot: Slot, deadline: float) -> None:
        slot.deadline = deadline
        if self._timer is None or deadline < self._timer.when():
            self._set(deadline)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, when: float) -> None:
        self.stop()
        if when < math.inf:
            self._timer = asyncio.get_running_loop().call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for slot in list(self._slots):
            if slot.deadline <= now:
                slot.deadline = math.inf
                self._expired(slot)
        self._set(min((slot.deadline for slot in self._slots), default=math.inf))


def drained(waiting: deque[Delivery]) -> list[Delivery]:
    """Everything in the deque, taken one by one: a thread may be taking from the other end."""
    taken = []
    while True:
        try:
            taken.append(waiting.popleft())
        except IndexError:
            return taken


def room_for_slow(slots: Sequence[Slot], ready: Iterable[Delivery], quick: Collection[str]) -> int:
    """Slots that jobs of queues which are not quick may still have. Quick ones pass through in between."""
    running = sum(slot.delivery is not None and slot.delivery.queue not in quick for slot in slots)
    return max(len(slots) - running - sum(delivery.queue not in quick for delivery in ready), 0)
