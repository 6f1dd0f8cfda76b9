"""Worker processes as a whole: crashes, signals, recycling, blocked interpreters, zombies; with the real command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis.asyncio

from packhorse import App
from packhorse.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Line:
    what: str
    job_id: str
    pid: int
    at: float


class Worker:
    """`packhorse worker` with its ledger."""

    def __init__(self, process: subprocess.Popen[bytes], ledger: Path, log: Path) -> None:
        self.process = process
        self._ledger = ledger
        self._log = log

    @property
    def children(self) -> list[int]:
        listing = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in listing.read_text().split()] if listing.exists() else []

    @property
    def log(self) -> str:
        return self._log.read_text()

    def lines(self, what: str = "") -> list[Line]:
        if not self._ledger.exists():
            return []
        found = []
        for line in self._ledger.read_text().splitlines():
            kind, job_id, pid, at = line.split(" ")
            if what in ("", kind):
                found.append(Line(kind, job_id, int(pid), float(at)))
        return found

    async def seen(self, what: str, count: int, timeout: float = 20) -> list[Line]:
        """The ledger's lines of a kind, once there are that many."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if len(found := self.lines(what)) >= count:
                return found
            await asyncio.sleep(0.01)
        raise AssertionError(f"{self.lines()} has not {count} x {what} after {timeout} s; log: {self.log}")

    async def ended(self, timeout: float = 30) -> int:
        return await asyncio.wait_for(asyncio.to_thread(self.process.wait), timeout)

    def kill_group(self) -> None:
        """kill -9 of supervisor and children at once, as a machine that dies."""
        group = [self.process.pid, *self.children]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in group:
                os.kill(pid, number)
        self.process.wait()


class Fleet:
    """Starts workers on one namespace and ends what is left of them."""

    def __init__(self, server: EmbeddedServer, namespace: str, folder: Path) -> None:
        self._server, self._namespace, self._folder = server, namespace, folder
        self._workers: list[Worker] = []

    def worker(self, *flags: str) -> Worker:
        number = len(self._workers)
        ledger, log = self._folder / f"ledger{number}", self._folder / f"log{number}"
        environment = os.environ | {
            "PACKHORSE_URL": self._server.url, "TEST_NAMESPACE": self._namespace, "LEDGER": str(ledger),
        }  # fmt: skip
        command = [sys.executable, "-m", "packhorse", "worker", "tests.process_app:app", "-c", "3", *flags]
        with log.open("wb") as stream:
            process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=stream, start_new_session=True)
        worker = Worker(process, ledger, log)
        self._workers.append(worker)
        return worker

    async def close(self) -> None:
        for worker in self._workers:
            for pid in worker.children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            worker.process.kill()
            await worker.ended()


@pytest.fixture
async def fleet(server: EmbeddedServer, namespace: str, tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(server, namespace, tmp_path)
    yield fleet
    await fleet.close()


@pytest.fixture
async def client(app: App) -> AsyncIterator[App]:
    yield app
    await app.client.aclose()


async def test_a_killed_child_starts_again_and_so_do_its_jobs(fleet: Fleet, client: App) -> None:
    worker = fleet.worker()
    receipt = await client.client.enqueue_async("hold", {"seconds": 1.0})
    (first,) = await worker.seen("start", 1)
    os.kill(first.pid, signal.SIGKILL)
    killed = time.monotonic()
    starts = await worker.seen("start", 2)
    assert starts[1].job_id == receipt.id
    assert starts[1].pid != first.pid
    # The promise is one second on a quiet machine; this only tells it from the reaper's ten.
    assert starts[1].at - killed < 5
    await worker.seen("end", 1)


async def test_the_jobs_of_a_dead_group_are_found_by_another(fleet: Fleet, client: App) -> None:
    doomed = fleet.worker()
    receipt = await client.client.enqueue_async("hold", {"seconds": 0.1})
    other_receipt = await client.client.enqueue_async("hold", {"seconds": 60.0})
    await doomed.seen("start", 2)
    doomed.kill_group()
    killed = time.monotonic()
    heir = fleet.worker()
    starts = await heir.seen("start", 1, timeout=30)
    assert starts[0].job_id in {receipt.id, other_receipt.id}
    assert starts[0].at - killed < 15


async def test_a_handler_that_holds_the_gil_runs_exactly_once(
    fleet: Fleet, client: App, raw: redis.asyncio.Redis, namespace: str
) -> None:
    """Longer than any pool waits for a heartbeat; another pool is there to take the job if it were given up."""
    busy = fleet.worker()
    await client.client.enqueue_async("hold_the_gil", {"seconds": 14})
    await busy.seen("start", 1)
    other = fleet.worker()
    await busy.seen("end", 1, timeout=30)
    assert len(busy.lines("start")) == 1
    assert other.lines() == []
    await _lock_is(raw, f"{namespace}:jobs:hold_the_gil:lock", 0)


async def test_a_stopped_group_that_comes_back_changes_nothing(
    fleet: Fleet, client: App, raw: redis.asyncio.Redis, namespace: str
) -> None:
    """SIGSTOP past the reaping, then SIGCONT: the job has run elsewhere, the late settle is refused and told."""
    stopped = fleet.worker()
    receipt = await client.client.enqueue_async("hold", {"seconds": 2.0})
    await stopped.seen("start", 1)
    group = [stopped.process.pid, *stopped.children]
    for pid in group:
        os.kill(pid, signal.SIGSTOP)
    other = fleet.worker()
    (again,) = await other.seen("start", 1, timeout=30)
    assert again.job_id == receipt.id
    for pid in reversed(group):
        os.kill(pid, signal.SIGCONT)
    await stopped.seen("end", 1)
    await other.seen("end", 1)
    end = time.monotonic() + 10
    while "taken away" not in stopped.log and time.monotonic() < end:
        await asyncio.sleep(0.05)
    assert "was taken away while it ran here" in stopped.log
    await _lock_is(raw, f"{namespace}:jobs:hold:lock", 0)
    assert await raw.zcard(f"{namespace}:retry") == 0


async def test_a_job_that_kills_its_process_is_set_aside(
    fleet: Fleet, client: App, raw: redis.asyncio.Redis, namespace: str
) -> None:
    worker = fleet.worker("--processes", "1")
    poison = await client.client.enqueue_async("die")
    await worker.seen("start", 3, timeout=40)
    end = time.monotonic() + 20
    while not (dead := await raw.zrange(f"{namespace}:dead", 0, -1)) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    assert poison.id.encode() in dead[0]
    assert b"poison" in dead[0]
    good = await client.client.enqueue_async("hold", {"seconds": 0.0})
    assert good.id in {line.job_id for line in await worker.seen("end", 1, timeout=40)}
    assert len([line for line in worker.lines("start") if line.job_id == poison.id]) == 3
    await _lock_is(raw, f"{namespace}:jobs:die:lock", 0)


async def test_term_lets_running_jobs_finish(fleet: Fleet, client: App) -> None:
    worker = fleet.worker()
    await client.client.enqueue_async("hold", {"seconds": 1.0})
    await worker.seen("start", 1)
    worker.process.terminate()
    assert await worker.ended() == 0
    assert len(worker.lines("end")) == 1


async def test_term_hands_back_what_does_not_finish(
    fleet: Fleet, client: App, raw: redis.asyncio.Redis, namespace: str
) -> None:
    worker = fleet.worker("--stop-timeout", "0.2")
    receipt = await client.client.enqueue_async("hold", {"seconds": 60.0})
    await worker.seen("start", 1)
    worker.process.terminate()
    assert await worker.ended() == 0
    (payload,) = await raw.lrange(f"{namespace}:jobs:hold", 0, -1)
    assert receipt.id.encode() in payload
    assert b"fails" not in payload
    assert int(await raw.get(f"{namespace}:jobs:hold:lock")) == 0
    assert await raw.smembers(f"{namespace}:worker_pools") == set()


async def test_a_second_term_does_not_wait(fleet: Fleet, client: App) -> None:
    worker = fleet.worker("--stop-timeout", "600")
    await client.client.enqueue_async("hold", {"seconds": 600.0})
    await worker.seen("start", 1)
    worker.process.terminate()
    end = time.monotonic() + 10
    while "stopping" not in worker.log and time.monotonic() < end:
        await asyncio.sleep(0.02)
    worker.process.terminate()
    await worker.ended(timeout=30)


async def test_quiet_takes_no_more_jobs(fleet: Fleet, client: App, raw: redis.asyncio.Redis, namespace: str) -> None:
    worker = fleet.worker()
    await client.client.enqueue_async("hold", {"seconds": 0.0})
    await worker.seen("end", 1)
    worker.process.send_signal(signal.SIGUSR1)
    end = time.monotonic() + 10
    while "no more jobs" not in worker.log and time.monotonic() < end:
        await asyncio.sleep(0.02)
    await client.client.enqueue_async("hold", {"seconds": 0.0})
    for _ in range(20):  # it would have been taken within a millisecond
        await asyncio.sleep(0.02)
    assert await raw.llen(f"{namespace}:jobs:hold") == 1
    assert worker.process.poll() is None


async def test_a_process_that_has_grown_is_replaced(fleet: Fleet, client: App) -> None:
    worker = fleet.worker("--max-memory", "150")
    await client.client.enqueue_async("grow", {"megabytes": 200})
    (first,) = await worker.seen("end", 1)
    end = time.monotonic() + 30
    while first.pid in worker.children and time.monotonic() < end:
        await asyncio.sleep(0.05)
    await client.client.enqueue_async("hold", {"seconds": 0.0})
    ends = await worker.seen("end", 2)
    assert ends[1].pid != first.pid


async def test_a_process_ends_after_its_number_of_jobs(fleet: Fleet, client: App) -> None:
    worker = fleet.worker("--max-jobs", "2")
    for _ in range(3):
        await client.client.enqueue_async("hold", {"seconds": 0.0})
    first = (await worker.seen("end", 3))[0].pid
    end = time.monotonic() + 20
    while first in worker.children and time.monotonic() < end:
        await asyncio.sleep(0.02)
    await client.client.enqueue_async("hold", {"seconds": 0.0})
    assert (await worker.seen("end", 4))[3].pid != first


async def test_children_end_when_their_supervisor_is_killed(fleet: Fleet, client: App) -> None:
    worker = fleet.worker()
    await client.client.enqueue_async("hold", {"seconds": 0.5})
    (line,) = await worker.seen("start", 1)
    worker.process.kill()
    await worker.seen("end", 1)
    end = time.monotonic() + 20
    while Path(f"/proc/{line.pid}").exists() and time.monotonic() < end:
        await asyncio.sleep(0.05)
    assert not Path(f"/proc/{line.pid}").exists()


async def test_drain_ends_when_nothing_is_left(fleet: Fleet, client: App) -> None:
    for _ in range(10):
        await client.client.enqueue_async("hold", {"seconds": 0.0})
    worker = fleet.worker("--drain", "--processes", "2")
    assert await worker.ended() == 0
    assert len(worker.lines("end")) == 10


async def _lock_is(raw: redis.asyncio.Redis, key: str, value: int) -> None:
    end = time.monotonic() + 10
    while int(await raw.get(key) or 0) != value and time.monotonic() < end:
        await asyncio.sleep(0.05)
    assert int(await raw.get(key) or 0) == value
