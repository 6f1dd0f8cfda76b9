"""Finds pools that are dead and puts their jobs back.

A pool is dead when this reaper has watched its heartbeat stand still for DEAD_AFTER seconds of its own clock: no two
clocks are compared. Putting back checks in the same step that the heartbeat is still the one that was watched.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from packhorse.clock import Clock
from packhorse.errors import DecodeError
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
        self._strays: set[str] = set()

    async def run_once(self) -> float:
        pools = {m.decode("utf-8", "replace") for m in await self._link.one("SMEMBERS", self._keys.worker_pools)}
        now = self._clock.monotonic()
        if now - self._scanned_at >= SCAN_EVERY:
            self._scanned_at = now
            self._strays = await self._pools_with_lists() - pools
        pools |= self._strays
        pools.discard(self._own)
        for gone in self._seen.keys() - pools:
            del self._seen[gone]
        for pool in sorted(pools):
            beat = await self._link.one("HGET", self._keys.pool(pool), "heartbeat_at") or b""
            before = self._seen.get(pool)
            if before is None or before[0] != beat:
                self._seen[pool] = (beat, now)
            elif now - before[1] >= DEAD_AFTER:
                await self.reap(pool, beat)
        return LOOK_EVERY

    async def reap(self, pool: str, beat: bytes) -> None:
        moved = await reap_pool(self._link, self._keys, pool, beat, self._names, "head", self._clock)
        if moved >= 0:
            log.warning("pool %s is dead; %d of its jobs are back in their queues", pool, moved)
            self._seen.pop(pool, None)
            self._strays.discard(pool)

    async def _pools_with_lists(self) -> set[str]:
        """Pools that have in-progress lists, whether anybody lists them as pools or not (quirks 7)."""
        found, cursor = set(), b"0"
        pattern = f"{_escaped(self._keys.jobs)}*:inprogress"
        while True:
            cursor, page = await self._link.one("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            found |= {key.decode("utf-8", "replace").rsplit(":", 2)[1] for key in page}
            if cursor == b"0":
                return found


async def reap_pool(
    link: Link, keys: Keys, pool: str, beat: bytes, names: Iterable[str], end: str, clock: Clock,
    crashed: Collection[str] = (),
) -> int:  # fmt: skip
    """Put everything this pool holds back and take it off the books; -1 if it turns out to be alive.

    `end`: 'head' behind what waits (as Go does), 'tail' to run first. Errors leave the pool listed, for the next run.
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
        while True:
            command = scripts.REAP(lists, [pool, beat, end, BATCH, int(clock.wall()), *poison])
            count = int(await link.one(*command))
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
        if job.id not in crashed:
            continue
        key = keys.crashes(job.id)
        replies = await link.call(("INCR", key), ("EXPIRE", key, CRASH_MEMORY))
        raise_refused(replies)
        if replies[0] >= MAX_CRASHES:
            error = f"poison: {replies[0]} worker processes died while it ran"
            pairs += (raw, codec.failed(raw, error, int(clock.wall())))
            log.error("job %s goes to dead: %s", job, error)
    return pairs


def _escaped(text: str) -> str:
    """Text for SCAN MATCH without its special characters."""
    return "".join(f"\\{c}" if c in "*?[]\\" else c for c in text)
