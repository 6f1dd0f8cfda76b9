"""What people may ask of a store: the rows that the CLI and the web show, and the changes they may make.

`Inspector` is implemented beside each protocol and used by `packhorse.admin` only; the engine never calls it.
Reading never fails because of one bad entry: what cannot be decoded comes as a row with `readable=False`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Where a job that is not running lies."""

    QUEUED = "queued"
    SCHEDULED = "scheduled"
    RETRY = "retry"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue. `latency` = seconds since its oldest job was enqueued; `running` = claimed by pools."""

    name: str
    depth: int
    latency: float
    paused: bool
    running: int
    max_concurrency: int | None


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job at rest. `at` = score (epoch seconds) or None in a queue; `raw` = the stored bytes, to name it by."""

    state: State
    queue: str
    raw: bytes
    readable: bool
    name: str = ""
    id: str = ""
    args: str = ""
    enqueued_at: int = 0
    at: float | None = None
    fails: int = 0
    error: str = ""
    failed_at: int = 0
    unique: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """`total` = entries in the whole set that were looked at for this page's filter (all of them without a filter)."""

    rows: tuple[JobRow, ...]
    total: int


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A worker pool. `age` = seconds since its last heartbeat; None when it has none."""

    id: str
    host: str
    pid: int
    concurrency: int
    job_names: tuple[str, ...]
    worker_ids: tuple[str, ...]
    started_at: int
    heartbeat_at: int
    age: float | None


@dataclass(frozen=True, slots=True)
class BusyRow:
    """A slot that runs a job."""

    worker_id: str
    pool_id: str
    job_name: str
    job_id: str
    started_at: int
    args: str
    checkin: str = ""
    checkin_at: int = 0


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs: all given conditions must hold. `error` and `text` are parts of the error and of the arguments."""

    name: str | None = None
    id: str | None = None
    error: str | None = None
    text: str | None = None

    def matches(self, row: JobRow) -> bool:
        return (
            (self.name is None or row.name == self.name)
            and (self.id is None or row.id == self.id)
            and (self.error is None or self.error in row.error)
            and (self.text is None or self.text in row.args)
        )

    @property
    def empty(self) -> bool:
        return self == EVERYTHING


EVERYTHING = Filter()


class Inspector(ABC):
    """All methods: StoreError when the store does not answer."""

    @abstractmethod
    async def ping(self) -> float:
        """Seconds that one round trip takes."""

    @abstractmethod
    async def queues(self) -> list[QueueRow]:
        """Every queue that the store knows, by name."""

    @abstractmethod
    async def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""

    @abstractmethod
    async def pools(self) -> list[PoolRow]: ...

    @abstractmethod
    async def busy(self) -> list[BusyRow]:
        """What runs at this moment, as far as pools tell."""

    @abstractmethod
    async def jobs(
        self, state: State, where: Filter = EVERYTHING, *, queue: str | None = None, offset: int = 0, limit: int = 20
    ) -> Page:
        """A page of one state; `queue` is needed for queued jobs. Scans in batches, never the whole set at once."""

    @abstractmethod
    async def find(self, id: str) -> list[JobRow]:
        """Every place where a job with this id lies."""

    @abstractmethod
    async def retry(self, rows: Sequence[JobRow]) -> int:
        """Put these into their queues now, each if it is still there byte for byte; gives how many."""

    @abstractmethod
    async def delete(self, rows: Sequence[JobRow]) -> int:
        """Remove these, each if it is still there byte for byte, and free what they hold; gives how many."""

    @abstractmethod
    async def pause(self, names: Collection[str]) -> None:
        """Pools stop taking these jobs; those that run go on."""

    @abstractmethod
    async def resume(self, names: Collection[str]) -> None: ...

    @abstractmethod
    async def purge(self, name: str) -> int:
        """Delete every waiting job of a queue; gives how many."""

    @abstractmethod
    async def close(self) -> None: ...
