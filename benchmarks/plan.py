"""What is measured: the columns of the table, each with the way to take it once for one system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.driver import Mode

if TYPE_CHECKING:
    from benchmarks.driver import Driver, Rate
    from benchmarks.server import Server

NAMES = 5
# One round trip per job: fewer jobs give the same rate.
ENQUEUE_LIMITS = {Mode.SEQUENTIAL: 10_000, Mode.CONCURRENT: 20_000, Mode.BULK: 100_000}
ENQUEUE_TITLES = {Mode.SEQUENTIAL: "enqueue 1", Mode.CONCURRENT: "enqueue 64", Mode.BULK: "enqueue bulk"}


@dataclass(frozen=True, slots=True)
class Work:
    """Workers draining a full queue; `concurrency` is per process."""

    concurrency: int
    processes: int

    @property
    def title(self) -> str:
        return f"work {self.processes}x{self.concurrency}"

    def fits(self, driver: Driver) -> bool:
        return True

    def take(self, driver: Driver, server: Server, jobs: int) -> Rate:
        return driver.run_work(server, min(jobs, driver.job_limit), NAMES, self.concurrency, self.processes)


@dataclass(frozen=True, slots=True)
class Enqueue:
    """One producer process writing into an empty server."""

    mode: Mode

    @property
    def title(self) -> str:
        return ENQUEUE_TITLES[self.mode]

    def fits(self, driver: Driver) -> bool:
        return self.mode in driver.modes

    def take(self, driver: Driver, server: Server, jobs: int) -> Rate:
        return driver.run_enqueue(server, self.mode, min(jobs, driver.job_limit, ENQUEUE_LIMITS[self.mode]))


Column = Work | Enqueue
