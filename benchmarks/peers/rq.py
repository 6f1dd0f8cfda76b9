"""RQ: SimpleWorker processes, the worker of RQ's own notes on performance (the default one forks per job)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.driver import Mode
from benchmarks.python_peer import PythonPeer

if TYPE_CHECKING:
    from benchmarks.server import Server


class Rq(PythonPeer):
    """A worker process runs one job at a time, whatever the concurrency asked for."""

    name = "rq"
    package = "rq"
    app = "benchmarks.apps.rq_app"
    setup = "SimpleWorker: one job at a time per process, concurrency has no meaning; hiredis"
    job_limit = 1_000
    modes = (Mode.SEQUENTIAL, Mode.BULK)

    def commands(self, server: Server, concurrency: int, processes: int) -> list[list[str]]:
        options = ["--worker-class", "rq.SimpleWorker", "--url", server.url, "--path", "."]
        quiet = ["--logging_level", "WARNING", "--disable-job-desc-logging"]
        return [[self.script("rq"), "worker", *options, *quiet, "default"] for _ in range(processes)]
