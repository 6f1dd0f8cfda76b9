"""Slots: room for running jobs, and the watch over their time limits.

A slot serves one job after the other (a chunk of short ones in a thread). The executor owns them; the deadline
watch looks at them when the earliest limit is due, so a limit costs two assignments per job and no timer.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum, auto

from packhorse.protocols.base import Delivery, Observation


class Interruption(Enum):
    """Why a running job is stopped from outside."""

    TIMEOUT = auto()
    CANCEL = auto()
    STOP = auto()


class Slot:
    """Room for one running job. `waiting` are chunk-mates of the running job that have not started."""

    __slots__ = (
        "_observed", "checkin", "checkin_at", "deadline", "delivery", "interrupt", "interruption", "started_at",
        "task", "waiting", "wake", "worker_id",
    )  # fmt: skip

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id
        self.delivery: Delivery | None = None
        self.waiting: deque[Delivery] = deque()
        self.started_at = 0.0
        self.deadline = math.inf
        self.interruption: Interruption | None = None
        #: Stops what runs here; set by whoever runs it.
        self.interrupt: Callable[[], object] | None = None
        self.task: asyncio.Task[None] | None = None
        self.wake: asyncio.Future[None] | None = None
        self.checkin = ""
        self.checkin_at = 0.0
        self._observed: tuple[int, str] | None = None

    def observation(self) -> Observation | None:
        """What the slot is doing, if that changed since the last call."""
        delivery = self.delivery
        if delivery is None or delivery.job is None:
            if self._observed is None:
                return None
            self._observed = None
            return Observation(self.worker_id, None)
        now = (id(delivery), self.checkin)
        if now == self._observed:
            return None
        self._observed = now
        return Observation(self.worker_id, delivery.job, self.started_at, self.checkin, self.checkin_at)


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
