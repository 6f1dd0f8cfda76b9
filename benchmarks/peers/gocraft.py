"""gocraft/work in Go, through the `gowork` program of interop/go, which holds workers and producer itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmarks.driver import Mode, Rate
from benchmarks.processes import ROOT, run

if TYPE_CHECKING:
    from benchmarks.server import Server

BINARY = ROOT / "interop" / "go" / "bin" / "gowork"
RUN_SECONDS = 120.0


class Gocraft:
    """The program fills the queues, then times its pool from start to last handler.

    One Go process uses all cores, and the program cannot share a queue with a second one: more processes are
    measured as one process with as many goroutines as all of them together would have.
    """

    name = "gocraft"
    setup = "gocraft/work in Go, one process on all cores, concurrency x processes goroutines"
    job_limit = 1_000_000
    modes = (Mode.SEQUENTIAL,)

    def prepare(self) -> None:
        """Nothing to do: `gowork` is built with the Go programs, not here."""

    def available(self) -> str | None:
        return None if BINARY.exists() else f"{BINARY.relative_to(ROOT)} is not built"

    def version(self) -> str:
        return "5959e69"

    def run_work(self, server: Server, jobs: int, names: int, concurrency: int, processes: int) -> Rate:
        options = ["-names", str(names), "-concurrency", str(concurrency * processes)]
        return self._bench(server, "work", jobs, options)

    def run_enqueue(self, server: Server, mode: Mode, jobs: int) -> Rate:
        return self._bench(server, "enqueue", jobs, ["-names", "5"])

    def _bench(self, server: Server, mode: str, jobs: int, options: list[str]) -> Rate:
        server.flush()
        command = [str(BINARY), "bench", "-redis", f"{server.host}:{server.port}", "-ns", "bench"]
        output = run([*command, "-mode", mode, "-count", str(jobs), *options], seconds=RUN_SECONDS)
        answer = json.loads(output.splitlines()[-1])
        return Rate(answer["jobs"], answer["seconds"])
