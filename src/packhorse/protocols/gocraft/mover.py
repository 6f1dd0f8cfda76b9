"""Moves due jobs from retry and scheduled into their queues, and rescues those that a Go pool sent to dead.

Go's movers decode and encode in Lua, which damages numbers and loses what they cannot encode (quirks 2 and 3). Here
the member is read, its `t` is replaced in the text, and a script swaps the bytes if the old ones are still there.
"""

from __future__ import annotations

import asyncio
import logging

from packhorse.clock import Clock
from packhorse.errors import DecodeError
from packhorse.protocols.gocraft import codec, scripts
from packhorse.protocols.gocraft.keys import Keys
from packhorse.service import Service
from packhorse.store import Link

log = logging.getLogger(__name__)

PAGE = 250
#: Sleeping longer than this would trust that every invalidation message arrives.
LONGEST_SLEEP = 10.0
#: A busy producer of scheduled jobs wakes the mover with each write; looking more often than this brings nothing.
SHORTEST_SLEEP = 0.005
KNOWN_JOBS_TTL = 5.0


class Mover(Service):
    """One sorted set. Sleeps until its next score is due."""

    def __init__(self, link: Link, keys: Keys, source: str, names: frozenset[str], clock: Clock) -> None:
        super().__init__()
        self.source = source
        self._link = link
        self._keys = keys
        self._names = names
        self._clock = clock
        self._known: frozenset[str] = names
        self._known_until = 0.0
        self._warned: set[str] = set()

    async def run_once(self) -> float:
        score = await self._first_after("-inf")
        if score is not None and score <= self._clock.wall():
            await self.move_due()
            # What stayed, because nobody knows its name, must not keep us awake.
            score = await self._first_after(f"({int(self._clock.wall())}")
        if score is None:
            return LONGEST_SLEEP
        return min(max(score - self._clock.wall(), SHORTEST_SLEEP), LONGEST_SLEEP)

    async def _first_after(self, low: str) -> float | None:
        """The lowest score from `low` on, in epoch seconds."""
        reply = await self._link.one(
            "ZRANGEBYSCORE", self.source, low, "+inf", "WITHSCORES", "LIMIT", 0, 1
        )  # fmt: skip
        # RESP3 gives pairs, RESP2 one flat list.
        return float(reply[0][1] if isinstance(reply[0], list) else reply[1]) if reply else None

    async def move_due(self) -> int:
        """Move everything that is due now; gives how many."""
        moved = skipped = 0
        while True:
            now = int(self._clock.wall())
            page = await self._link.one("ZRANGEBYSCORE", self.source, "-inf", now, "LIMIT", skipped, PAGE)
            if not page:
                return moved
            count = await self._move(page, now)
            moved += count
            # What stays (names that nobody knows, targets of a wrong type) must not hide what is behind it.
            skipped += len(page) - count
            await asyncio.sleep(0)

    async def _move(self, page: list[bytes], now: int) -> int:
        targets: dict[str, int] = {}
        keys = [self.source, self._keys.dead]
        args: list[bytes | int] = []
        for raw in page:
            try:
                job = codec.decode(raw, "")
                danger = codec.dangerous(raw) if codec.may_be_dangerous(raw) else None
                if danger is not None or not job.name:
                    raise DecodeError(danger or "it has no name", raw)
            except DecodeError as exc:
                log.error("a member of %s is no job (%s): set aside in %s", self.source, exc, self._keys.dead)
                args += (raw, 2, now, codec.wrapped(raw, "", exc.reason, now))
                continue
            if job.name not in self._names and not await self._is_known(job.name):
                if job.name not in self._warned:
                    self._warned.add(job.name)
                    log.warning("due jobs named %r stay in %s: no pool has that name", job.name, self.source)
                continue
            queue = self._keys.queue(job.name)
            if queue not in targets:
                keys.append(queue)
                targets[queue] = len(keys)
            args += (raw, targets[queue], now, codec.stamped(raw, now))
        if not args:
            return 0
        moved, wrong = await self._link.one(*scripts.MOVE(keys, args))
        for text in wrong:
            log.error("cannot move jobs: %s", text.decode("utf-8", "replace"))
        return int(moved)

    async def _is_known(self, name: str) -> bool:
        now = self._clock.monotonic()
        if now >= self._known_until:
            members = await self._link.one("SMEMBERS", self._keys.known_jobs)
            self._known = self._names | {m.decode("utf-8", "replace") for m in members}
            self._known_until = now + KNOWN_JOBS_TTL
        return name in self._known


class Rescuer(Service):
    """Brings back jobs that a Go pool declared dead only because it does not know their name (quirks 5)."""

    def __init__(self, link: Link, keys: Keys, names: frozenset[str], clock: Clock) -> None:
        super().__init__()
        self.source = keys.dead
        self._link = link
        self._keys = keys
        self._names = names
        self._clock = clock
        self._from = float("-inf")

    async def run_once(self) -> float:
        await self.rescue()
        return LONGEST_SLEEP

    async def rescue(self) -> int:
        """Look at what died since the last look; gives how many jobs are back in their queues."""
        rescued = skipped = 0
        start = self._from
        while True:
            now = int(self._clock.wall())
            page = await self._link.one("ZRANGEBYSCORE", self.source, start, "+inf", "LIMIT", skipped, PAGE)
            if not page:
                # Go stamps with its own clock: look a minute back at the next run.
                self._from = now - 60
                return rescued
            count = await self._requeue([raw for raw in page if codec.UNKNOWN_JOB.encode() in raw], now)
            rescued += count
            skipped += len(page) - count
            await asyncio.sleep(0)

    async def _requeue(self, members: list[bytes], now: int) -> int:
        keys = [self.source, self.source]
        args: list[bytes | int] = []
        for raw in members:
            try:
                job = codec.decode(raw, "")
            except DecodeError:
                continue
            if job.last_error != codec.UNKNOWN_JOB or job.name not in self._names:
                continue
            keys.append(self._keys.queue(job.name))
            args += (raw, len(keys), now, codec.unfailed(raw, now, keep_fails=True))
        if not args:
            return 0
        moved, _ = await self._link.one(*scripts.MOVE(keys, args))
        if moved:
            log.info("%d jobs that another pool did not know are back in their queues", moved)
        return int(moved)
