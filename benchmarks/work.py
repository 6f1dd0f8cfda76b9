"""Takes one measurement of workers: the same steps and the same clock for every system.

The workers start against an empty queue and are stopped in their tracks (SIGSTOP) once all are connected;
then the queue is filled and all go on at the same moment. So neither start-up nor a late second process is in
the time, which runs from the first handler start to the last handler end as the workers' own probes saw them.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.driver import BenchError, Rate
from benchmarks.processes import Crew

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.server import Server

READY_SECONDS = 30.0
WORK_SECONDS = 120.0
STALL_SECONDS = 15.0
FILL_SECONDS = 180.0
# Connections that have not changed for this long: all workers are up.
QUIET_SECONDS = 1.0
# Longer than any poll or back-off of the peers at rest: all of them look again at once when they go on.
REST_SECONDS = 1.2
# The workers end themselves after this, also when the harness was killed.
LIMIT_SECONDS = READY_SECONDS + FILL_SECONDS + WORK_SECONDS


def measure(
    server: Server,
    commands: Sequence[Sequence[str]],
    env: Mapping[str, str],
    fill: Callable[[], object],
    jobs: int,
) -> Rate:
    """Start `commands`, let `fill` put `jobs` jobs into the queue, and time how the workers drain it."""
    server.flush()
    with tempfile.TemporaryDirectory(prefix="packhorse-probe-") as name:
        folder = Path(name)
        env = {**env, "BENCH_STATS": name, "BENCH_LIMIT": f"{LIMIT_SECONDS:.0f}"}
        with Crew(folder / "workers.log") as crew:
            for command in commands:
                crew.start(command, env)
            _wait_until_connected(server, crew, len(commands))
            crew.pause()
            paused = time.monotonic()
            fill()
            time.sleep(max(0.0, paused + REST_SECONDS - time.monotonic()))
            crew.resume()
            return _wait_until_drained(folder, crew, jobs)


def _wait_until_connected(server: Server, crew: Crew, processes: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    seen, since = 0, time.monotonic()
    while time.monotonic() < deadline:
        crew.check()
        now = server.connections()
        if now != seen:
            seen, since = now, time.monotonic()
        elif seen >= processes and time.monotonic() - since > QUIET_SECONDS:
            return
        time.sleep(0.05)
    raise BenchError(f"workers were not ready within {READY_SECONDS:.0f} s ({seen} connections)")


def _wait_until_drained(folder: Path, crew: Crew, jobs: int) -> Rate:
    deadline = time.monotonic() + WORK_SECONDS
    done, since = 0, time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < STALL_SECONDS:
        time.sleep(0.05)
        probes = [json.loads(path.read_text()) for path in folder.glob("*.json")]
        count = sum(probe["jobs"] for probe in probes)
        if count > jobs:
            raise BenchError(f"{count} handler runs for {jobs} jobs")
        if count == jobs:
            seconds = max(probe["last"] for probe in probes) - min(probe["first"] for probe in probes)
            return Rate(jobs, seconds)
        if count != done:
            done, since = count, time.monotonic()
        crew.check()
    raise BenchError(f"stopped at {done} of {jobs} jobs")
