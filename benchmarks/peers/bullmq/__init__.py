"""BullMQ on Node: the JavaScript files of this folder, with modules installed below `.bench/bullmq`.

Only `bullmq` and `ioredis` are asked for, at pinned versions; no lock file is kept.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

from benchmarks import envs, work
from benchmarks.driver import Mode, Rate
from benchmarks.processes import run

if TYPE_CHECKING:
    from benchmarks.server import Server

FOLDER = envs.PEERS / "bullmq"


class BullMq:
    """A Node process per worker process, each with `concurrency` jobs in its event loop."""

    name = "bullmq"
    setup = "concurrency=concurrency, removeOnComplete count 0, ioredis"
    job_limit = 50_000
    modes = (Mode.SEQUENTIAL, Mode.CONCURRENT, Mode.BULK)

    def prepare(self) -> None:
        envs.make_node_modules()

    def available(self) -> str | None:
        missing = [program for program in ("node", "npm") if shutil.which(program) is None]
        return f"{' and '.join(missing)} not found" if missing else None

    def version(self) -> str:
        return envs.installed_node_version("bullmq")

    def run_work(self, server: Server, jobs: int, names: int, concurrency: int, processes: int) -> Rate:
        environ = self._environ(server) | {"BENCH_CONCURRENCY": str(concurrency)}
        return work.measure(
            server,
            [["node", str(FOLDER / "worker.js")]] * processes,
            environ,
            lambda: self._produce(server, Mode.BULK, jobs, names),
            jobs,
        )

    def run_enqueue(self, server: Server, mode: Mode, jobs: int) -> Rate:
        server.flush()
        return self._produce(server, mode, jobs, 5)

    def _environ(self, server: Server) -> dict[str, str]:
        return {**os.environ, "BENCH_URL": server.url, "NODE_PATH": str(envs.node_modules())}

    def _produce(self, server: Server, mode: Mode, jobs: int, names: int) -> Rate:
        command = ["node", str(FOLDER / "producer.js"), mode.value, str(jobs), str(names)]
        answer = json.loads(run(command, self._environ(server), seconds=work.FILL_SECONDS))
        return Rate(answer["jobs"], answer["seconds"])
