"""The worker side of the gocraft layout: one pool's fetches and settles, and its place in the heartbeat set.

Called by the engine's fetcher only. Invariant: whatever `exchange` gave out is in this pool's in-progress list until
a settle takes it out, so a crash at any instant loses nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from packhorse.clock import Clock
from packhorse.errors import DecodeError, ReplyLost, StoreError, StoreRefused
from packhorse.job import Job
from packhorse.protocols.base import (
    Again,
    Consumer,
    Dead,
    Delivery,
    Done,
    Dropped,
    Exchanged,
    PoolRecord,
    Returned,
    Settlement,
    Want,
    WorkerView,
)
from packhorse.protocols.gocraft import codec, scripts
from packhorse.protocols.gocraft.draw import Draw
from packhorse.protocols.gocraft.keys import Keys
from packhorse.protocols.gocraft.mover import Mover, Rescuer
from packhorse.protocols.gocraft.periodic import Periodic
from packhorse.protocols.gocraft.reaper import Reaper
from packhorse.protocols.gocraft.upkeep import Auditor, Heartbeat, Observer, SetWatch
from packhorse.service import Service
from packhorse.store import Command, Reply, Store, raise_refused

log = logging.getLogger(__name__)

SURVEY_EVERY = 0.02
POLL_WATCHED = 10.0
POLL_UNWATCHED = 0.1
#: With more jobs than this asked for ahead, the pool is busy enough to stop listening.
WATCH_LIMIT = 100
PAUSED_RECHECK = 1.0
LIMIT_RECHECK = 0.25
WRONG_TYPE_RECHECK = 5.0


class GocraftConsumer(Consumer):
    """One pool on one namespace."""

    def __init__(
        self, store: Store, keys: Keys, record: PoolRecord, view: WorkerView, clock: Clock
    ) -> None:
        self._store = store
        self._keys = keys
        self._record = record
        self._view = view
        self._clock = clock
        self._link = store.link(self._queues_changed, view.nudge)
        self._side = store.link(self._sets_changed, self._side_lost)
        self._draw = Draw({queue.name: queue.priority for queue in record.queues})
        self._names = [queue.name for queue in record.queues]
        self._queue_keys = [keys.queue(name) for name in self._names]
        pool = record.id
        # One tuple per name, made once: building keys per fetch would cost more than the fetch.
        self._fetch_keys = {
            n: (
                keys.queue(n), keys.inprogress(n, pool), keys.paused(n), keys.lock(n), keys.lock_info(n),
                keys.max_concurrency(n),
            )
            for n in self._names
        }  # fmt: skip
        self._settle_keys = {
            n: (keys.inprogress(n, pool), keys.queue(n), keys.lock(n), keys.lock_info(n)) for n in self._names
        }
        self._notice = _notices(keys, self._names)
        self._surveyed_at = -math.inf
        #: Names that somebody wrote to while an exchange was on the wire: its answer may be older than that.
        self._noticed: set[str] = set()
        self._watching = 0
        self._unwatchable = False
        self._services = self._make_services()

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
                scripts.AUDIT([keys.lock(n), keys.lock_info(n), keys.inprogress(n, pool)], [pool, 1])
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
        switched, found = await self._link.call(watch, scripts.SURVEY(self._queue_keys, ()))
        if isinstance(switched, StoreRefused):
            log.warning("CLIENT TRACKING is refused (%s): polling every %.0f ms", switched, POLL_UNWATCHED * 1e3)
            self._unwatchable = True
        else:
            self._watching = self._link.generation
        raise_refused([found])
        self._surveyed_at = now = self._clock.monotonic()
        self._draw.mark_found((self._names[i - 1] for i in found), now)
        return bool(self._draw.open)

    def _queues_changed(self, keys: Sequence[bytes] | None) -> None:
        """Called for keys that somebody else wrote; None means that the server cannot say which."""
        if keys is None:
            self._surveyed_at = -math.inf
            self._view.nudge()
            return
        nudge = False
        for key in keys:
            name, always = self._notice.get(key, ("", False))
            if name and (always or name in self._draw.blocked):
                self._noticed.add(name)
                nudge |= self._draw.mark(name)
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

    # -- fetch and settle ------------------------------------------------------------------------------------

    async def exchange(self, settlements: Sequence[Settlement], want: Want | None) -> Exchanged:
        commands: list[Command] = []
        order: list[Settlement] = []
        if self._watching == self._link.generation and want is not None and want.prefetch > WATCH_LIMIT:
            # Busy: messages about every write of our peers would cost more than they tell.
            commands.append(("CLIENT", "TRACKING", "OFF"))
            self._watching = 0
        lead = len(commands)
        if settlements:
            commands.append(self._settle_command(settlements, order))
        now = self._clock.monotonic()
        surveying = want is not None and (not self._draw.open or now - self._surveyed_at >= SURVEY_EVERY)
        if surveying:
            commands.append(scripts.SURVEY(self._queue_keys, ()))
            self._surveyed_at = now
        asked = self._draw.pick(want.total) if want is not None and want.total > 0 else []
        if want is not None and asked:
            commands.append(self._fetch_command(asked, want))
        self._noticed.clear()
        try:
            replies = await self._link.call(*commands)
        except ReplyLost:
            if asked:
                self._auditor.suspect()
            raise
        result = Exchanged()
        position = lead
        if settlements:
            self._read_settle(replies[position], order, result)
            position += 1
        if surveying:
            if isinstance(replies[position], StoreRefused):
                raise replies[position]
            self._draw.mark_found((self._names[i - 1] for i in replies[position]), now)
            position += 1
        if asked:
            await self._read_fetch(replies[position], asked, result, now)
        result.dry = not self._draw.open
        return result

    def _fetch_command(self, asked: list[tuple[str, int]], want: Want) -> Command:
        keys: list[str] = [self._keys.worker_pools]
        args: list[str | int] = [self._record.id, want.total, want.slots]
        # Free slots are shared out among names that are not known to be quick: each gets measured soon.
        slow = sum(name not in want.quick for name, _ in asked)
        slow_share = max(want.slots // max(slow, 1), 1)
        for name, share in asked:
            keys += self._fetch_keys[name]
            args += (share, 1) if name in want.quick else (min(share, slow_share), 0)
        return scripts.FETCH(keys, args)

    async def _read_fetch(
        self, reply: Reply, asked: list[tuple[str, int]], result: Exchanged, now: float
    ) -> None:
        if isinstance(reply, StoreRefused):
            raise reply
        if reply is None:  # somebody took us for dead, or the server forgot: be found again before taking jobs
            log.warning("pool %s was not registered any more; registering again", self._record.id)
            await self.open()
            return
        unique: list[Delivery] = []
        for (name, _), (left, state, *payloads) in zip(asked, reply, strict=True):
            if isinstance(state, bytes):
                log.error("queue %r cannot be fetched: %s", name, state.decode("utf-8", "replace"))
                self._draw.block(name, now + WRONG_TYPE_RECHECK)
            elif left == 0 and name not in self._noticed:
                self._draw.empty(name)
            elif state and name not in self._noticed:
                self._draw.block(name, now + (PAUSED_RECHECK if state == 1 else LIMIT_RECHECK))
            for raw in payloads:
                delivery = _delivery(name, raw)
                job = delivery.job
                if job is not None and job.unique and not job.fails:
                    unique.append(delivery)
                else:
                    result.deliveries.append(delivery)
        if unique:
            result.deliveries += await self._claim_unique(unique)

    async def _claim_unique(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Free the keys of unique jobs that start now; a by-key duplicate's newer payload takes over.

        A retry leaves its key alone: by then it belongs to a newer job (quirks 10).
        """
        ready: list[Delivery] = []
        claims: list[Delivery] = []
        commands: list[Command] = []
        for delivery in deliveries:
            assert delivery.job is not None
            key = self._unique_key(delivery.job)
            if key is None:
                ready.append(delivery)
                continue
            claims.append(delivery)
            inprogress = self._settle_keys[delivery.queue][0]
            commands.append(scripts.CLAIM_UNIQUE([inprogress, key], [delivery.raw]))
        try:
            replies = await self._link.call(*commands) if commands else []
        except StoreError:
            # Whether the payloads were swapped is not known: leave them to the audit, which puts them back.
            self._auditor.suspect()
            return ready
        for delivery, value in zip(claims, replies, strict=True):
            if isinstance(value, StoreRefused):
                log.warning("unique key of job %s: %s", delivery.job, value)
                ready.append(delivery)
            elif value is None:
                log.warning("job %s was taken away before it started", delivery.job)
            elif value in (b"", b"1"):
                ready.append(delivery)
            else:
                newer = _delivery(delivery.queue, value)
                if newer.job is None or codec.is_wrapped(newer.job):
                    log.warning("the payload in the unique key of %s is no job; running the queued one", delivery.job)
                    # It has taken the job's place in the list; in this order a crash loses nothing.
                    held = self._settle_keys[delivery.queue][0]
                    await self._link.call(("LPUSH", held, delivery.raw), ("LREM", held, -1, value))
                    newer = delivery
                ready.append(newer)
        return ready

    def _unique_key(self, job: Job) -> bytes | None:
        """The key to free. A payload may name any key; only those of this namespace's unique jobs count."""
        if job.unique_key.startswith(self._keys.unique_prefix):
            return job.unique_key.encode()
        if job.unique_key:
            log.warning("job %s names the unique key %r of somebody else; ignored", job, job.unique_key)
        try:
            return self._keys.unique(job.name, codec.key_of_args(job))
        except ValueError as exc:
            log.warning("job %s has no unique key that could be freed: %s", job, exc)
            return None

    def _settle_command(self, settlements: Sequence[Settlement], order: list[Settlement]) -> Command:
        """The command, and in `order` the settlements as the script counts them."""
        acks: dict[str, list[Settlement]] = {}
        others: dict[str, list[Settlement]] = {}
        for settlement in settlements:
            delivery, outcome = settlement
            kind = acks if isinstance(outcome, Done | Dropped) else others
            kind.setdefault(delivery.queue, []).append(settlement)
        keys: list[str] = [self._keys.retry, self._keys.dead, self._keys.scheduled]
        args: list[bytes | str | int] = [self._record.id]
        now = int(self._clock.wall())
        for queue in acks | others:
            done, rest = acks.get(queue, ()), others.get(queue, ())
            keys += self._settle_keys[queue]
            args += (len(done), len(rest))
            args += [delivery.raw for delivery, _ in done]
            for delivery, outcome in rest:
                args += (delivery.raw, *_action(delivery, outcome, now))
            order += done
            order += rest
            if queue in self._draw.blocked:
                self._draw.mark(queue)
        return scripts.SETTLE(keys, args)

    def _read_settle(self, reply: Reply, order: list[Settlement], result: Exchanged) -> None:
        if isinstance(reply, StoreRefused):
            raise reply
        lost, refused, reason = reply
        result.lost = [order[i - 1][0] for i in lost]
        if refused:
            log.error("%d settlements are refused: %s", len(refused), reason.decode("utf-8", "replace"))
            result.refused += [order[i - 1] for i in refused]


def _delivery(queue: str, raw: bytes) -> Delivery:
    try:
        job = codec.decode(raw, queue)
    except DecodeError as exc:
        return Delivery(queue, raw, None, exc)
    if job.id.startswith("bad-") and codec.is_wrapped(job):
        return Delivery(queue, raw, job, DecodeError("set aside earlier; unwrap it before it is retried", raw))
    return Delivery(queue, raw, job)


def _action(delivery: Delivery, outcome: object, now: int) -> tuple[str, int, bytes]:
    """(where to, score, new payload) for the settle script."""
    raw = delivery.raw
    match outcome:
        case Returned():
            return "queue", 0, raw
        case Again(at, None):
            return "scheduled", math.ceil(at), raw
        case Again(_, error) | Dead(error):
            if delivery.job is None:
                reason = delivery.error.reason if delivery.error is not None else error or ""
                return "dead", now, codec.wrapped(raw, delivery.queue, reason, now)
            payload = codec.failed(raw, error or "", now)
            danger = codec.dangerous(payload)
            if danger is not None:
                return "dead", now, codec.wrapped(raw, delivery.queue, danger, now)
            return ("retry", math.ceil(outcome.at), payload) if isinstance(outcome, Again) else ("dead", now, payload)
    raise AssertionError(f"no action for {outcome!r}")


def _notices(keys: Keys, names: Sequence[str]) -> dict[bytes, tuple[str, bool]]:
    """Written key -> (name that may have a job now, True or False: only if it is blocked)."""
    found = {}
    for name in names:
        found[keys.queue(name).encode()] = (name, True)
        for key in (keys.paused(name), keys.lock(name), keys.max_concurrency(name)):
            found[key.encode()] = (name, False)
    return found
