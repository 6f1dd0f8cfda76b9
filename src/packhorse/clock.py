"""The only module that reads time.

Everything that decides by time takes a `Clock`, so that tests can set it. `wall` is for stamps that others
read (Redis scores, `t`); `monotonic` is for measuring, and is never compared between processes.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Source of time; durations and stamps are float seconds."""

    def wall(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds since some start, never going back."""


class SystemClock:
    """The clock of this machine."""

    __slots__ = ()
    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


SYSTEM_CLOCK: Clock = SystemClock()

#: For measuring handlers on the hot path: the cheapest call there is, needs no injection.
tick = time.perf_counter
