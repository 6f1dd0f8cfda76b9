"""Finds pools that are dead and puts their jobs back.

A pool is dead when this reaper has watched its heartbeat stand still for DEAD_AFTER seconds of its own clock: no two
clocks are compared. Putting back checks in the same step that the heartbeat is still the one that was watched.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from packhorse.clock import Clock
from packhorse.errors import DecodeError, StoreRefused
from packhorse.job import Job
from packhorse.protocols.gocraft import codec, scripts
from packhorse.protocols.gocraft.keys import Keys
from packhorse.service import Service
from packhorse.store import Link, raise_refused

log = logging.getLogger(__name__)

DEAD_AFTER = 10.0
LOOK_EVERY = 2.5
SCAN_EVERY = 60.0
BATCH = 500
#: A job whose process died under it this often is kept in the dead set instead of killing another one.
MAX_CRASHES = 3
CRASH_MEMORY = 72 * 3600
LEFT_BEHIND = "a newer job with the same unique key ran in its place"


class Reaper(Service):
    """Watches every pool of the namespace, ours and Go's."""

    def __init__(self, link: Link, keys: Keys, own: str, names: frozenset[str], clock: Clock) -> None:
        super().__init__()
        self._link = link
        self._keys = keys
        self._own = own
        self._names = names
        self._clock = clock
        #: pool -> (heartbeat as seen, since when by our clock)
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._scanned_at = float("-inf")
        #: pool -> names of its in-progress lists at the last scan
        self._lists: dict[str, set[str]] = {}
        #: Those that nobody lists as pools.
        self._strays: set[str] = set()

    async def run_once(self) -> float:
        pools = {m.decode("utf-8", "replace") for m in await self._link.one("SMEMBERS", self._keys.worker_pools)}
        now = self._clock.monotonic()
        if now - self._scanned_at >= SCAN_EVERY:
            self._scanned_at = now
            self._lists = await self._pools_with_lists()
            self._strays = self._lists.keys() - pools
        pools |= self._strays
        pools.discard(self._own)
        for gone in self._seen.keys() - pools:
            del self._seen[gone]
        for pool in sorted(pools):
            try:
                await self._look(pool)
            except StoreRefused as exc:  # one broken pool must not keep the others from being found
                log.error("pool %s cannot be looked after: %s", pool, exc)
                self._seen.pop(pool, None)
        return LOOK_EVERY

    async def _look(self, pool: str) -> None:
        asked = self._clock.monotonic()
        beat = await self._link.one("HGET", self._keys.pool(pool), "heartbeat_at") or b""
        before = self._seen.get(pool)
        if before is None or before[0] != beat:
            # Stamped when it was read: a slow pass must not make a heartbeat older than it is.
            self._seen[pool] = (beat, self._clock.monotonic())
        elif asked - before[1] >= DEAD_AFTER:
            await self.reap(pool, beat)

    async def reap(self, pool: str, beat: bytes) -> None:
        names = self._names | self._lists.get(pool, set())
        # If it fails, or some of the jobs cannot go back, the pool is watched anew.
        self._seen.pop(pool, None)
        moved = await reap_pool(self._link, self._keys, pool, beat, names, "head", self._clock)
        if moved >= 0:
            log.warning("pool %s is dead; %d of its jobs are back in their queues", pool, moved)
            self._strays.discard(pool)

    async def _pools_with_lists(self) -> dict[str, set[str]]:
        """Names of the in-progress lists of each pool, whether anybody lists it as a pool or not (quirks 7)."""
        found: dict[str, set[str]] = {}
        # A Go program may have a job named `x:y:inprogress`.
        queues = {self._keys.jobs.encode() + name for name in await self._link.one("SMEMBERS", self._keys.known_jobs)}
        cursor = b"0"
        pattern = f"{_escaped(self._keys.jobs)}*:inprogress"
        while True:
            cursor, page = await self._link.one("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            for key in set(page) - queues:
                name, *rest = key.decode("utf-8", "replace").removeprefix(self._keys.jobs).rsplit(":", 2)
                if len(rest) == 2:
                    found.setdefault(rest[0], set()).add(name)
            if cursor == b"0":
                return found


async def reap_pool(
    link: Link, keys: Keys, pool: str, beat: bytes, names: Iterable[str], end: str, clock: Clock,
    crashed: Collection[str] = (),
) -> int:  # fmt: skip
    """Put everything this pool holds back and take it off the books; -1 if it turns out to be alive.

    `end`: 'head' behind what waits (as Go does), 'tail' to run first. Jobs that cannot go back leave the pool
    listed, for the next run; so do errors.
    """
    told = await link.one("HGET", keys.pool(pool), "job_names") or b""
    known = await link.one("SMEMBERS", keys.known_jobs)
    all_names = {n.decode("utf-8", "replace") for n in (*told.split(b","), *known) if n} | set(names)
    kinds = await link.call(*(("TYPE", keys.inprogress(name, pool)) for name in sorted(all_names)))
    held = [name for name, kind in zip(sorted(all_names), kinds, strict=True) if kind == b"list"]
    moved = 0
    for name in held:
        lists = [
            keys.pool(pool), keys.inprogress(name, pool), keys.queue(name), keys.lock(name), keys.lock_info(name),
            keys.dead,
        ]  # fmt: skip
        poison = await _poisonous(link, keys, keys.inprogress(name, pool), name, crashed, clock)
        poison += await _leftovers(link, keys, pool, name, clock)
        while True:
            command = scripts.REAP(lists, [pool, beat, end, BATCH, int(clock.wall()), *poison])
            try:
                count = int(await link.one(*command))
            except StoreRefused as exc:  # the other names can still be helped
                log.error("jobs of dead pool %s cannot go back: %s", pool, exc)
                break
            poison = []
            if count < 0:
                return -1
            moved += count
            if count < BATCH:
                break
    bury_keys = [keys.pool(pool), keys.worker_pools]
    for name in sorted(all_names):
        bury_keys += (keys.inprogress(name, pool), keys.lock(name), keys.lock_info(name))
    done = await link.one(*scripts.BURY(bury_keys, [pool, beat]))
    return moved if done == 1 else -1


async def _poisonous(
    link: Link, keys: Keys, inprogress: str, name: str, crashed: Collection[str], clock: Clock
) -> list[bytes]:
    """Pairs (payload, payload for dead) of jobs that were running at too many crashes."""
    if not crashed:
        return []
    pairs: list[bytes] = []
    for raw in await link.one("LRANGE", inprogress, 0, -1):
        try:
            job = codec.decode(raw, name)
        except DecodeError:
            continue
        if job.id not in crashed and not any(job.id.startswith(cut) for cut in crashed if len(cut) > 100):
            continue
        key = keys.crashes(job.id)
        replies = await link.call(("INCR", key), ("EXPIRE", key, CRASH_MEMORY))
        raise_refused(replies)
        if replies[0] >= MAX_CRASHES:
            error = f"poison: {replies[0]} worker processes died while it ran"
            pairs += (raw, codec.failed(raw, error, int(clock.wall())))
            log.error("job %s goes to dead: %s", job, error)
    return pairs


async def _leftovers(link: Link, keys: Keys, pool: str, name: str, clock: Clock) -> list[bytes]:
    """Pairs as in `_poisonous` of jobs that a Go pool has done and left in its list (quirks 4).

    Go runs what a duplicate left in the unique key and then takes *that* off the list, so the queued payload stays.
    Its lock is released all the same: there are more payloads than locks, and the oldest by-key ones are too many.
    """
    inprogress = keys.inprogress(name, pool)
    items, locks = await link.call(("LRANGE", inprogress, 0, -1), ("HGET", keys.lock_info(name), pool))
    raise_refused([items])
    surplus = len(items) - (int(locks) if isinstance(locks, bytes) and locks.isdigit() else 0)
    pairs: list[bytes] = []
    for raw in reversed(items):
        if len(pairs) >= 2 * surplus:
            break
        if b'"unique_key"' not in raw:
            continue
        try:
            job = codec.decode(raw, name)
        except DecodeError:
            continue
        if job.unique and not _by_args(keys, job):
            log.error("job %s, left behind by pool %s, goes to dead: a newer one ran in its place", job, pool)
            pairs += (raw, codec.failed(raw, f"left behind by pool {pool}: {LEFT_BEHIND}", int(clock.wall())))
    return pairs


def _by_args(keys: Keys, job: Job) -> bool:
    """Whether all arguments make this job unique: then no duplicate can have run in its place."""
    try:
        texts = (job.args_json + b"\n", codec.key_of_args(job))
    except ValueError:
        return True
    return job.unique_key.encode() in (b"", *(keys.unique(job.name, text) for text in texts))


def _escaped(text: str) -> str:
    """Text for SCAN MATCH without its special characters."""
    return "".join(f"\\{c}" if c in "*?[]\\" else c for c in text)
