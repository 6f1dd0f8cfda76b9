"""packhorse itself, in the environment that runs the harness."""

from __future__ import annotations

import importlib.util
import platform
import sys
from typing import TYPE_CHECKING

from benchmarks.driver import Mode
from benchmarks.processes import run
from benchmarks.python_peer import PythonPeer

if TYPE_CHECKING:
    from benchmarks.server import Server


class Packhorse(PythonPeer):
    """Every setting at its default."""

    name = "packhorse"
    package = "packhorse"
    app = "benchmarks.apps.packhorse_app"
    setup = "gocraft protocol, async handlers, all defaults"
    job_limit = 1_000_000
    modes = (Mode.SEQUENTIAL, Mode.CONCURRENT, Mode.BULK)

    def prepare(self) -> None:
        """Nothing to install: the harness runs in packhorse's own environment."""

    def available(self) -> str | None:
        for module in ("packhorse.app", "packhorse.__main__"):
            try:
                found = importlib.util.find_spec(module)
            except ImportError:
                found = None
            if found is None:
                return f"{module} is not there"
        return None

    def version(self) -> str:
        ask = [self.interpreter(), "-c", "import packhorse; print(packhorse.__version__)"]
        return f"{run(ask, seconds=30).strip()}, Python {platform.python_version()}"

    def interpreter(self) -> str:
        return sys.executable

    def commands(self, server: Server, concurrency: int, processes: int) -> list[list[str]]:
        options = ["--concurrency", str(concurrency), "--processes", str(processes)]
        return [[self.interpreter(), "-m", "packhorse", "worker", f"{self.app}:app", *options]]
