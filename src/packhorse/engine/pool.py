"""WorkerPool: the slots and services of one process, and their life.

Start: register, then fetch, then services. Stop: no more fetches, waiting jobs go back, running ones may finish until
the deadline, the rest is cancelled and goes back, and only then the pool leaves the books.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping, Sequence

from packhorse.clock import SYSTEM_CLOCK, Clock
from packhorse.engine.board import Board
from packhorse.engine.chain import Middleware
from packhorse.engine.executor import Executor
from packhorse.engine.fetcher import Fetcher
from packhorse.engine.pulse import Pulse
from packhorse.engine.slots import Stats
from packhorse.errors import ConfigError, StoreError
from packhorse.protocols.base import Observation, PoolRecord, QueueOptions, WireProtocol, WorkerView
from packhorse.registry import Registry
from packhorse.settings import WorkerSettings

log = logging.getLogger(__name__)

CANCEL_WAIT = 2.0
CLOSE_TRIES = 3


class WorkerPool(WorkerView):
    """Runs jobs of one App in the running event loop. `start` and `stop` may be called once each."""

    def __init__(
        self,
        protocol: WireProtocol,
        registry: Registry,
        middleware: Sequence[Middleware] = (),
        periodic: Sequence[tuple[str, str]] = (),
        settings: WorkerSettings | None = None,
        clock: Clock = SYSTEM_CLOCK,
        board: Board | None = None,
        first_cell: int = 0,
    ) -> None:
        if not len(registry):
            raise ConfigError("this App has no jobs: decorate a function with @app.job() before starting a worker")
        self.settings = settings = settings or WorkerSettings()
        self._protocol = protocol
        self._clock = clock
        self.record = PoolRecord(
            id=settings.pool_id or os.urandom(12).hex(),
            concurrency=settings.concurrency,
            worker_ids=tuple(os.urandom(12).hex() for _ in range(settings.concurrency)),
            host=socket.gethostname() or "unknown",
            pid=os.getpid(),
            started_at=clock.wall(),
            queues=tuple(QueueOptions(h.name, h.options.priority, h.options.max_concurrency) for h in registry),
            periodic=tuple(periodic),
        )
        self._fetcher = Fetcher()
        self._executor = Executor(
            registry, middleware, self.record.worker_ids, clock, self._fetcher.changed, board, first_cell
        )
        self._consumer = protocol.consumer(self.record, self)
        self._services = self._consumer.services()
        self._pulse = Pulse(protocol, self.record.id) if settings.pulse else None
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def stats(self) -> Stats:
        return self._executor.stats

    @property
    def running(self) -> int:
        """Jobs that run at this moment."""
        return self._executor.running

    @property
    def round_trips(self) -> int:
        """Exchanges with the store since the start."""
        return self._fetcher.round_trips

    async def start(self) -> None:
        """Register with the store and begin. Errors: StoreError when it cannot be reached; it may be tried again."""
        if self._task is not None:
            return
        await self._consumer.open()
        if self._pulse is not None:
            self._pulse.start()
        self._task = asyncio.create_task(self._fetcher.run(self._consumer, self._executor), name="packhorse-fetcher")
        for service in self._services:
            service.start()
        log.info("pool %s runs %d jobs at a time", self.record.id, self.record.concurrency)

    def quiet(self) -> None:
        """Take no more jobs, hand back those that wait, finish those that run; stay alive."""
        self._fetcher.accepting = False
        self._executor.hand_back_waiting()

    async def stop(self, timeout: float | None = None) -> None:
        """Finish running jobs for at most `timeout` seconds (default: the setting), hand the rest back, end."""
        if self._stopped:
            return
        self._stopped = True
        if self._task is None:
            await self._consumer.disconnect()
            return
        try:
            await self._wind_up(self.settings.stop_timeout if timeout is None else timeout)
        except asyncio.CancelledError:
            # No more patience. The pool stays listed, so that another one puts back what it held.
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._end()
            raise
        await self._end()

    async def _wind_up(self, timeout: float) -> None:
        """Everything that must be written before the pool may go."""
        assert self._task is not None
        self._fetcher.finish()
        self._executor.hand_back_waiting()
        warden = self._executor.warden
        for wait, then in ((timeout, warden.interrupt_all), (CANCEL_WAIT, warden.abandon_all)):
            if not await self._idle(wait):
                then()
        if not await self._settled(self.settings.store_patience):
            log.error("%d jobs are not settled: the store does not answer", len(self._executor.held()))
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for service in self._services:
            await service.stop()
        await self._leave()

    async def _end(self) -> None:
        """Tasks, threads and connections; nothing is written any more."""
        await self._executor.close()
        for service in self._services:
            await service.stop()
        await self._consumer.disconnect()
        if self._pulse is not None:
            await self._pulse.stop()

    async def __aenter__(self) -> WorkerPool:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def drain(self) -> None:
        """Return when a fetch found nothing to run (or the pool is quiet) and nothing runs. The pool keeps running."""
        self._fetcher.nudge()  # what it knows may be older than what was enqueued just before this call
        while (
            (self._fetcher.accepting and not self._fetcher.dry)
            or self._executor.busy
            or self._executor.outcomes
            or self._fetcher.unsettled
        ):
            if self._task is None or self._task.done():
                return
            await asyncio.sleep(0.01)

    def beat_from_here(self) -> None:
        """The supervisor is gone: keep the heartbeat going from a thread of this process, until the pool stops."""
        if self._pulse is None and not self._stopped:
            self._pulse = Pulse(self._protocol, self.record.id)
            self._pulse.start()

    def cancel(self, job_id: str) -> bool:
        """Cancel a job that runs in this pool; it goes to the dead set. False if it does not run here."""
        return self._executor.warden.cancel(job_id)

    # -- WorkerView ------------------------------------------------------------------------------------------

    def held(self) -> Mapping[str, Sequence[bytes]]:
        found: dict[str, list[bytes]] = {}
        for delivery in self._executor.held():
            found.setdefault(delivery.queue, []).append(delivery.raw)
        for delivery, _ in self._fetcher.unsettled:
            found.setdefault(delivery.queue, []).append(delivery.raw)
        return found

    def observations(self) -> Sequence[Observation]:
        wall = self._clock.wall()
        return [seen for slot in self._executor.slots if (seen := slot.observation(wall)) is not None]

    def nudge(self) -> None:
        self._fetcher.nudge()

    # -- inner steps -----------------------------------------------------------------------------------------

    async def _idle(self, seconds: float) -> bool:
        """True when nothing runs any more; whether it is written is another question if the store is down."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not await self._settled(min(max(end - loop.time(), 0.0), 0.05)):
            if not self._executor.busy:
                return True
            if loop.time() >= end:
                return False
        return True

    async def _settled(self, seconds: float) -> bool:
        """True when the fetcher has ended within this time: nothing runs and everything is written."""
        assert self._task is not None
        done, _ = await asyncio.wait([self._task], timeout=seconds)
        return bool(done)

    async def _leave(self) -> None:
        for attempt in range(CLOSE_TRIES):
            try:
                await self._consumer.close()
                return
            except StoreError as exc:
                log.warning("leaving the store failed (%s), attempt %d of %d", exc, attempt + 1, CLOSE_TRIES)
                await asyncio.sleep(0.2)
        log.error("pool %s could not sign off; another pool will put its jobs back", self.record.id)
