"""The gocraft layout for people: lists its queues, jobs and pools, and changes single jobs.

Made by `Gocraft.inspector` for `packhorse.admin`. A change touches a job only if it still lies there byte for
byte, in the same step that checks it; reading takes a few hundred entries at a time, however many there are.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from typing import TypeVar

from packhorse.clock import Clock
from packhorse.errors import ConfigError, StoreRefused
from packhorse.protocols.gocraft import scripts
from packhorse.protocols.gocraft.keys import Keys
from packhorse.protocols.gocraft.rows import (
    busy_row,
    held_key,
    job_row,
    pool_row,
    queue_row,
    retried,
    shown,
    split,
    wire,
)
from packhorse.protocols.inspect import BusyRow, Filter, Inspector, JobRow, Page, PoolRow, QueueRow, State
from packhorse.store import Command, Reply, Store, raise_refused

log = logging.getLogger(__name__)

BATCH = 250
#: Deleting from a list searches it from its end: fewer at a time, so that others get their turn in between.
LIST_BATCH = 25
PIPELINE = 1000
#: Seconds that the jobs of a purged queue outlive a caller that died over it.
PURGED_TTL = 3600

ANY = Filter()
Entry = tuple[bytes, float | None]
T = TypeVar("T")


class GocraftInspector(Inspector):
    """One connection, made at the first call."""

    def __init__(self, store: Store, keys: Keys, clock: Clock) -> None:
        self._store = store
        self._link = store.link()
        self._keys = keys
        self._clock = clock
        self._sets = {State.SCHEDULED: keys.scheduled, State.RETRY: keys.retry, State.DEAD: keys.dead}

    # Reading.

    async def ping(self) -> float:
        start = self._clock.monotonic()
        await self._link.one("PING")
        return self._clock.monotonic() - start

    async def queues(self) -> list[QueueRow]:
        """gocraft: set `known_jobs`, sorted by bytes."""
        keys, names = self._keys, await self._names()
        replies = await self._ask([
            command
            for name in names
            for command in (
                ("LLEN", wire(keys.queue(name))), ("LINDEX", wire(keys.queue(name)), -1),
                ("EXISTS", wire(keys.paused(name))), ("GET", wire(keys.lock(name))),
                ("GET", wire(keys.max_concurrency(name))),
            )
        ])  # fmt: skip
        now = self._clock.wall()
        found = []
        for index, name in enumerate(names):
            depth, tail, paused, lock, limit = replies[index * 5 : index * 5 + 5]
            found.append(queue_row(wire(name), depth or 0, tail, bool(paused), lock, limit, now))
        return found

    async def counts(self) -> dict[State, int]:
        sizes = await self._ask([("ZCARD", key) for key in self._sets.values()])
        depths = await self._ask([("LLEN", wire(self._keys.queue(name))) for name in await self._names()])
        counts = {state: size or 0 for state, size in zip(self._sets, sizes, strict=True)}
        return {State.QUEUED: sum(depth or 0 for depth in depths), **counts}

    async def pools(self) -> list[PoolRow]:
        beats = await self._heartbeats()
        now = self._clock.wall()
        return [pool_row(pool, fields, now) for pool, fields in beats]

    async def busy(self) -> list[BusyRow]:
        places = [
            (worker, pool) for pool, fields in await self._heartbeats() for worker in split(fields.get(b"worker_ids"))
        ]
        prefix = wire(self._keys.worker(""))
        seen = await self._ask([("HGETALL", prefix + worker) for worker, _ in places])
        return [busy_row(worker, pool, fields) for (worker, pool), fields in zip(places, seen, strict=True) if fields]

    async def jobs(
        self, state: State, where: Filter = ANY, *, queue: str | None = None, offset: int = 0, limit: int = 20
    ) -> Page:
        """The oldest of a queue and the lowest scores come first; `queue` narrows a sorted set to a name."""
        if state is State.QUEUED and queue is None:
            raise ConfigError("jobs: queue=None does not say which queue; give a name that queues() lists")
        offset, limit = max(offset, 0), max(limit, 0)
        if where.empty and (queue is None or state is State.QUEUED):
            return await self._page(state, queue, offset, limit)
        found: list[JobRow] = []
        seen = 0
        async with aclosing(self._scan(state, queue)) as batches:
            async for batch in batches:
                for raw, at in batch:
                    if len(found) == limit:
                        return Page(tuple(found), seen)
                    seen += 1
                    row = _row(state, queue, raw, at)
                    if where.matches(row) and queue in (None, row.queue):
                        offset -= 1
                        if offset < 0:
                            found.append(row)
        return Page(tuple(found), seen)

    async def find(self, id: str) -> list[JobRow]:
        places: list[tuple[State, str | None]] = [(state, None) for state in self._sets]
        places += [(State.QUEUED, name) for name in await self._names()]
        sought = wire(id)
        found = []
        for state, queue in places:
            async for batch in self._scan(state, queue):
                # An id may be written with escapes: only bytes without any can be ruled out unread.
                candidates = (entry for entry in batch if sought in entry[0] or b"\\" in entry[0])
                read = (_row(state, queue, raw, at) for raw, at in candidates)
                found += [row for row in read if row.id == id]
        return found

    # Changing.

    async def retry(self, rows: Sequence[JobRow]) -> int:
        """Jobs whose name nobody knows stay where they are, and so does what cannot be read.

        Go's client would give the former a new score and a new error (quirks 12).
        """
        moved = 0
        known = set(await self._names())
        for state, source in self._sets.items():
            for batch in _batches([row for row in rows if row.state is state], BATCH):
                moved += await self._retry(source, batch, known)
        return moved

    async def delete(self, rows: Sequence[JobRow]) -> int:
        """Frees the unique keys of jobs that have not run yet."""
        places: dict[tuple[State, str], list[JobRow]] = {}
        for row in rows:
            places.setdefault((row.state, row.queue if row.state is State.QUEUED else ""), []).append(row)
        deleted = 0
        for (state, queue), members in places.items():
            for batch in _batches(members, LIST_BATCH if state is State.QUEUED else BATCH):
                keys: list[bytes] = [self._source(state, queue)]
                args: list[bytes | int] = []
                for row in batch:
                    held = held_key(self._keys, row.raw)
                    if held is not None:
                        keys.append(held)
                    args += (row.raw, 0 if held is None else len(keys))
                deleted += int(await self._link.one(*scripts.DELETE(keys, args)))
        return deleted

    async def pause(self, names: Collection[str]) -> None:
        """gocraft: key `jobs:<name>:paused`, which the Go library reads and never writes."""
        raise_refused(await self._ask([("SET", wire(self._keys.paused(name)), 1) for name in names]))

    async def resume(self, names: Collection[str]) -> None:
        raise_refused(await self._ask([("DEL", wire(self._keys.paused(name))) for name in names]))

    async def purge(self, name: str) -> int:
        """The queue is put aside in one step; then the unique keys of what was in it are freed, each once."""
        aside = wire(self._keys.purged(secrets.token_hex(12)))
        count = int(await self._link.one(*scripts.PURGE([wire(self._keys.queue(name)), aside], [PURGED_TTL])))
        freed: set[bytes] = set()
        for start in range(0, count, BATCH):
            page = await self._link.one("LRANGE", aside, start, start + BATCH - 1)
            held = {key for raw in page if (key := held_key(self._keys, raw)) is not None} - freed
            if held:
                await self._link.one("DEL", *held)
                freed |= held
        if count:
            await self._link.one("UNLINK", aside)
        return count

    async def close(self) -> None:
        await self._store.close()

    # Steps of the above.

    async def _page(self, state: State, queue: str | None, offset: int, limit: int) -> Page:
        found: list[JobRow] = []
        while True:
            # There is no way to ask a list or set for nothing: a limit of 0 reads one entry for the total.
            wanted = min(max(limit, 1) - len(found), BATCH)
            entries, total = await self._slice(state, queue, offset + len(found), wanted)
            found += [_row(state, queue, raw, at) for raw, at in entries]
            if len(entries) < wanted or len(found) >= limit:
                return Page(tuple(found[:limit]), total)

    async def _scan(self, state: State, queue: str | None) -> AsyncGenerator[list[Entry], None]:
        start = 0
        while True:
            entries, _ = await self._slice(state, queue, start, BATCH)
            if not entries:
                return
            yield entries
            start += len(entries)

    async def _slice(self, state: State, queue: str | None, start: int, count: int) -> tuple[list[Entry], int]:
        """`count` entries from position `start` on, and how many there are in all."""
        key = self._source(state, queue)
        if state is State.QUEUED:
            read: tuple[Command, Command] = ("LRANGE", key, -(start + count), -(start + 1)), ("LLEN", key)
        else:
            read = ("ZRANGE", key, start, start + count - 1, "WITHSCORES"), ("ZCARD", key)
        page, total = await self._ask(read)
        if state is State.QUEUED:
            return [(raw, None) for raw in reversed(page or ())], total or 0
        return [(raw, float(score)) for raw, score in page or ()], total or 0

    async def _retry(self, source: str, batch: Sequence[JobRow], known: Collection[str]) -> int:
        now = int(self._clock.wall())
        keys = [source, source]  # nothing goes to the dead set
        targets: dict[str, int] = {}
        args: list[bytes | int] = []
        for row in batch:
            runs = retried(row, now)
            if runs is None or runs[0] not in known:
                continue
            name, payload = runs
            if name not in targets:
                keys.append(self._keys.queue(name))
                targets[name] = len(keys)
            args += (row.raw, targets[name], now, payload)
        if not args:
            return 0
        moved, wrong = await self._link.one(*scripts.MOVE(keys, args))
        for text in wrong:
            log.warning("jobs stay in %s: %s", source, shown(text))
        return int(moved)

    async def _heartbeats(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        (pools,) = await self._ask([("SMEMBERS", self._keys.worker_pools)])
        ids = sorted(pools or ())
        prefix = wire(self._keys.pool(""))
        hashes = await self._ask([("HGETALL", prefix + id) for id in ids])
        return [(id, fields or {}) for id, fields in zip(ids, hashes, strict=True)]

    async def _names(self) -> list[str]:
        (known,) = await self._ask([("SMEMBERS", self._keys.known_jobs)])
        return [name.decode("utf-8", "surrogateescape") for name in sorted(known or ())]

    async def _ask(self, commands: Sequence[Command]) -> list[Reply]:
        """The replies in order; None where a key is of another type than it should be."""
        replies: list[Reply] = []
        for batch in _batches(commands, PIPELINE):
            replies += await self._link.call(*batch)
        for index, reply in enumerate(replies):
            if isinstance(reply, StoreRefused):
                if reply.code != "WRONGTYPE":
                    raise reply
                replies[index] = None
        return replies

    def _source(self, state: State, queue: str | None) -> bytes:
        return wire(self._sets[state] if state is not State.QUEUED else self._keys.queue(queue or ""))


def _row(state: State, queue: str | None, raw: bytes, at: float | None) -> JobRow:
    return job_row(state, queue if state is State.QUEUED else None, raw, at)


def _batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
