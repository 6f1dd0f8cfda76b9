"""What the harness asks of every measured system: the `Driver` protocol and the values it passes around.

`__main__` calls drivers through this protocol alone, `table` reads the rates. To measure another system,
write one file in `benchmarks/peers` and add it to the list in `benchmarks/peers/__init__.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from benchmarks.server import Server


class Mode(StrEnum):
    """How jobs are enqueued: one awaited after another, by 64 producers at once, or many per call."""

    SEQUENTIAL = "sequential"
    CONCURRENT = "concurrent"
    BULK = "bulk"


class BenchError(Exception):
    """One measurement could not be taken; the message is printed below the table."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`jobs` handled, or enqueued, within `seconds`."""

    jobs: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.jobs / self.seconds if self.seconds > 0 else 0.0


class Driver(Protocol):
    """One system to measure. Every call is bounded in time and leaves no process behind."""

    @property
    def name(self) -> str:
        """The row, and the name on the command line."""

    @property
    def setup(self) -> str:
        """One line below the table: how the system is configured."""

    @property
    def job_limit(self) -> int:
        """The most jobs of one measurement, so that slow systems take seconds and not minutes."""

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The ways of enqueueing that the system offers, the fastest last."""

    def prepare(self) -> None:
        """Install what is needed, unless it is there; raises `BenchError`."""

    def available(self) -> str | None:
        """Why this machine cannot run the system, or None when it can."""

    def version(self) -> str:
        """The installed version, and the interpreter it runs on."""

    def run_work(self, server: Server, jobs: int, names: int, concurrency: int, processes: int) -> Rate:
        """Fill the queue with no-op jobs over `names` names and measure how fast workers drain it.

        `concurrency` is per process; the time runs from the first handler start to the last handler end of
        all processes. Raises `BenchError`.
        """

    def run_enqueue(self, server: Server, mode: Mode, jobs: int) -> Rate:
        """Measure one producer process against an empty server without workers. Raises `BenchError`."""
