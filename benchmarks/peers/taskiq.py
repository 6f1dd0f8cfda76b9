"""taskiq with taskiq-redis on its stream broker, both the documented first choice and the faster one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.driver import Mode
from benchmarks.python_peer import PythonPeer

if TYPE_CHECKING:
    from benchmarks.server import Server


class Taskiq(PythonPeer):
    """taskiq has no bulk enqueue.

    Measured here and left out: ListQueueBroker (2.8 k/s against 3.5 k/s, and no acks), ORJSONSerializer,
    `--no-parse` and `--max-prefetch 100` (no difference).
    """

    name = "taskiq"
    package = "taskiq"
    app = "benchmarks.apps.taskiq_app"
    setup = "RedisStreamBroker, --workers processes, --max-async-tasks concurrency, no results, uvloop, hiredis"
    job_limit = 10_000
    modes = (Mode.SEQUENTIAL, Mode.CONCURRENT)

    def commands(self, server: Server, concurrency: int, processes: int) -> list[list[str]]:
        options = ["--workers", str(processes), "--max-async-tasks", str(concurrency)]
        return [[self.script("taskiq"), "worker", f"{self.app}:broker", *options, "--log-level", "WARNING"]]
