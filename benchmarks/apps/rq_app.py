# mypy: disable-error-code="import-not-found,import-untyped"
"""RQ: five functions on one queue; the worker is the SimpleWorker of RQ's own benchmark."""

import os

from redis import Redis
from rq import Queue

from benchmarks.apps import probe
from benchmarks.apps.producer import produce

probe.guard()


def job0() -> None:
    probe.hit()


def job1() -> None:
    probe.hit()


def job2() -> None:
    probe.hit()


def job3() -> None:
    probe.hit()


def job4() -> None:
    probe.hit()


def path(name: str) -> str:
    return f"benchmarks.apps.rq_app.{name}"


if __name__ == "__main__":
    queue = Queue("default", connection=Redis.from_url(os.environ["BENCH_URL"]))
    queue.connection.ping()
    produce(
        lambda name: queue.enqueue(path(name)),
        lambda names: queue.enqueue_many([Queue.prepare_data(path(name)) for name in names]),
    )
