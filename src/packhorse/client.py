"""Client: enqueues jobs, for sync and async callers alike.

There is one implementation, async. Sync callers reach it through a thread of the client's own that runs an event loop;
concurrent callers of either kind share round trips (group commit).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from packhorse.clock import SYSTEM_CLOCK, Clock
from packhorse.errors import ConfigError, EnqueueUnknown, PackhorseError, StoreError, StoreUnavailable
from packhorse.protocols.base import NewJob, Producer, Receipt, WireProtocol

T = TypeVar("T")
BULK_CHUNK = 5000


class PartlyEnqueued(StoreError):
    """Some jobs of an `enqueue_many` were refused; `answers` has a Receipt or the error for each, in order."""

    def __init__(self, answers: Sequence[Receipt | StoreError]) -> None:
        errors = [answer for answer in answers if isinstance(answer, StoreError)]
        super().__init__(f"{len(errors)} of {len(answers)} jobs were refused, the first with: {errors[0]}")
        self.answers = tuple(answers)


class Client:
    """Enqueues jobs by name. Handlers of an App have typed methods for it (`send_email.enqueue(...)`).

    Thread-safe. One connection per event loop that uses it, and one for all sync callers.
    """

    def __init__(self, protocol: WireProtocol, clock: Clock = SYSTEM_CLOCK) -> None:
        self._protocol = protocol
        self._clock = clock
        self._outboxes: dict[asyncio.AbstractEventLoop, _Outbox] = {}
        self._recent: tuple[weakref.ref[asyncio.AbstractEventLoop], _Outbox] | None = None
        self._portal: _Portal | None = None
        self._lock = threading.Lock()
        self._good_names: set[str] = set()

    def prepare(
        self,
        name: str,
        args: Mapping[str, object] | None = None,
        *,
        delay: float | None = None,
        at: float | None = None,
        unique: bool = False,
        key: Mapping[str, object] | None = None,
        id: str | None = None,
        expires_in: float | None = None,
    ) -> NewJob:
        """A job for `enqueue_many`; nothing is sent.

        `delay` in seconds or `at` in epoch seconds: run then (a time in the past runs at once). `unique`: not while an
        equal one waits; `key`: what makes it equal, in place of all arguments, and a duplicate then replaces the
        arguments. `id`: an id of your own. `expires_in`: must have started so many seconds after it is due.
        Errors: ConfigError, EncodeError.
        """
        if name not in self._good_names:
            self._protocol.check_name(name)
            self._good_names.add(name)
        return self.build(
            name, self._protocol.encode_args(name, args),
            delay=delay, at=at, unique=unique, key=key, id=id, expires_in=expires_in,
        )  # fmt: skip

    def build(
        self, name: str, args: bytes, *, delay: float | None = None, at: float | None = None, unique: bool = False,
        key: Mapping[str, object] | None = None, id: str | None = None, expires_in: float | None = None,
    ) -> NewJob:  # fmt: skip
        """As `prepare`, for a name that was checked and arguments that are encoded."""
        if id is None:
            id = new_id()
        elif not id or not id.isprintable():
            raise ConfigError(f"id: must be a printable text, not {id!r}")
        if delay is None and at is None and not unique and key is None and expires_in is None:
            return NewJob(name, id, args)
        if delay is not None and at is not None:
            raise ConfigError("delay and at: give one of them, not both")
        for option, seconds in (("delay", delay), ("at", at), ("expires_in", expires_in)):
            if seconds is not None and not math.isfinite(seconds):
                raise ConfigError(f"{option}: must be a finite number of seconds, not {seconds!r}")
        now = self._clock.wall()
        run_at = now + delay if delay is not None else at
        unique_key = None
        if unique or key is not None:
            text = args if key is None else self._protocol.encode_args(name, key)
            # gocraft: the key text ends with the newline of Go's stream encoder; no arguments at all add nothing.
            unique_key = b"" if text == b"null" else text + b"\n"
        deadline = None
        if expires_in is not None:
            if expires_in <= 0:
                raise ConfigError(f"expires_in: must be more than 0 seconds, not {expires_in!r}")
            deadline = max(run_at or now, now) + expires_in
        return NewJob(name, id, args, run_at, unique_key, key is not None, deadline)

    def enqueue(self, name: str, args: Mapping[str, object] | None = None, **options: Any) -> Receipt:
        """Enqueue by name and wait until it is stored. Options as in `prepare`.

        Errors: StoreUnavailable (it is not stored), EnqueueUnknown (it may be), StoreRefused, EncodeError.
        """
        return self.send(self.prepare(name, args, **options))

    async def enqueue_async(self, name: str, args: Mapping[str, object] | None = None, **options: Any) -> Receipt:
        """`enqueue` for async callers."""
        return await self.send_async(self.prepare(name, args, **options))

    def enqueue_many(self, jobs: Iterable[NewJob]) -> list[Receipt]:
        """Enqueue prepared jobs, thousands per round trip. Errors: as `enqueue`, and PartlyEnqueued."""
        return self._sync(self.enqueue_many_async(jobs))

    async def enqueue_many_async(self, jobs: Iterable[NewJob]) -> list[Receipt]:
        """`enqueue_many` for async callers."""
        producer = self._outbox().producer
        answers: list[Receipt | StoreError] = []
        waiting = iter(jobs)
        while batch := list(itertools.islice(waiting, BULK_CHUNK)):
            try:
                answers += await producer.push(batch)
            except StoreError as exc:
                if not answers:
                    raise
                # Some are stored, so no single error would tell the truth about all.
                answers += [_for_one(exc, job) for job in batch]
                answers += [StoreUnavailable(f"not sent, because the jobs before it failed: {exc}") for _ in waiting]
        receipts = [answer for answer in answers if isinstance(answer, Receipt)]
        if len(receipts) < len(answers):
            raise PartlyEnqueued(answers)
        return receipts

    def send(self, job: NewJob) -> Receipt:
        """Enqueue one prepared job."""
        return self._sync(self.send_async(job))

    async def send_async(self, job: NewJob) -> Receipt:
        """`send` for async callers; callers at the same time share a round trip."""
        return await self._outbox().push(job)

    def close(self) -> None:
        """End the sync callers' thread and connection. The client may be used again."""
        with self._lock:
            portal, self._portal = self._portal, None
            if portal is not None and portal.usable:
                # Whoever has it already is answered first; new callers get another one.
                portal.unused.wait_for(lambda: not portal.callers)
        if portal is not None:
            portal.close(self.aclose)

    async def aclose(self) -> None:
        """Close this event loop's connection."""
        outbox = self._outboxes.pop(asyncio.get_running_loop(), None)
        self._recent = None
        if outbox is not None:
            await outbox.close()

    def _outbox(self) -> _Outbox:
        loop = asyncio.get_running_loop()
        recent = self._recent
        if recent is not None and recent[0]() is loop:
            return recent[1]
        outbox = self._outboxes.get(loop)
        if outbox is None:
            outbox = _Outbox(self._protocol.producer())
            with self._lock:
                for ended in [other for other in self._outboxes if other.is_closed()]:
                    del self._outboxes[ended]
                self._outboxes[loop] = outbox
        self._recent = (weakref.ref(loop), outbox)
        return outbox

    def _sync(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            work.close()
            raise BlockingCall()
        with self._lock:
            if self._portal is None or not self._portal.usable:
                self._portal = _Portal(self._lock)
            portal = self._portal
            portal.callers += 1
        try:
            return asyncio.run_coroutine_threadsafe(work, portal.loop).result()
        finally:
            with self._lock:
                portal.callers -= 1
                if not portal.callers:
                    portal.unused.notify_all()


class BlockingCall(PackhorseError, RuntimeError):
    """A sync enqueue was called where it would stop a running event loop."""

    def __init__(self) -> None:
        super().__init__(
            "this would block the running event loop: use the _async method here (await job.enqueue_async(...))"
        )


E = TypeVar("E", bound=Exception)


def _for_one(error: E, job: NewJob) -> E | EnqueueUnknown:
    """The error of a whole batch as one of its callers must see it."""
    return EnqueueUnknown([job.id], error.__cause__ or error) if isinstance(error, EnqueueUnknown) else error


_spare_ids: list[str] = []
# A child must not hand out the ids that its parent has drawn.
os.register_at_fork(after_in_child=_spare_ids.clear)


def new_id() -> str:
    """24 lowercase hex digits from the system's random source, drawn a few hundred at a time (benchmark: bulk)."""
    try:
        return _spare_ids.pop()
    except IndexError:
        digits = os.urandom(12 * 256).hex()
        _spare_ids.extend(digits[i : i + 24] for i in range(24, len(digits), 24))
        return digits[:24]


class _Outbox:
    """Group commit: while one push is under way, the jobs of other callers gather for the next."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self._waiting: list[tuple[NewJob, asyncio.Future[Receipt]]] = []
        self._pushing = False
        self._task: asyncio.Task[None] | None = None
        self._life = self._until_the_loop_ends()
        with contextlib.suppress(StopIteration):
            self._life.__anext__().send(None)

    async def push(self, job: NewJob) -> Receipt:
        if self._pushing:
            future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            self._waiting.append((job, future))
            return await future
        # Alone: no task and no hop, so that awaiting one enqueue after the other costs one round trip each.
        self._pushing = True
        try:
            (answer,) = await self.producer.push((job,))
        finally:
            if self._waiting:
                self._task = asyncio.create_task(self._flush(), name="packhorse-outbox")
            else:
                self._pushing = False
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def close(self) -> None:
        await self._life.aclose()

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        """A loop that ends (`asyncio.run`) closes its generators: so the connection never outlives its loop."""
        try:
            yield
        finally:
            if self._task is not None:
                await asyncio.gather(self._task, return_exceptions=True)
            await self.producer.close()

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                answers: Sequence[Receipt | Exception]
                try:
                    answers = await self.producer.push([job for job, _ in batch])
                except Exception as exc:  # noqa: BLE001 - whatever it is, nobody may wait for ever
                    answers = [_for_one(exc, job) for job, _ in batch]
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done():
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
                # The callers go on first: what they enqueue next joins the next batch.
                await asyncio.sleep(0)
        finally:
            self._pushing = False
            for _, future in self._waiting:
                future.cancel()


class _Portal:
    """A thread that runs an event loop for sync callers."""

    def __init__(self, lock: threading.Lock) -> None:
        self._pid = os.getpid()
        #: How many threads wait for an answer; guarded by `lock`.
        self.callers = 0
        self.unused = threading.Condition(lock)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="packhorse-client", daemon=True)
        self._thread.start()

    @property
    def usable(self) -> bool:
        """False after a fork: the child has the object but not the thread."""
        return self._pid == os.getpid() and self._thread.is_alive()

    def close(self, last: Any) -> None:
        if self.usable:
            asyncio.run_coroutine_threadsafe(last(), self.loop).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()
