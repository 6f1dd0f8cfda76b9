"""SAQ: one worker per process, every slot waiting in BLMOVE on its own connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.driver import Mode
from benchmarks.python_peer import PythonPeer

if TYPE_CHECKING:
    from benchmarks.server import Server


class Saq(PythonPeer):
    """SAQ has no bulk enqueue that is fewer round trips."""

    name = "saq"
    package = "saq"
    app = "benchmarks.apps.saq_app"
    setup = "concurrency slots in BLMOVE, max_concurrent_ops=concurrency, ttl=-1 (no results), uvloop, hiredis"
    job_limit = 10_000
    modes = (Mode.SEQUENTIAL, Mode.CONCURRENT)

    def commands(self, server: Server, concurrency: int, processes: int) -> list[list[str]]:
        return [[self.script("saq"), f"{self.app}.settings", "--quiet"] for _ in range(processes)]
