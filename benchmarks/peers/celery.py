"""Celery: worker nodes with a pool of threads, tuned for short tasks as its optimizing guide says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.driver import Mode
from benchmarks.python_peer import PythonPeer

if TYPE_CHECKING:
    from benchmarks.server import Server


class Celery(PythonPeer):
    """A node per process; Celery has no bulk enqueue and no asyncio client.

    The pool makes little difference, because the consumer in the main process is the limit. Measured here at
    concurrency 20: threads 1.09 k/s, prefork 1.00 k/s (with twenty processes), gevent 0.89 k/s.
    """

    name = "celery"
    package = "celery"
    app = "benchmarks.apps.celery_app"
    setup = "--pool threads --concurrency concurrency, prefetch multiplier 128, no results, no events, hiredis"
    job_limit = 4_000
    modes = (Mode.SEQUENTIAL,)

    def commands(self, server: Server, concurrency: int, processes: int) -> list[list[str]]:
        quiet = ["--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        options = ["worker", "--pool", "threads", "--concurrency", str(concurrency), *quiet]
        return [
            [self.script("celery"), "--app", self.app, *options, "--hostname", f"bench{number}"]
            for number in range(processes)
        ]
