"""The producer side of every measured Python system: enqueues N jobs in one of three ways and times it.

Each app file calls it when run as `python -m benchmarks.apps.<system>_app <mode> <jobs> <names>`; it prints
one JSON line with the seconds taken. Connecting happens before the clock starts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

PRODUCERS = 64
BATCH = 1000


def arguments() -> tuple[str, list[str]]:
    """The mode, and the name of each job to enqueue."""
    mode, jobs, names = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    return mode, [f"job{number % names}" for number in range(jobs)]


def produce(
    one: Callable[[str], object],
    many: Callable[[list[str]], object] | None = None,
) -> None:
    """For systems with a blocking client: `one` enqueues one job by name, `many` a list of them."""
    mode, jobs = arguments()
    started = time.monotonic()
    if mode == "bulk" and many is not None:
        for batch in batches(jobs):
            many(batch)
    elif mode == "sequential":
        for name in jobs:
            one(name)
    else:
        raise SystemExit(f"no such mode: {mode}")
    report(len(jobs), time.monotonic() - started)


async def produce_async(
    one: Callable[[str], Awaitable[Any]],
    many: Callable[[list[str]], Awaitable[Any]] | None = None,
) -> None:
    """For systems with an asyncio client; `concurrent` runs 64 producers on one connection pool."""
    mode, jobs = arguments()
    started = time.monotonic()
    if mode == "bulk" and many is not None:
        for batch in batches(jobs):
            await many(batch)
    elif mode == "sequential":
        for name in jobs:
            await one(name)
    elif mode == "concurrent":
        shared = iter(jobs)
        await asyncio.gather(*(_drain(shared, one) for _ in range(PRODUCERS)))
    else:
        raise SystemExit(f"no such mode: {mode}")
    report(len(jobs), time.monotonic() - started)


async def _drain(jobs: Iterator[str], one: Callable[[str], Awaitable[Any]]) -> None:
    for name in jobs:
        await one(name)


def batches(jobs: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(jobs), BATCH):
        yield jobs[start : start + BATCH]


def report(jobs: int, seconds: float) -> None:
    print(json.dumps({"jobs": jobs, "seconds": seconds}))
