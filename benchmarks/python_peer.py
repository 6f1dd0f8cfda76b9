"""What the drivers of Python systems share: an own virtual environment, an app file, and producers.

A concrete driver names its app file in `benchmarks/apps` and says with which commands its workers start.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from benchmarks import envs, work
from benchmarks.driver import Mode, Rate
from benchmarks.processes import ROOT, run

if TYPE_CHECKING:
    from benchmarks.server import Server


class PythonPeer:
    """Base of the Python drivers.

    `name` is also the environment below `.bench/venvs`, `package` the distribution whose version is shown,
    `app` the module of the app file, `python` the oldest interpreter that the system takes.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    app: ClassVar[str]
    setup: ClassVar[str]
    job_limit: ClassVar[int]
    modes: ClassVar[tuple[Mode, ...]]
    python: ClassVar[tuple[int, int]] = (3, 11)

    def commands(self, server: Server, concurrency: int, processes: int) -> list[list[str]]:
        """The worker command lines; each runs in its own session with the environment of `environ`."""
        raise NotImplementedError

    def prepare(self) -> None:
        python = envs.find_python(self.python)
        if python is not None:
            envs.make_venv(self.name, python)

    def available(self) -> str | None:
        if envs.find_python(self.python) is None:
            return f"needs Python {self.python[0]}.{self.python[1]} or newer, none was found"
        return None

    def version(self) -> str:
        return envs.installed_version(self.name, self.package)

    def run_work(self, server: Server, jobs: int, names: int, concurrency: int, processes: int) -> Rate:
        return work.measure(
            server,
            self.commands(server, concurrency, processes),
            self.environ(server, names, concurrency),
            lambda: self._produce(server, self.modes[-1], jobs, names),
            jobs,
        )

    def run_enqueue(self, server: Server, mode: Mode, jobs: int) -> Rate:
        server.flush()
        return self._produce(server, mode, jobs, 5)

    def interpreter(self) -> str:
        return str(envs.venv_python(self.name))

    def script(self, name: str) -> str:
        """A command line program of the environment."""
        return str(Path(self.interpreter()).parent / name)

    def environ(self, server: Server, names: int, concurrency: int) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "BENCH_URL": server.url,
            "BENCH_NAMES": str(names),
            "BENCH_CONCURRENCY": str(concurrency),
        }

    def _produce(self, server: Server, mode: Mode, jobs: int, names: int) -> Rate:
        command = [self.interpreter(), "-m", self.app, mode.value, str(jobs), str(names)]
        answer = json.loads(run(command, self.environ(server, names, 1), seconds=work.FILL_SECONDS))
        return Rate(answer["jobs"], answer["seconds"])
