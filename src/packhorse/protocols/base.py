"""The seam between the engine and a way of laying jobs out in a store.

`WireProtocol` is all that the engine and the client know of a protocol. It takes batches, and it holds nothing for
people to read (that is `inspect.Inspector`). `tests/protocols/conformance.py` is what every protocol must pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from packhorse.errors import DecodeError, StoreError
from packhorse.job import Job
from packhorse.protocols.inspect import Inspector
from packhorse.service import Service


class Delivery:
    """A payload taken and not yet settled.

    `raw` are the bytes that lie in the in-progress list: the receipt that the settle gives back. `job` is None when
    they do not decode; `error` then says why.
    """

    __slots__ = ("error", "job", "queue", "raw", "taken_at")

    def __init__(self, queue: str, raw: bytes, job: Job | None, error: DecodeError | None = None) -> None:
        self.queue = queue
        self.raw = raw
        self.job = job
        self.error = error
        self.taken_at = 0.0


@dataclass(frozen=True, slots=True)
class Done:
    """The handler returned."""


@dataclass(frozen=True, slots=True)
class Again:
    """Run again at epoch second `at`. `error` is None for a snooze, which costs no attempt."""

    at: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Dead:
    """No further attempt: keep it in the dead set with this reason."""

    error: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """Failed for good, and its handler asked not to keep such jobs."""

    error: str


@dataclass(frozen=True, slots=True)
class Returned:
    """Back to the front of its queue, bytes unchanged: not started, or stopped half way by us."""


Outcome = Done | Again | Dead | Dropped | Returned
DONE = Done()
RETURNED = Returned()

Settlement = tuple[Delivery, Outcome]


@dataclass(frozen=True, slots=True)
class Want:
    """How many jobs the engine can take now.

    `total` = most in all: room to start at once, and what may wait in memory. `slow` = most of them from queues that
    are not in `quick`, whose handlers are measured to be short. `measured` = queues of which anything has run yet.
    """

    total: int
    slow: int
    quick: Collection[str] = ()
    measured: Collection[str] = ()


@dataclass(slots=True)
class Exchanged:
    """What one round trip brought: deliveries taken, and settlements that were not ours any more."""

    deliveries: list[Delivery] = field(default_factory=list)
    lost: list[Delivery] = field(default_factory=list)
    #: Settlements that the store did not take; they must be tried again.
    refused: list[Settlement] = field(default_factory=list)
    #: True when there is nothing more to take at the moment.
    dry: bool = True
    #: True when queues were found to have nothing, or no room: another fetch may find others.
    narrowed: bool = False
    #: Why nothing could be taken, although the settlements were heard.
    refusal: StoreError | None = None


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """What a protocol must know of one registered job name."""

    name: str
    priority: int = 1
    max_concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """A worker pool as others see it. `worker_ids` has one id per slot."""

    id: str
    concurrency: int
    worker_ids: tuple[str, ...]
    host: str
    pid: int
    started_at: float
    queues: tuple[QueueOptions, ...]
    periodic: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """What one slot is doing: `job` None when nothing."""

    worker_id: str
    job: Job | None
    started_at: float = 0.0
    checkin: str = ""
    checkin_at: float = 0.0


class NewJob(msgspec.Struct, frozen=True):
    """A job to be enqueued. `args` is encoded JSON (`null` for none).

    `run_at` = epoch second or None for now. `unique_key` = the JSON text that makes it unique, None for a plain
    job; `keep_latest` = a duplicate replaces the arguments of the job that waits (unique by key).
    """

    name: str
    id: str
    args: bytes
    run_at: float | None = None
    unique_key: bytes | None = None
    keep_latest: bool = False
    deadline: float | None = None


class Receipt(msgspec.Struct, frozen=True):
    """Answer to one `NewJob`: `id`, and `duplicate` when an equal unique job was waiting already."""

    id: str
    name: str
    run_at: float | None = None
    duplicate: bool = False


class WorkerView(ABC):
    """What the services of a protocol may ask the running pool."""

    @abstractmethod
    def held(self) -> Mapping[str, Sequence[bytes]]:
        """Per queue the bytes of every delivery in hand, settlements under way included."""

    @abstractmethod
    def observations(self) -> Sequence[Observation]:
        """What each slot that changed since the last call is doing."""

    @abstractmethod
    def nudge(self) -> None:
        """There may be jobs to fetch now."""


class Consumer(ABC):
    """The worker side of a protocol for one pool, with connections of its own."""

    @abstractmethod
    async def open(self) -> None:
        """Register the pool, so that it can be found when it dies, before anything is fetched."""

    @abstractmethod
    async def exchange(self, settlements: Sequence[Settlement], want: Want | None) -> Exchanged:
        """Settle these deliveries and take up to `want` jobs, in one round trip.

        Each settlement is atomic and checks that the delivery is still ours. On StoreError everything given may or
        may not have happened and is given again.
        """

    @abstractmethod
    async def rest(self) -> bool:
        """Nothing to take: have `view.nudge` called when that changes. True when there is something after all."""

    @property
    @abstractmethod
    def patience(self) -> float:
        """Longest time in seconds to wait for a nudge before looking again."""

    @abstractmethod
    def services(self) -> list[Service]:
        """What must run every few seconds beside the slots."""

    @abstractmethod
    async def close(self) -> None:
        """Hand back whatever is left and take the pool off the list of the living."""

    @abstractmethod
    async def disconnect(self) -> None:
        """End the connections; nothing can be done afterwards."""


class WireProtocol(ABC):
    """One way of laying jobs out in a store."""

    #: Short name for logs and for people.
    name: str

    @abstractmethod
    def check_name(self, name: str) -> None:
        """Errors: ConfigError when a job cannot have this name here."""

    @abstractmethod
    def check_periodic(self, spec: str) -> None:
        """Errors: ConfigError when this is no cron spec."""

    @abstractmethod
    def next_fire_times(self, spec: str, after: int, count: int) -> list[int]:
        """Epoch seconds at which a cron spec fires next, at most `count`. Errors: ConfigError."""

    @abstractmethod
    def encode_args(self, name: str, args: Mapping[str, object] | None) -> bytes:
        """Arguments as they are sent. Errors: EncodeError."""

    @abstractmethod
    def consumer(self, record: PoolRecord, view: WorkerView) -> Consumer:
        """The worker side for one pool, in the running event loop."""

    @abstractmethod
    def producer(self) -> Producer:
        """The enqueueing side, in the running event loop."""

    @abstractmethod
    def inspector(self) -> Inspector:
        """What people may ask of this store, in the running event loop."""

    @abstractmethod
    def guardian(self) -> Guardian:
        """What keeps pools alive, or hands back their jobs, from outside; in the running event loop."""


class Producer(ABC):
    """Writes new jobs."""

    @abstractmethod
    async def push(self, jobs: Sequence[NewJob]) -> list[Receipt | StoreError]:
        """Write all of them in one round trip.

        A job that the server refuses has its error in its place. Errors: StoreUnavailable (none is written),
        EnqueueUnknown (the answer was lost).
        """

    @abstractmethod
    async def close(self) -> None: ...


class Guardian(ABC):
    """Acts for pools that cannot act for themselves: the supervisor's and the pulse thread's tool."""

    @abstractmethod
    async def beat(self, pool_ids: Sequence[str]) -> None:
        """Say that these pools are alive."""

    @abstractmethod
    async def release(self, pool_id: str, crashed: Collection[str] = ()) -> int:
        """This pool is dead for certain: put its jobs back at once. Gives how many.

        `crashed` = ids of the jobs that ran when it died; one that did so too often goes to the dead set.
        """

    @abstractmethod
    async def close(self) -> None: ...
