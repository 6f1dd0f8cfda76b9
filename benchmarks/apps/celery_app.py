# mypy: disable-error-code="import-not-found,import-untyped"
"""Celery on the Redis broker for many short tasks: no results, no events, a large prefetch multiplier."""

import os

from celery import Celery

from benchmarks.apps import probe
from benchmarks.apps.producer import produce

app = Celery("bench", broker=os.environ["BENCH_URL"])
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=128,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
)
probe.guard()

tasks = {
    name: app.task(probe.hit, name=name)
    for name in (f"job{number}" for number in range(int(os.environ["BENCH_NAMES"])))
}

if __name__ == "__main__":
    app.connection_for_write().ensure_connection()
    produce(lambda name: tasks[name].delay())
