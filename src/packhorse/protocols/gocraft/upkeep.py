"""What a pool does for itself beside running jobs: heartbeat, observations, and the audit of its own books."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable

from packhorse.clock import Clock
from packhorse.errors import StoreRefused
from packhorse.protocols.base import PoolRecord, WorkerView
from packhorse.protocols.gocraft import scripts
from packhorse.protocols.gocraft.keys import Keys
from packhorse.service import Service
from packhorse.store import Command, Link, raise_refused

log = logging.getLogger(__name__)

#: The whole record; in between, the supervisor or the pulse thread beats for the pool.
BEAT_EVERY = 15.0
OBSERVE_EVERY = 1.0
OBSERVATION_TTL = 86_400
AUDIT_EVERY = 30.0
SUSPECT_AFTER = 6.0
#: The first look waits for the pool to be under way: a thousand names are as many commands.
FIRST_AUDIT = 1.0


class Heartbeat(Service):
    """The pool's whole record, every few seconds: it comes back by itself when the server forgot it."""

    def __init__(self, link: Link, keys: Keys, record: PoolRecord, clock: Clock) -> None:
        super().__init__()
        self.delay = BEAT_EVERY
        self._link = link
        self._keys = keys
        self._record = record
        self._clock = clock

    def commands(self) -> tuple[Command, Command]:
        record = self._record
        names = ",".join(sorted(queue.name for queue in record.queues))
        return (
            ("SADD", self._keys.worker_pools, record.id),
            (
                "HSET", self._keys.pool(record.id),
                "heartbeat_at", int(self._clock.wall()),
                "started_at", int(record.started_at),
                "job_names", names,
                "concurrency", record.concurrency,
                "worker_ids", ",".join(sorted(record.worker_ids)),
                "host", record.host,
                "pid", record.pid,
            ),
        )  # fmt: skip

    async def run_once(self) -> float:
        raise_refused(await self._link.call(*self.commands()))
        return BEAT_EVERY


class Observer(Service):
    """Writes what the slots are doing, at most once a second."""

    def __init__(self, link: Link, keys: Keys, view: WorkerView) -> None:
        super().__init__()
        self._link = link
        self._keys = keys
        self._view = view

    async def run_once(self) -> float:
        await self.write()
        return OBSERVE_EVERY

    async def write(self) -> None:
        commands: list[Command] = []
        for seen in self._view.observations():
            key = self._keys.worker(seen.worker_id)
            # DEL first: a check-in of the job before must not show as this one's (quirks 11).
            commands.append(("DEL", key))
            job = seen.job
            if job is None:
                continue
            fields: list[str | bytes | int] = [
                "job_name", job.name, "job_id", job.id, "started_at", int(seen.started_at),
                "args", b"" if job.args_json in (b"null", b"{}") else job.args_json,
            ]  # fmt: skip
            if seen.checkin:
                fields += ("checkin", seen.checkin, "checkin_at", int(seen.checkin_at))
            commands += (("HSET", key, *fields), ("EXPIRE", key, OBSERVATION_TTL))
        if commands:
            raise_refused(await self._link.call(*commands))


class Auditor(Service):
    """Compares the pool's in-progress lists with what it holds, and the locks with the lists.

    A payload that lies in our list and that nobody holds is the leaving of a fetch whose answer was lost; nothing
    else would find it while this pool lives. It is put back when two looks in a row have seen it.
    """

    def __init__(self, link: Link, keys: Keys, record: PoolRecord, view: WorkerView, clock: Clock) -> None:
        super().__init__()
        self._link = link
        self._keys = keys
        self._pool = record.id
        self._names = [queue.name for queue in record.queues]
        self._view = view
        self._clock = clock
        self.delay = FIRST_AUDIT
        self._unheld: dict[str, Counter[bytes]] = {}
        self._suspicions = 0

    def suspect(self) -> None:
        """The answer to a fetch was lost: look twice, soon."""
        self._suspicions = 1
        self.poke()

    async def run_once(self) -> float:
        await self.put_back_orphans()
        if self._suspicions:
            # Longer than any answer is waited for: what is on its way now is held, or lost, at the next look.
            self._suspicions -= 1
            return SUSPECT_AFTER
        await self.mend_locks()
        return AUDIT_EVERY * random.uniform(0.8, 1.2)

    async def put_back_orphans(self) -> int:
        """One look; gives how many payloads went back to their queues."""
        lists = await self._lists()
        held = self._view.held()
        moved = 0
        unheld: dict[str, Counter[bytes]] = {}
        for name, items in lists.items():
            extra = Counter(items) - Counter(held.get(name, ()))
            twice = extra & self._unheld.get(name, Counter())
            if twice:
                moved += await self._put_back(name, list(twice.elements()))
                extra -= twice
            unheld[name] = extra
        self._unheld = unheld
        return moved

    async def sweep(self) -> int:
        """At the end of the pool: nothing is held any more, so whatever is left goes back."""
        lists = await self._lists()
        return sum([await self._put_back(name, items) for name, items in lists.items() if items])

    async def mend_locks(self) -> None:
        if not self._names:
            return
        keys, pool = self._keys, self._pool
        fields = await self._link.call(*(("HKEYS", keys.lock_info(name)) for name in self._names))
        commands = []
        for name, found in zip(self._names, fields, strict=True):
            others = [] if isinstance(found, StoreRefused) else [f.decode("utf-8", "replace") for f in found]
            lists = [keys.inprogress(name, other) for other in others]
            own = [keys.lock(name), keys.lock_info(name), keys.inprogress(name, pool), keys.worker_pools]
            commands.append(scripts.AUDIT([*own, *lists], [pool, 0, *others]))
        replies = await self._link.call(*commands)
        raise_refused(replies)
        for name, wrong in zip(self._names, replies, strict=True):
            if isinstance(wrong, bytes):
                log.error("the lock of %r cannot be looked after: %s", name, wrong.decode("utf-8", "replace"))
            elif wrong:
                log.warning("the lock of %r was wrong and is mended", name)

    async def _lists(self) -> dict[str, list[bytes]]:
        if not self._names:
            return {}
        replies = await self._link.call(*(
            ("LRANGE", self._keys.inprogress(name, self._pool), 0, -1) for name in self._names
        ))  # fmt: skip
        return {
            name: reply for name, reply in zip(self._names, replies, strict=True)
            if not isinstance(reply, StoreRefused)
        }  # fmt: skip

    async def _put_back(self, name: str, items: list[bytes]) -> int:
        keys, pool = self._keys, self._pool
        lists = [keys.inprogress(name, pool), keys.queue(name), keys.lock(name), keys.lock_info(name)]
        moved = int(await self._link.one(*scripts.ORPHANS(lists, [pool, *items])))
        if moved:
            log.warning("%d jobs of %r that nobody held are back in their queue", moved, name)
        return moved


class SetWatch(Service):
    """Keeps invalidation messages for the sorted sets switched on for this link; `changed` is called after a gap."""

    def __init__(self, link: Link, keys: list[bytes], changed: Callable[[], None]) -> None:
        super().__init__()
        self._link = link
        self._keys = keys
        self._changed = changed
        self._generation = -1

    async def run_once(self) -> float:
        if self._link.generation != self._generation:
            prefixes = [part for key in self._keys for part in (b"PREFIX", key)]
            await self._link.call(("PING",))  # connects, so that the generation is the one we switch on
            self._generation = self._link.generation
            (reply,) = await self._link.call(("CLIENT", "TRACKING", "ON", "BCAST", "NOLOOP", *prefixes))
            if isinstance(reply, StoreRefused):
                log.warning("CLIENT TRACKING is refused (%s): scheduled jobs may start up to 10 s late", reply)
            self._changed()
        return 5.0
