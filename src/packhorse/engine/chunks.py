"""Chunks: short jobs of sync handlers go to a thread together, and are reported one by one.

The other half of `threads.py`, on the loop's side: which jobs go along, and what happens when each has ended.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from packhorse.clock import Clock
from packhorse.engine.board import Board
from packhorse.engine.slots import Slot
from packhorse.engine.threads import ThreadLane
from packhorse.protocols.base import Delivery
from packhorse.registry import Handler, Kind, Registry

if TYPE_CHECKING:
    from packhorse.engine.executor import Executor


class Chunks:
    """For the slots of one executor."""

    def __init__(self, executor: Executor, registry: Registry, clock: Clock, board: Board | None) -> None:
        self.threads = ThreadLane(self._ended)
        self._executor = executor
        self._registry = registry
        self._clock = clock
        self._board = board

    async def run(self, slot: Slot, task: asyncio.Task[None], delivery: Delivery, handler: Handler) -> None:
        """A thread runs this job, and the short ones of its kind behind it, without coming back in between."""
        slot.waiting.append(delivery)
        if handler.timeout is None:
            most = self._executor.pace.chunk(delivery.queue)
            while len(slot.waiting) < most and self._executor.ready and self._chunkable(self._executor.ready[0]):
                slot.waiting.append(self._executor.ready.popleft())
        else:
            self._executor.warden.arm(slot, handler.timeout)
        await self.threads.run(slot, self._registry, self._clock, self._board)
        if slot.task is task:
            slot.interrupt, slot.deadline = lambda _: task.cancel(), math.inf

    def _chunkable(self, delivery: Delivery) -> bool:
        handler = self._registry.get(delivery.job.name) if delivery.job is not None else None
        return (
            handler is not None
            and handler.kind is Kind.THREAD
            and handler.timeout is None
            and self._executor.pace.chunk(delivery.queue) > 1
            and delivery.error is None
            and delivery.job is not None
            and delivery.job.deadline is None
        )

    def _ended(self, slot: Slot, delivery: Delivery, seconds: float, error: BaseException | None) -> None:
        """One job of a chunk has ended; called on the loop."""
        assert delivery.job is not None
        handler = self._registry.get(delivery.job.name)
        assert handler is not None
        self._executor.pace.ran(delivery.queue, seconds)
        why = None
        if slot.interrupted is delivery:
            why, slot.interruption, slot.interrupted, slot.deadline = slot.interruption, None, None, math.inf
        self._executor.end(delivery, self._executor.warden.verdict(why, handler, delivery.job, error))
