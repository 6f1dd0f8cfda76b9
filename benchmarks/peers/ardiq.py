"""ArdiQ: a Rust core under Python handlers; needs Python 3.12 or newer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.driver import Mode
from benchmarks.python_peer import PythonPeer

if TYPE_CHECKING:
    from benchmarks.server import Server


class Ardiq(PythonPeer):
    """Has all three ways of enqueueing."""

    name = "ardiq"
    package = "ardiq"
    app = "benchmarks.apps.ardiq_app"
    setup = "concurrency=concurrency, --workers processes, uvloop"
    job_limit = 40_000
    modes = (Mode.SEQUENTIAL, Mode.CONCURRENT, Mode.BULK)
    python = (3, 12)

    def commands(self, server: Server, concurrency: int, processes: int) -> list[list[str]]:
        command = [self.script("ardiq"), "run", f"{self.app}:app", "--quiet"]
        return [[*command, "--workers", str(processes)]]
