"""arq: one worker per process with max_jobs = concurrency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.driver import Mode
from benchmarks.python_peer import PythonPeer

if TYPE_CHECKING:
    from benchmarks.server import Server


class Arq(PythonPeer):
    """arq has no bulk enqueue."""

    name = "arq"
    package = "arq"
    app = "benchmarks.apps.arq_app"
    setup = "max_jobs=concurrency, poll_delay=0.01 (0.5 by default), keep_result=0, uvloop, hiredis"
    job_limit = 5_000
    modes = (Mode.SEQUENTIAL, Mode.CONCURRENT)

    def commands(self, server: Server, concurrency: int, processes: int) -> list[list[str]]:
        return [[self.script("arq"), f"{self.app}.WorkerSettings"] for _ in range(processes)]
