# mypy: disable-error-code="import-not-found,import-untyped"
"""ArdiQ: its Rust core fetches and settles, Python runs the handlers, here on uvloop."""

import os
import sys

import uvloop
from ardiq import Ardiq

from benchmarks.apps import probe
from benchmarks.apps.producer import produce_async

uvloop.install()
probe.guard()
concurrency = int(os.environ["BENCH_CONCURRENCY"])
app = Ardiq(redis_url=os.environ["BENCH_URL"], queue_name="bench", concurrency=concurrency)


async def noop() -> None:
    probe.hit()


tasks = {
    name: app.task(name=name)(noop) for name in (f"job{number}" for number in range(int(os.environ["BENCH_NAMES"])))
}


async def main() -> None:
    await app.queue_size()
    await produce_async(
        lambda name: tasks[name].enqueue(),
        lambda names: app.enqueue_many([tasks[name].prepare() for name in names]),
    )


if __name__ == "__main__":
    uvloop.run(main())
    # ArdiQ's own command leaves like this: its threads outlive the interpreter otherwise.
    sys.stdout.flush()
    os._exit(0)
