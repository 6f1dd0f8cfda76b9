"""The worker side of the gocraft layout: one pool's fetches and settles, and its place in the heartbeat set.

Called by the engine's fetcher only. Invariant: whatever `exchange` gave out is in this pool's in-progress list until
a settle takes it out, so a crash at any instant loses nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from packhorse.clock import Clock
from packhorse.errors import ReplyLost, StoreError, StoreRefused
from packhorse.protocols.base import Consumer, Delivery, Exchanged, PoolRecord, Settlement, Want, WorkerView
from packhorse.protocols.gocraft import scripts
from packhorse.protocols.gocraft.exchange import Books
from packhorse.protocols.gocraft.keys import Keys
from packhorse.protocols.gocraft.mover import Mover, Rescuer
from packhorse.protocols.gocraft.periodic import Periodic
from packhorse.protocols.gocraft.reaper import Reaper
from packhorse.protocols.gocraft.unique import UniqueStarts
from packhorse.protocols.gocraft.upkeep import Auditor, Heartbeat, Observer, SetWatch
from packhorse.service import Service
from packhorse.store import Command, Reply, Store, raise_refused

log = logging.getLogger(__name__)

POLL_WATCHED = 10.0
POLL_UNWATCHED = 0.1
#: With more jobs than this asked for ahead, the pool is busy enough to stop listening.
WATCH_LIMIT = 100


class GocraftConsumer(Consumer):
    """One pool on one namespace."""

    def __init__(self, store: Store, keys: Keys, record: PoolRecord, view: WorkerView, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._record = record
        self._view = view
        self._clock = clock
        self._link = store.link(self._queues_changed, view.nudge)
        self._side = store.link(self._sets_changed, self._side_lost)
        self._books = Books(keys, record, clock)
        self._names = [queue.name for queue in record.queues]
        self._notice = _notices(keys, self._names)
        self._watching = 0
        self._unwatchable = False
        self._services = self._make_services()
        self._unique = UniqueStarts(self._link, keys, record.id, self._auditor)

    # -- life ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        await self._store.check(self._link)
        commands: list[Command] = []
        for queue in self._record.queues:
            key = self._keys.max_concurrency(queue.name)
            # A limit that nobody asked for is not written over one that somebody set (quirks 8).
            asked = queue.max_concurrency
            commands.append(("SET", key, 0, "NX") if asked is None else ("SET", key, asked))
        if self._names:
            commands.append(("SADD", self._keys.known_jobs, *sorted(self._names)))
        raise_refused(await self._link.call(*commands, *self._heartbeat.commands()))

    async def close(self) -> None:
        pool, keys = self._record.id, self._keys
        await self._auditor.sweep()
        if self._names:
            raise_refused(await self._link.call(*(
                scripts.AUDIT(
                    [keys.lock(n), keys.lock_info(n), keys.inprogress(n, pool), keys.worker_pools], [pool, 1]
                )
                for n in self._names
            )))  # fmt: skip
        raise_refused(await self._link.call(
            *(("DEL", keys.worker(worker)) for worker in self._record.worker_ids),
            ("SREM", keys.worker_pools, pool),
            ("DEL", keys.pool(pool)),
        ))  # fmt: skip

    async def disconnect(self) -> None:
        await self._store.close()

    def services(self) -> list[Service]:
        return self._services

    def _make_services(self) -> list[Service]:
        side, keys, record, clock = self._side, self._keys, self._record, self._clock
        names = frozenset(self._names)
        self._heartbeat = Heartbeat(side, keys, record, clock)
        self._auditor = Auditor(side, keys, record, self._view, clock)
        self._by_set = {
            keys.scheduled.encode(): Mover(side, keys, keys.scheduled, names, clock),
            keys.retry.encode(): Mover(side, keys, keys.retry, names, clock),
            keys.dead.encode(): Rescuer(side, keys, names, clock),
        }
        return [
            self._heartbeat,
            SetWatch(side, list(self._by_set), lambda: self._sets_changed(None)),
            *self._by_set.values(),
            Reaper(side, keys, record.id, names, clock),
            Periodic(side, keys, record.periodic, clock),
            Observer(side, keys, self._view),
            self._auditor,
        ]

    # -- waking up -------------------------------------------------------------------------------------------

    @property
    def patience(self) -> float:
        return POLL_UNWATCHED if self._unwatchable else POLL_WATCHED

    async def rest(self) -> bool:
        """Switch invalidation messages for our queues on, then look once more.

        Both travel on the fetching connection, so that NOLOOP keeps our own writes from waking us.
        """
        if self._watching == self._link.generation or self._unwatchable:
            return False
        watch = ("CLIENT", "TRACKING", "ON", "BCAST", "NOLOOP", "PREFIX", self._keys.jobs)
        switched, found = await self._link.call(watch, self._books.survey_command())
        if isinstance(switched, StoreRefused):
            log.warning("CLIENT TRACKING is refused (%s): polling every %.0f ms", switched, POLL_UNWATCHED * 1e3)
            self._unwatchable = True
        else:
            self._watching = self._link.generation
        raise_refused([found])
        self._surveyed_at = self._clock.monotonic()
        # Blocked names too: a lock or a pause may have gone while nobody listened, and no message will tell.
        self._books.draw.mark_found((self._names[i - 1] for i in found), math.inf)
        return bool(self._books.draw.open)

    def _queues_changed(self, keys: Sequence[bytes] | None) -> None:
        """Called for keys that somebody else wrote; None means that the server cannot say which."""
        if keys is None:
            self._books.surveyed_at = -math.inf
            self._view.nudge()
            return
        nudge = False
        for key in keys:
            name, always = self._notice.get(key, ("", False))
            if name and (always or name in self._books.draw.blocked):
                self._books.noticed.add(name)
                nudge |= self._books.draw.mark(name)
        if nudge:
            self._view.nudge()

    def _sets_changed(self, keys: Sequence[bytes] | None) -> None:
        for key in self._by_set if keys is None else keys:
            if key in self._by_set:
                self._by_set[key].poke()

    def _side_lost(self) -> None:
        for service in self._services:
            if not isinstance(service, Heartbeat):
                service.poke()

    async def exchange(self, settlements: Sequence[Settlement], want: Want | None) -> Exchanged:
        books, commands, order = self._books, list[Command](), list[Settlement]()
        if (
            self._watching == self._link.generation
            and want is not None
            and want.total > WATCH_LIMIT + self._record.concurrency
        ):
            # Busy: messages about every write of our peers would cost more than they tell.
            commands.append(("CLIENT", "TRACKING", "OFF"))
            self._watching = 0
        lead = len(commands)
        if settlements:
            commands.append(books.settle_command(settlements, order))
        surveying = want is not None and books.survey_due
        if surveying:
            commands.append(books.survey_command())
        asked = books.draw.pick(want.total) if want is not None and want.total > 0 else []
        if want is not None and asked:
            commands.append(books.fetch_command(asked, want))
        if self._unique.started and (forget := self._unique.ended(settlements)) is not None:
            commands.append(forget)
        books.noticed.clear()
        try:
            replies = iter((await self._link.call(*commands))[lead:])
        except ReplyLost:
            if asked:
                self._auditor.suspect()
            raise
        result = Exchanged()
        if settlements:
            books.read_settle(next(replies), order, result)
        if surveying:
            books.read_survey(next(replies))
        if asked:
            await self._take(asked, next(replies), result)
        result.dry = not books.draw.open
        return result

    async def _take(self, asked: list[tuple[str, int]], reply: Reply, result: Exchanged) -> None:
        """What the fetch brought, ready to run."""
        if isinstance(reply, StoreRefused):
            result.refusal = reply
            return
        if reply is None:  # somebody took us for dead, or the server forgot: be found again before taking jobs
            log.warning("pool %s was not registered any more; registering again", self._record.id)
            try:
                await self.open()
            except StoreError as exc:
                result.refusal = exc
            return
        unique: list[Delivery] = []
        open_before = len(self._books.draw.open)
        taken = self._books.read_fetch(asked, reply)
        result.narrowed = len(self._books.draw.open) < open_before
        for delivery in taken:
            job = delivery.job
            starts_unique = job is not None and job.unique and not job.fails
            (unique if starts_unique else result.deliveries).append(delivery)
        if unique:
            result.deliveries += await self._unique.claim(unique)


def _notices(keys: Keys, names: Sequence[str]) -> dict[bytes, tuple[str, bool]]:
    """Written key -> (name that may have a job now, True or False: only if it is blocked)."""
    found = {}
    for name in names:
        found[keys.queue(name).encode()] = (name, True)
        for key in (keys.paused(name), keys.lock(name), keys.max_concurrency(name)):
            found[key.encode()] = (name, False)
    return found
