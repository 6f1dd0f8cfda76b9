"""Go's gocraft/work and packhorse on one namespace: each runs what the other enqueues, kill -9 loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import redis
import redis.asyncio
from tests.gowork import GoClient, GoEnqueuer, GoWorker

from packhorse import App, Receipt
from packhorse.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parents[2]
JOBS = int(os.environ.get("PACKHORSE_FLEET_JOBS", "100000"))


@pytest.fixture
def address(server: EmbeddedServer) -> str:
    return f"127.0.0.1:{server.port}"


def lines(ledger: Path) -> list[tuple[str, str, str, int]]:
    """(start or end, name, id, monotonic ns) of every whole line."""
    found = []
    for line in ledger.read_text().splitlines():
        what, name, job_id, _, _, stamp = line.split(" ")
        found.append((what, unquote(name), unquote(job_id), int(stamp)))
    return found


def most_at_once(ledger: Path, name: str) -> int:
    """How many jobs of a name ran at the same moment, as the handlers saw it; killed ones end with the next start."""
    running = most = 0
    open_ids: set[str] = set()
    for what, job, job_id, _ in sorted(lines(ledger), key=lambda line: line[3]):
        if job != name:
            continue
        if what == "start":
            if job_id not in open_ids:
                running += 1
                open_ids.add(job_id)
        elif job_id in open_ids:
            open_ids.discard(job_id)
            running -= 1
        most = max(most, running)
    return most


@contextlib.contextmanager
def packhorse_worker(
    server: EmbeddedServer, namespace: str, ledger: Path, **options: int
) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {
        "PACKHORSE_URL": server.url, "FLEET_NAMESPACE": namespace, "LEDGER": str(ledger),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "packhorse", "worker", "tests.interop.fleet_app:app", *flags]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


async def settled(raw: redis.asyncio.Redis, namespace: str, names: list[str], timeout: float = 90) -> None:
    """Wait until nothing is queued and nothing is in progress."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        queued = [await raw.llen(f"{namespace}:jobs:{name}") for name in names]
        held = [key async for key in raw.scan_iter(f"{namespace}:jobs:*:inprogress", count=1000)]
        if not any(queued) and not held:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"not settled after {timeout} s: queued {queued}, in progress {held}")


async def test_what_go_enqueues_runs_here(app: App, raw: redis.asyncio.Redis, namespace: str, address: str) -> None:
    ran: dict[str, dict[str, object]] = {}

    @app.job
    async def mail(to: str, count: int) -> None:
        ran[to] = {"count": count}

    with GoEnqueuer(address, namespace) as go:
        for op, to in (("enqueue", "a"), ("enqueue_unique", "b"), ("enqueue_in", "c")):
            extra = {"secs": 0} if op == "enqueue_in" else {}
            assert go.call(op=op, name="mail", args={"to": to, "count": 9007199254740993}, **extra)["error"] == ""
        key = {"to": "d"}
        for count in (1, 2):
            go.call(op="enqueue_unique_by_key", name="mail", args={"to": "d", "count": count}, key=key)
    async with app.worker():
        end = time.monotonic() + 10
        while len(ran) < 4 and time.monotonic() < end:
            await asyncio.sleep(0.01)
    assert ran == {
        "a": {"count": 9007199254740993}, "b": {"count": 9007199254740993},
        "c": {"count": 9007199254740993}, "d": {"count": 2},
    }  # fmt: skip
    assert await raw.get(f"{namespace}:jobs:mail:lock") == b"0"


async def test_what_we_enqueue_go_runs(
    app: App, raw: redis.asyncio.Redis, namespace: str, address: str, tmp_path: Path
) -> None:
    client = app.client
    receipts = [
        await client.enqueue_async("plain", {"n": 1}),
        await client.enqueue_async("plain", {"n": 2}, delay=0),
        await client.enqueue_async("plain", {"n": 3}, unique=True),
        await client.enqueue_async("plain", {"n": 4}, key={"k": 1}),
        await client.enqueue_async("plain", None, expires_in=60),
    ]
    ledger = tmp_path / "ledger"
    with GoWorker(address, namespace, "plain", concurrency=2, ledger=ledger):
        end = time.monotonic() + 15
        while (not ledger.exists() or len(lines(ledger)) < 10) and time.monotonic() < end:
            await asyncio.sleep(0.05)
    assert {job_id for what, _, job_id, _ in lines(ledger) if what == "end"} == {r.id for r in receipts}
    assert await raw.get(f"{namespace}:jobs:plain:lock") == b"0"
    await client.aclose()


async def test_both_drain_one_queue_while_both_are_killed(
    server: EmbeddedServer, raw: redis.asyncio.Redis, app: App, namespace: str, address: str, tmp_path: Path
) -> None:
    """Jobs of two names, one with a limit of 3 over both languages; kill -9 hits either side again and again."""
    rng = random.Random(7)
    ledger = tmp_path / "ledger"
    receipts: list[Receipt] = []

    async def produce() -> None:
        """In portions while the kills go on, so that they hit pools with work in hand."""
        prepare, portion = app.client.prepare, JOBS // 80
        for first in range(0, JOBS, portion):
            numbers = range(first, min(first + portion, JOBS))
            names = ("capped" if n % 50 == 0 else "plain" for n in numbers)
            receipts.extend(await app.client.enqueue_many_async(prepare(name, {"n": 1}) for name in names))
            await asyncio.sleep(0.05)

    await raw.set(f"{namespace}:jobs:capped:max_concurrency", 3)
    kills: Counter[str] = Counter()
    with packhorse_worker(server, namespace, ledger, concurrency=10, processes=2) as ours:
        go = GoWorker(address, namespace, "plain,capped:::3", concurrency=10, ledger=ledger)
        go.__enter__()
        producing = asyncio.create_task(produce())
        try:
            while not producing.done():
                await asyncio.sleep(rng.uniform(0.3, 0.8))
                if rng.random() < 0.5:
                    go.kill()
                    go._end()
                    kills["go"] += 1
                    go = GoWorker(address, namespace, "plain,capped:::3", concurrency=10, ledger=ledger)
                    go.__enter__()
                elif pids := children(ours.pid):
                    os.kill(rng.choice(pids), signal.SIGKILL)
                    kills["packhorse"] += 1
            await producing
            await settled(raw, namespace, ["plain", "capped"])
        finally:
            producing.cancel()
            go.__exit__(None, None, None)
    ended = Counter(job_id for what, _, job_id, _ in lines(ledger) if what == "end")
    missing = {receipt.id for receipt in receipts} - ended.keys()
    dead = await raw.zcard(f"{namespace}:dead")
    assert kills["go"]
    assert kills["packhorse"]
    assert len(receipts) == JOBS
    assert not missing, f"{len(missing)} of {JOBS} jobs never ran; dead: {dead}"
    assert most_at_once(ledger, "capped") <= 3
    for name in ("plain", "capped"):
        assert int(await raw.get(f"{namespace}:jobs:{name}:lock") or 0) == 0
        held = await raw.hgetall(f"{namespace}:jobs:{name}:lock_info")
        assert not {pool: n for pool, n in held.items() if int(n)}
    await app.client.aclose()


async def test_go_recovers_our_dead_pool(
    server: EmbeddedServer, raw: redis.asyncio.Redis, app: App, namespace: str, address: str, tmp_path: Path
) -> None:
    """The whole group dies; a Go pool that starts finds it ten seconds later."""
    ledger = tmp_path / "ledger"
    receipts = await app.client.enqueue_many_async([app.client.prepare("capped", {"n": n}) for n in range(3)])
    await raw.set(f"{namespace}:jobs:capped:max_concurrency", 3)
    with packhorse_worker(server, namespace, ledger, concurrency=3) as ours:
        while not await raw.smembers(f"{namespace}:worker_pools"):
            await asyncio.sleep(0.02)
        (pool,) = await raw.smembers(f"{namespace}:worker_pools")
        group = [ours.pid, *children(ours.pid)]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none can react to another's end
            for pid in group:
                os.kill(pid, number)
        ours.wait()
    # What it held at that moment depends on the moment: plant the worst case, a full list and its locks.
    payloads = await raw.lrange(f"{namespace}:jobs:capped", 0, -1)
    held = f"{namespace}:jobs:capped:{pool.decode()}:inprogress"
    if payloads:
        await raw.rpush(held, *payloads)
        await raw.delete(f"{namespace}:jobs:capped")
        await raw.set(f"{namespace}:jobs:capped:lock", len(payloads))
        await raw.hset(f"{namespace}:jobs:capped:lock_info", pool, len(payloads))
    with GoWorker(address, namespace, "capped:::3", concurrency=3, ledger=ledger):
        await settled(raw, namespace, ["capped"], timeout=40)
        end = time.monotonic() + 30
        while pool in await raw.smembers(f"{namespace}:worker_pools") and time.monotonic() < end:
            await asyncio.sleep(0.1)
    assert {r.id for r in receipts} <= {job_id for what, _, job_id, _ in lines(ledger) if what == "end"}
    assert int(await raw.get(f"{namespace}:jobs:capped:lock")) == 0
    assert pool not in await raw.smembers(f"{namespace}:worker_pools")
    await app.client.aclose()


async def test_we_recover_gos_dead_pool(
    raw: redis.asyncio.Redis, app: App, namespace: str, address: str, tmp_path: Path
) -> None:
    ran = asyncio.Event()

    @app.job
    async def slow() -> None:
        ran.set()

    receipt = await app.client.enqueue_async("slow")
    ledger = tmp_path / "ledger"
    with GoWorker(address, namespace, "slow", concurrency=1, ledger=ledger, sleep_ms=60_000) as go:
        while not ledger.exists() or not lines(ledger):
            await asyncio.sleep(0.02)
        # Go's first heartbeat is not waited for by its Start.
        while not await raw.smembers(f"{namespace}:worker_pools"):
            await asyncio.sleep(0.02)
        go.kill()
    killed = time.monotonic()
    async with app.worker():
        await asyncio.wait_for(ran.wait(), 20)
        assert time.monotonic() - killed < 15
    assert lines(ledger)[0][2] == receipt.id
    assert await raw.get(f"{namespace}:jobs:slow:lock") == b"0"
    assert await raw.smembers(f"{namespace}:worker_pools") == set()
    await app.client.aclose()


async def test_periodic_jobs_of_both_are_enqueued_once(
    raw: redis.asyncio.Redis, app: App, namespace: str, address: str, tmp_path: Path
) -> None:
    spec = "*/2 * * * * *"
    ran: list[str] = []

    @app.job
    async def tick() -> None:
        ran.append("ours")

    app.periodic(spec, tick)
    ledger = tmp_path / "ledger"
    with GoWorker(address, namespace, "tick", concurrency=1, ledger=ledger, periodic=f"{spec}|tick"):
        async with app.worker(), app.worker():
            await asyncio.sleep(9)
    ids = [job_id for what, _, job_id, _ in lines(ledger) if what == "end"] if ledger.exists() else []
    assert len(ids) == len(set(ids))
    assert 3 <= len(ids) + len(ran) <= 6


async def test_due_jobs_of_ours_survive_a_go_pool_that_does_not_know_them(
    raw: redis.asyncio.Redis, app: App, namespace: str, address: str
) -> None:
    """Go's movers send due jobs to dead whose names their pool lacks. Ours move first, or bring them back."""
    jobs, ran = 2000, Counter[int]()

    @app.job
    async def ours_only(n: int) -> None:
        ran[n] += 1

    due = int(time.time()) + 2
    prepare = app.client.prepare
    await app.client.enqueue_many_async(prepare("ours_only", {"n": n}, at=due + n % 3) for n in range(jobs))
    with GoWorker(address, namespace, "else", concurrency=2):
        async with app.worker():
            end = time.monotonic() + 25
            while len(ran) < jobs and time.monotonic() < end:
                await asyncio.sleep(0.05)
            assert await raw.zcard(f"{namespace}:dead") == 0
    assert len(ran) == jobs
    assert set(ran.values()) == {1}
    await app.client.aclose()


async def test_gos_client_sees_our_pool(raw: redis.asyncio.Redis, app: App, namespace: str, address: str) -> None:
    holding, release = asyncio.Event(), asyncio.Event()

    @app.job
    async def hold() -> None:
        holding.set()
        await release.wait()

    await app.client.enqueue_async("hold")
    pool = app.worker(concurrency=2)
    async with pool:
        await asyncio.wait_for(holding.wait(), 10)
        with GoClient(address, namespace) as go:
            (beat,) = go.call(op="worker_pool_heartbeats")["result"]
            busy: list[dict[str, object]] = []
            end = time.monotonic() + 10
            while not busy and time.monotonic() < end:
                await asyncio.sleep(0.05)
                seen = go.call(op="worker_observations")["result"]
                busy = [o for o in seen if o.get("is_busy") or o.get("IsBusy")]
        release.set()
    assert pool.record.id in str(beat)
    assert "hold" in str(busy[0])
    await app.client.aclose()
