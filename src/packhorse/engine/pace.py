"""Pace: how quickly jobs pass through this pool, and how far ahead it may therefore claim.

Rule 2 of the architecture: microsecond jobs are taken hundreds at a time; a job that runs for long is never taken
before a slot is free for it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from packhorse.clock import tick
from packhorse.protocols.base import Delivery


class Pace:
    """Measures handlers by queue and completions overall."""

    #: Mean handler time below which a queue's jobs may be claimed ahead.
    QUICK = 0.005
    #: How much work, by the measured rate, may wait in memory.
    HORIZON = 0.010
    #: A claimed job that has not started after this long goes back if slots do not turn over.
    STALE = 0.05
    MOST_JOBS = 1000
    MOST_BYTES = 4 << 20
    CHUNK_SECONDS = 0.002
    CHUNK_MOST = 256

    __slots__ = ("_counted", "_finished", "_last_end", "_mean_bytes", "_means", "_rate", "_since", "quick")

    def __init__(self) -> None:
        self.quick: set[str] = set()
        self._means: dict[str, float] = {}
        self._finished = 0
        self._counted = 0
        self._since = self._last_end = tick()
        self._rate = 0.0
        self._mean_bytes = 200.0

    @property
    def measured(self) -> Collection[str]:
        """Queues of which a handler has run here."""
        return self._means.keys()

    def ran(self, queue: str, seconds: float) -> None:
        """A handler of this queue took so long."""
        self._finished += 1
        self._last_end = tick()
        mean = self._means.get(queue)
        mean = seconds if mean is None else mean + (seconds - mean) * 0.1
        self._means[queue] = mean
        if mean < self.QUICK:
            self.quick.add(queue)
        else:
            self.quick.discard(queue)

    def sized(self, deliveries: Sequence[Delivery]) -> None:
        """Payloads came in: large ones are not piled up in memory."""
        if deliveries:
            mean = sum(len(d.raw) for d in deliveries[:10]) / min(len(deliveries), 10)
            self._mean_bytes += (mean - self._mean_bytes) * 0.3

    def prefetch(self) -> int:
        """Most jobs that may wait in memory now."""
        now = tick()
        elapsed = now - self._since
        if elapsed > 0.0002:
            rate = (self._finished - self._counted) / elapsed
            self._rate += (rate - self._rate) * 0.5
            self._since, self._counted = now, self._finished
        if not self.quick or self.stalled():
            return 0
        return min(int(self._rate * self.HORIZON), self.MOST_JOBS, int(self.MOST_BYTES / max(self._mean_bytes, 1.0)))

    def stalled(self) -> bool:
        """No job has ended for a while: what waits would wait on."""
        return tick() - self._last_end > self.STALE / 2

    def chunk(self, queue: str) -> int:
        """How many jobs of this queue a thread may take at once."""
        mean = self._means.get(queue)
        if mean is None:
            return 1
        return max(1, min(int(self.CHUNK_SECONDS / max(mean, 1e-7)), self.CHUNK_MOST))
