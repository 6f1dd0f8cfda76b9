# mypy: disable-error-code="import-not-found,import-untyped"
"""arq: max_jobs = concurrency, a short poll delay, results neither kept nor logged."""

import asyncio
import os
from typing import Any

import uvloop
from arq import create_pool, func
from arq.connections import RedisSettings

from benchmarks.apps import probe
from benchmarks.apps.producer import produce_async

uvloop.install()
probe.guard()
settings = RedisSettings.from_dsn(os.environ["BENCH_URL"])


async def noop(context: dict[str, Any]) -> None:
    probe.hit()


class WorkerSettings:
    """Read by the `arq` command."""

    functions = [  # noqa: RUF012
        func(noop, name=f"job{number}") for number in range(int(os.environ["BENCH_NAMES"]))
    ]
    redis_settings = settings
    max_jobs = int(os.environ["BENCH_CONCURRENCY"])
    poll_delay = 0.01
    keep_result = 0
    log_results = False


async def main() -> None:
    pool = await create_pool(settings)
    await produce_async(pool.enqueue_job)


if __name__ == "__main__":
    asyncio.run(main())
