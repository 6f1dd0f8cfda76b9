# mypy: disable-error-code="import-not-found,import-untyped"
"""SAQ: concurrency slots that each wait in BLMOVE, results not kept, uvloop."""

import asyncio
import os
from typing import Any

import uvloop
from saq import Queue

from benchmarks.apps import probe
from benchmarks.apps.producer import produce_async

uvloop.install()
probe.guard()
concurrency = int(os.environ["BENCH_CONCURRENCY"])


async def noop(context: dict[str, Any]) -> None:
    probe.hit()


queue = Queue.from_url(os.environ["BENCH_URL"], max_concurrent_ops=max(20, concurrency))
settings = {
    "queue": queue,
    "functions": [(f"job{number}", noop) for number in range(int(os.environ["BENCH_NAMES"]))],
    "concurrency": concurrency,
}


async def main() -> None:
    await queue.connect()
    await queue.redis.ping()
    await produce_async(lambda name: queue.enqueue(name, ttl=-1))
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
