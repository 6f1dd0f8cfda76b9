# mypy: disable-error-code="import-not-found,import-untyped"
"""taskiq with taskiq-redis: the stream broker with acknowledgements, no result backend (the default).

uvloop is picked up by taskiq's worker by itself when it is installed.
"""

import os

import uvloop
from taskiq_redis import RedisStreamBroker

from benchmarks.apps import probe
from benchmarks.apps.producer import produce_async

probe.guard()
broker = RedisStreamBroker(os.environ["BENCH_URL"])


async def noop() -> None:
    probe.hit()


tasks = {
    name: broker.register_task(noop, task_name=name)
    for name in (f"job{number}" for number in range(int(os.environ["BENCH_NAMES"])))
}


async def main() -> None:
    await broker.startup()
    await produce_async(lambda name: tasks[name].kiq())
    await broker.shutdown()


if __name__ == "__main__":
    uvloop.run(main())
