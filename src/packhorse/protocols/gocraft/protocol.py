"""The gocraft wire protocol: what github.com/gocraft/work programs write and read.

Made by `App`; hands out the worker side, the producer side and the guardian, each with connections of its own in the
event loop that asks for it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from itertools import islice

from packhorse.clock import SYSTEM_CLOCK, Clock
from packhorse.errors import ConfigError, EnqueueUnknown, ReplyLost, StoreError, StoreRefused
from packhorse.protocols.base import (
    Consumer,
    Guardian,
    NewJob,
    PoolRecord,
    Producer,
    Receipt,
    WireProtocol,
    WorkerView,
)
from packhorse.protocols.gocraft import codec, cron, gojson, keys, scripts
from packhorse.protocols.gocraft.admin import GocraftInspector
from packhorse.protocols.gocraft.consumer import GocraftConsumer
from packhorse.protocols.gocraft.keys import Keys
from packhorse.protocols.gocraft.periodic import fire_times
from packhorse.protocols.gocraft.reaper import reap_pool
from packhorse.protocols.inspect import Inspector
from packhorse.settings import StoreSettings
from packhorse.store import Command, Reply, Store

log = logging.getLogger(__name__)

UNIQUE_TTL = 86_400
KNOWN_JOBS_EVERY = 300.0
PUSH_CHUNK = 500
#: Enqueueing one job after the other is as fast as its round trips (benchmark: enqueue 1).
AWAKE = 0.0002


class Gocraft(WireProtocol):
    """gocraft/work on one namespace of one server."""

    name = "gocraft"

    def __init__(self, settings: StoreSettings, namespace: str = "", clock: Clock = SYSTEM_CLOCK) -> None:
        self.settings = settings
        self.keys = Keys(namespace)
        self.clock = clock

    def check_name(self, name: str) -> None:
        keys.check_name(name)

    def check_periodic(self, spec: str) -> None:
        _parsed(spec)

    def next_fire_times(self, spec: str, after: int, count: int) -> list[int]:
        return list(islice(fire_times(_parsed(spec), after), count))

    def encode_args(self, name: str, args: Mapping[str, object] | None) -> bytes:
        return codec.encode_args(name, args)

    def consumer(self, record: PoolRecord, view: WorkerView) -> Consumer:
        return GocraftConsumer(Store(self.settings), self.keys, record, view, self.clock)

    def producer(self) -> Producer:
        return GocraftProducer(Store(self.settings), self.keys, self.clock)

    def inspector(self) -> Inspector:
        return GocraftInspector(Store(self.settings), self.keys, self.clock)

    def guardian(self) -> Guardian:
        return GocraftGuardian(Store(self.settings), self.keys, self.clock)


def _parsed(spec: str) -> cron.Schedule | cron.Every:
    try:
        return cron.parse(spec)
    except cron.CronError as exc:
        raise ConfigError(f"periodic: {exc}") from None


class GocraftProducer(Producer):
    """Writes new jobs. Concurrent pushes share the connection; one push is one round trip."""

    def __init__(self, store: Store, keys: Keys, clock: Clock) -> None:
        self._store = store
        self._link = store.link(awake=AWAKE)
        self._keys = keys
        self._clock = clock
        self._known_until: dict[str, float] = {}
        self._warned: set[str] = set()

    async def push(self, jobs: Sequence[NewJob]) -> list[Receipt | StoreError]:
        now = self._clock.wall()
        t = int(now)
        if len(jobs) == 1 and (answer := await self._push_one(jobs[0], t, now)) is not None:
            return [answer]
        commands: list[Command] = []
        plain: dict[str, list[int]] = {}
        sent_by: list[tuple[Sequence[int], bool]] = []  # jobs behind each command, and whether it tells duplicates
        for index, job in enumerate(jobs):
            if job.unique_key is not None:
                commands.append(self._unique_command(job, t))
                sent_by.append(((index,), True))
            elif job.run_at is not None:
                self._warn_of_damage(job)
                score = math.ceil(job.run_at)
                commands.append(("ZADD", self._keys.scheduled, score, codec.encode_job(job, t, None)))
                sent_by.append(((index,), False))
            else:
                plain.setdefault(job.name, []).append(index)
        for name, indexes in plain.items():
            queue = self._keys.queue(name)
            for start in range(0, len(indexes), PUSH_CHUNK):
                chunk = indexes[start : start + PUSH_CHUNK]
                commands.append(("LPUSH", queue, *(codec.encode_job(jobs[i], t, None) for i in chunk)))
                sent_by.append((chunk, False))
        fresh = [name for name in {job.name for job in jobs} if self._known_until.get(name, 0.0) <= now]
        if fresh:
            commands.append(("SADD", self._keys.known_jobs, *fresh))
        try:
            replies = await self._link.call(*commands)
        except ReplyLost as exc:
            raise EnqueueUnknown([job.id for job in jobs], exc) from exc
        if fresh and not isinstance(replies[-1], StoreRefused):
            self._known_until |= dict.fromkeys(fresh, now + KNOWN_JOBS_EVERY)
        return _receipts(jobs, sent_by, replies)

    async def _push_one(self, job: NewJob, t: int, now: float) -> Receipt | StoreError | None:
        """The usual case, a single plain job of a known name, without the bookkeeping of a batch."""
        if job.unique_key is not None or job.run_at is not None or self._known_until.get(job.name, 0.0) <= now:
            return None
        try:
            (reply,) = await self._link.call(("LPUSH", self._keys.queue(job.name), codec.encode_job(job, t, None)))
        except ReplyLost as exc:
            raise EnqueueUnknown([job.id], exc) from exc
        return reply if isinstance(reply, StoreRefused) else Receipt(job.id, job.name)

    def _warn_of_damage(self, job: NewJob) -> None:
        """Scheduled jobs may be moved by a Go pool, whose script keeps 14 digits and turns [] into {} (quirks 2)."""
        danger = gojson.fragile(job.args)
        if danger is not None and job.name not in self._warned:
            self._warned.add(job.name)
            log.warning("job %r: %s; if a Go pool moves it, that value changes: send it as text", job.name, danger)

    def _unique_command(self, job: NewJob, t: int) -> Command:
        assert job.unique_key is not None
        unique_key = self._keys.unique(job.name, job.unique_key)
        payload = codec.encode_job(job, t, unique_key)
        # A key that ends before its job has run would let a second one in (quirks 10).
        ttl = max(UNIQUE_TTL, math.ceil(job.run_at - t) + 3600) if job.run_at is not None else UNIQUE_TTL
        target = self._keys.queue(job.name) if job.run_at is None else self._keys.scheduled
        score = "" if job.run_at is None else math.ceil(job.run_at)
        value = payload if job.keep_latest else b"1"
        return scripts.ENQUEUE_UNIQUE([target, unique_key], [payload, value, ttl, score])

    async def close(self) -> None:
        await self._store.close()


def _receipts(
    jobs: Sequence[NewJob], sent_by: Sequence[tuple[Sequence[int], bool]], replies: Sequence[Reply]
) -> list[Receipt | StoreError]:
    answers: list[Receipt | StoreError] = [Receipt(job.id, job.name, job.run_at) for job in jobs]
    for (indexes, tells), reply in zip(sent_by, replies, strict=False):
        if isinstance(reply, StoreRefused):
            for i in indexes:
                answers[i] = reply
        elif tells and reply == 0:
            job = jobs[indexes[0]]
            answers[indexes[0]] = Receipt(job.id, job.name, job.run_at, duplicate=True)
    return answers


class GocraftGuardian(Guardian):
    """Beats for pools whose processes may be too busy, and hands back what dead ones held."""

    def __init__(self, store: Store, keys: Keys, clock: Clock) -> None:
        self._store = store
        self._link = store.link()
        self._keys = keys
        self._clock = clock

    async def beat(self, pool_ids: Sequence[str]) -> None:
        now = int(self._clock.wall())
        for reply in await self._link.call(*(scripts.BEAT([self._keys.pool(p)], [now]) for p in pool_ids)):
            if isinstance(reply, StoreRefused):
                raise reply

    async def release(self, pool_id: str, crashed: Collection[str] = ()) -> int:
        beat = await self._link.one("HGET", self._keys.pool(pool_id), "heartbeat_at") or b""
        return await reap_pool(self._link, self._keys, pool_id, beat, (), "tail", self._clock, crashed)

    async def close(self) -> None:
        await self._store.close()
