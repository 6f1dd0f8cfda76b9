"""packhorse: five async handlers in the gocraft protocol, every setting at its default."""

import os

import uvloop

from benchmarks.apps import probe
from benchmarks.apps.producer import produce_async
from packhorse import App

probe.guard()
app = App(os.environ["BENCH_URL"], namespace="bench")


async def noop() -> None:
    probe.hit()


for number in range(int(os.environ["BENCH_NAMES"])):
    app.job(name=f"job{number}")(noop)


async def main() -> None:
    client = app.client
    await produce_async(
        client.enqueue_async,
        lambda names: client.enqueue_many_async([client.prepare(name) for name in names]),
    )
    await client.aclose()


if __name__ == "__main__":
    uvloop.run(main())
