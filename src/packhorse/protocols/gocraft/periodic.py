"""Enqueues periodic jobs ahead of their time, as every Go pool does too: equal bytes make one entry.

No leader. Each pool writes the fire times of the next minutes; a mark per fire time keeps a slow clock from adding one
again after it has run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from packhorse.clock import Clock
from packhorse.protocols.base import NewJob
from packhorse.protocols.gocraft import codec, cron, scripts
from packhorse.protocols.gocraft.keys import Keys
from packhorse.service import Service
from packhorse.store import Command, Link, raise_refused

HORIZON = 240
PASS_EVERY = 120.0
PASS_JITTER = 29.0
MARKS_KEPT = 86_400


class Periodic(Service):
    """`specs` are (cron spec as typed, job name) pairs."""

    def __init__(self, link: Link, keys: Keys, specs: tuple[tuple[str, str], ...], clock: Clock) -> None:
        super().__init__()
        self._link = link
        self._keys = keys
        self._specs = [(spec, name, cron.parse(spec)) for spec, name in specs]
        self._clock = clock

    async def run_once(self) -> float:
        await self.enqueue()
        return PASS_EVERY + random.uniform(0.0, PASS_JITTER)

    async def enqueue(self) -> None:
        """One pass: everything that fires within the horizon is in the scheduled set afterwards."""
        now = int(self._clock.wall())
        args: list[bytes | str | int] = [now - MARKS_KEPT]
        for spec, name, schedule in self._specs:
            for at in fire_times(schedule, now, now + HORIZON):
                job = NewJob(name, f"periodic:{name}:{spec}:{at}", b"null")
                args += (at, job.id, codec.encode_job(job, at, None))
        commands: list[Command] = []
        if len(args) > 1:
            commands.append(scripts.PERIODIC([self._keys.scheduled, self._keys.periodic_marks], args))
        # Go's pools read this before they make a pass of their own.
        commands.append(("SET", self._keys.last_periodic, now))
        raise_refused(await self._link.call(*commands))


def fire_times(schedule: cron.Schedule | cron.Every, after: int, before: float = math.inf) -> Iterator[int]:
    """Fire times with after < t < before. `@every` is aligned, so that all pools agree on it (quirks 6)."""
    step = schedule.aligned_next if isinstance(schedule, cron.Every) else schedule.next
    at = step(after)
    while at is not None and at < before:
        yield at
        at = step(at)
