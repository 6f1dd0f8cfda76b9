"""Dramatiq: processes times threads on the Redis broker, as its command line offers them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.driver import Mode
from benchmarks.python_peer import PythonPeer

if TYPE_CHECKING:
    from benchmarks.server import Server


class Dramatiq(PythonPeer):
    """Threads stand for concurrency; Dramatiq has no bulk enqueue and no asyncio client."""

    name = "dramatiq"
    package = "dramatiq"
    app = "benchmarks.apps.dramatiq_app"
    setup = "Redis broker, default middleware, -p processes -t concurrency, hiredis"
    job_limit = 10_000
    modes = (Mode.SEQUENTIAL,)

    def commands(self, server: Server, concurrency: int, processes: int) -> list[list[str]]:
        options = ["--processes", str(processes), "--threads", str(concurrency), "--path", "."]
        return [[self.script("dramatiq"), self.app, *options]]
