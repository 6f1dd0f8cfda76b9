"""Fetcher: one loop per pool that settles what has ended and takes what can run, in one round trip.

Batches form by themselves: while one round trip is on the wire, the next one gathers. Only this loop talks to the
consumer's fetching connection, so settlements are written in order and repeated until the store takes them.
"""

from __future__ import annotations

import asyncio
import logging
import random

from packhorse.engine.executor import Executor
from packhorse.errors import StoreError
from packhorse.protocols.base import Consumer, Delivery, Settlement

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.05
LAST_BACKOFF = 5.0
REFUSED_AGAIN = 1.0
#: Longest wait for a slot to change hands before queues that had no room are asked again.
FUTILE_PAUSE = 0.25


class Fetcher:
    """`run` ends when `finish` was called and everything is settled."""

    def __init__(self) -> None:
        self.accepting = True
        #: True once a fetch came back empty, until something may have changed.
        self.dry = False
        self.round_trips = 0
        self.in_flight: list[Settlement] = []
        self._finishing = False
        self._nudged = False
        #: True after a fetch that brought nothing although there are jobs: none of them has room now.
        self._futile = False
        self._changes = 0
        self._put_off: dict[int, list[Settlement]] = {}
        self._signal = asyncio.Event()
        self._failures = 0
        #: Deliveries whose settlement was sent before and not answered.
        self._repeated: set[int] = set()

    def changed(self) -> None:
        """There is something to settle, or room for more."""
        self._changes += 1
        self._futile = False
        self._signal.set()

    def nudge(self) -> None:
        """There may be something to take."""
        self.dry = self._futile = False
        self._nudged = True
        self._signal.set()

    def finish(self) -> None:
        """Take no more jobs; `run` returns once all outcomes are settled and nothing runs."""
        self.accepting = False
        self._finishing = True
        self._signal.set()

    async def run(self, consumer: Consumer, executor: Executor) -> None:
        while True:
            self._signal.clear()
            self.in_flight += executor.take_outcomes()
            want = executor.want() if self.accepting and not self.dry and not self._futile else None
            if not self.in_flight and want is None:
                if self._finishing and not executor.busy and not self._put_off:
                    return
                await self._wait(consumer, executor)
                continue
            self._nudged, changes = False, self._changes
            try:
                result = await consumer.exchange(self.in_flight, want)
            except Exception as exc:  # noqa: BLE001 - whatever it is, settlements must be tried again
                self._repeated |= {id(delivery) for delivery, _ in self.in_flight}
                await self._back_off(exc)
                continue
            self.round_trips += 1
            if self._failures:
                log.info("the store answers again")
            for delivery in result.lost:
                self._report_lost(delivery, executor)
            self.in_flight = []
            self._repeated.clear()
            if result.refused:
                self._put_off[id(result.refused)] = result.refused
                asyncio.get_running_loop().call_later(REFUSED_AGAIN, self._again, executor, result.refused)
            if want is not None:
                # A nudge that came while this was on the wire may be about jobs that it did not see.
                brought_none = not result.deliveries and not self._nudged
                self.dry = result.dry and brought_none
                stuck = brought_none and not result.narrowed and changes == self._changes
                self._futile = not result.dry and stuck
            elif not result.dry:
                self.dry = False
            if result.deliveries:
                executor.feed(result.deliveries)
                if not self.accepting:
                    executor.hand_back_waiting()  # they were on their way when the pool became quiet
            if result.refusal is None:
                self._failures = 0
            else:
                self.dry = False
                await self._back_off(result.refusal)

    @property
    def unsettled(self) -> list[Settlement]:
        """What has ended and is not yet written: on the wire, or put off because the store refused it."""
        return [*self.in_flight, *(settlement for refused in self._put_off.values() for settlement in refused)]

    def _again(self, executor: Executor, refused: list[Settlement]) -> None:
        del self._put_off[id(refused)]
        executor.outcomes += refused
        self._signal.set()

    async def _wait(self, consumer: Consumer, executor: Executor) -> None:
        """Until something changes; while there is room and nothing to take, also until it is time to look again."""
        if not (self.accepting and executor.want() is not None):
            await self._signal.wait()
            return
        try:
            if self.dry and await consumer.rest():
                self.dry = False
                return
        except StoreError as exc:
            self.dry = False
            await self._back_off(exc)
            return
        pause = consumer.patience if self.dry else FUTILE_PAUSE
        handle = asyncio.get_running_loop().call_later(pause, self.nudge)
        try:
            await self._signal.wait()
        finally:
            handle.cancel()

    async def _back_off(self, exc: Exception) -> None:
        """The store does not answer: wait, longer each time, for ever if need be."""
        self._failures += 1
        if not isinstance(exc, StoreError):
            log.error("an error of packhorse itself; trying again", exc_info=exc)
        pause = min(FIRST_BACKOFF * 2 ** (self._failures - 1), LAST_BACKOFF) * random.uniform(0.5, 1.5)
        level = logging.WARNING if self._failures in (1, 5) or self._failures % 20 == 0 else logging.DEBUG
        log.log(level, "the store does not answer (%s); again in %.1f s", exc, pause)
        await asyncio.sleep(pause)

    def _report_lost(self, delivery: Delivery, executor: Executor) -> None:
        """The fence said "not ours": no loss where an earlier attempt, whose answer was lost, may have settled it."""
        if id(delivery) in self._repeated:
            log.debug("job %s was settled by the attempt whose answer was lost, or taken away", delivery.job)
            return
        executor.stats.lost += 1
        log.warning("job %s was taken away while it ran here; its end was not written", delivery.job)
