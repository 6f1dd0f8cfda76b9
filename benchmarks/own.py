"""`python -m benchmarks.own`: what packhorse promises beyond its rate, measured on a server of its own.

Names, depth, wake-up, idle cost, punctuality, fairness between pools, memory. Each part is a function that returns
rows of (what, figure, aim); medians of several rounds where a round is short.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis
import uvloop

from benchmarks.server import Server
from packhorse import App

Row = tuple[str, str, str]
Part = Callable[[Server, bool], Awaitable[list[Row]]]


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def app_with(server: Server, names: int, handler: Callable[[int], None] | None = None) -> App:
    """An App on an empty namespace with `names` async no-op jobs."""
    app = App(f"redis://127.0.0.1:{server.port}/0", namespace=f"own{os.urandom(4).hex()}")
    for index in range(names):

        @app.job(name=f"job{index}")
        async def noop() -> None:
            if handler is not None:
                handler(1)

    return app


async def drain_rate(server: Server, names: int, jobs: int) -> float:
    """No-op jobs per second with `jobs` waiting, spread over all names."""
    done = 0
    ended = asyncio.Event()

    def count(n: int) -> None:
        nonlocal done
        done += n
        if done == jobs:
            ended.set()

    app = app_with(server, names, count)
    await app.client.enqueue_many_async(app.client.prepare(f"job{i % names}") for i in range(jobs))
    pool = app.worker(concurrency=20)
    start = time.perf_counter()
    await pool.start()
    await ended.wait()
    seconds = time.perf_counter() - start
    await pool.stop()
    await app.client.aclose()
    return jobs / seconds


async def names(server: Server, quick: bool) -> list[Row]:
    jobs, rounds = (20_000, 1) if quick else (100_000, 5)
    counts = (1, 10, 100, 1000)
    rates: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            rates[count].append(await drain_rate(server, count, jobs))
    best = statistics.median(rates[1])
    return [
        (
            f"{count} registered names",
            f"{statistics.median(r):,.0f} jobs/s ({statistics.median(r) / best:.2f})",
            "> 0.80",
        )
        for count, r in rates.items()
    ]


async def idle_names(server: Server, quick: bool) -> list[Row]:
    """Many registered names of which five have jobs: the usual picture."""
    jobs, rounds = (20_000, 1) if quick else (100_000, 5)
    rows = []
    for registered in (5, 1000):
        rates = []
        for _ in range(rounds):
            done = 0
            ended = asyncio.Event()

            def count(n: int, ended: asyncio.Event = ended) -> None:
                nonlocal done
                done += n
                if done == jobs:
                    ended.set()

            app = app_with(server, registered, count)
            await app.client.enqueue_many_async(app.client.prepare(f"job{i % 5}") for i in range(jobs))
            pool = app.worker(concurrency=20)
            start = time.perf_counter()
            await pool.start()
            await ended.wait()
            rates.append(jobs / (time.perf_counter() - start))
            await pool.stop()
            await app.client.aclose()
        rows.append((f"jobs in 5 of {registered} names", f"{statistics.median(rates):,.0f} jobs/s", ""))
    return rows


async def depth(server: Server, quick: bool) -> list[Row]:
    """Rate of the first 20 000 jobs out of a shallow and out of a deep queue."""
    deep = 50_000 if quick else 1_000_000
    rows: list[Row] = []
    base = 0.0
    for waiting in (1000, deep):
        take = 1000 if waiting == 1000 else 20_000
        rates = []
        for _ in range(20 if waiting == 1000 else 3):
            done = 0
            ended = asyncio.Event()

            def count(n: int, ended: asyncio.Event = ended, take: int = take) -> None:
                nonlocal done
                done += n
                if done == take:
                    ended.set()

            app = app_with(server, 1, count)
            if waiting > 1000 and rates:
                break
            await app.client.enqueue_many_async(app.client.prepare("job0") for _ in range(waiting))
            pool = app.worker(concurrency=20)
            start = time.perf_counter()
            await pool.start()
            await ended.wait()
            rates.append(take / (time.perf_counter() - start))
            await pool.stop()
            await app.client.aclose()
        rate = statistics.median(rates)
        base = base or rate
        rows.append((f"queue {waiting:,} deep", f"{1e6 / rate:.2f} us per job ({rate / base:.2f})", ">= 1.0"))
    return rows


async def wake_up(server: Server, quick: bool) -> list[Row]:
    """From a foreign LPUSH to the handler's start, by an idle worker; and what idling costs."""
    rounds = 50 if quick else 500
    arrived: asyncio.Queue[float] = asyncio.Queue()
    app = App(f"redis://127.0.0.1:{server.port}/0", namespace=f"own{os.urandom(4).hex()}")

    @app.job
    async def ping() -> None:
        arrived.put_nowait(time.perf_counter())

    foreign = redis.Redis(port=server.port)
    payload = '{"name":"ping","id":"x%d","t":1,"args":null}'
    times = []
    async with app.worker(concurrency=5):
        await asyncio.sleep(0.5)
        for index in range(rounds):
            await asyncio.sleep(0.02)
            sent = time.perf_counter()
            foreign.lpush(f"{app.namespace}:jobs:ping", payload % index)
            times.append((await asyncio.wait_for(arrived.get(), 10)) - sent)
        await asyncio.sleep(1)
        before = foreign.info("stats")["total_commands_processed"]
        seconds = 5 if quick else 30
        await asyncio.sleep(seconds)
        commands = foreign.info("stats")["total_commands_processed"] - before - 1
    await app.client.aclose()
    foreign.close()
    return [
        ("foreign LPUSH to handler, p50", f"{percentile(times, 0.5) * 1e3:.2f} ms", "< 1 ms"),
        ("foreign LPUSH to handler, p99", f"{percentile(times, 0.99) * 1e3:.2f} ms", "< 5 ms"),
        ("commands per second of an idle worker", f"{commands / seconds:.2f}", "< 2"),
    ]


async def lateness(server: Server, quick: bool) -> list[Row]:
    """Start minus due time, with 1 000 jobs due in every second."""
    seconds = 2 if quick else 5
    late: list[float] = []
    ended = asyncio.Event()
    app = App(f"redis://127.0.0.1:{server.port}/0", namespace=f"own{os.urandom(4).hex()}")

    @app.job
    async def due(at: int) -> None:
        late.append(time.time() - at)
        if len(late) == seconds * 1000:
            ended.set()

    first = int(time.time()) + 3
    prepare = app.client.prepare
    await app.client.enqueue_many_async(
        prepare("due", {"at": first + s}, at=first + s) for s in range(seconds) for _ in range(1000)
    )
    async with app.worker(concurrency=50):
        await asyncio.wait_for(ended.wait(), seconds + 30)
    await app.client.aclose()
    return [
        ("lateness at 1 000 due per second, p50", f"{percentile(late, 0.5) * 1e3:.1f} ms", ""),
        ("lateness at 1 000 due per second, p99", f"{percentile(late, 0.99) * 1e3:.1f} ms", "< 20 ms"),
    ]


async def two_pools(server: Server, quick: bool) -> list[Row]:
    """40 jobs of 2 s on two pools of 10: how long did a job wait while a slot somewhere was free?"""
    length = 0.5 if quick else 2.0
    spans: list[tuple[float, float]] = []
    app = App(f"redis://127.0.0.1:{server.port}/0", namespace=f"own{os.urandom(4).hex()}")

    @app.job
    async def hold() -> None:
        start = time.perf_counter()
        await asyncio.sleep(length)
        spans.append((start, time.perf_counter()))

    begin = time.perf_counter()
    async with app.worker(concurrency=10), app.worker(concurrency=10):
        await app.client.enqueue_many_async(app.client.prepare("hold") for _ in range(40))
        while len(spans) < 40:
            await asyncio.sleep(0.05)
    await app.client.aclose()
    makespan = max(end for _, end in spans) - begin
    return [(f"40 jobs of {length:g} s, 2 pools of 10: whole time", f"{makespan:.2f} s", f"{2 * length:g} s")]


async def memory(server: Server, quick: bool) -> list[Row]:
    """Resident memory of a worker process: idle, and after many jobs."""
    jobs = 50_000 if quick else 1_000_000
    namespace = f"own{os.urandom(4).hex()}"
    app = App(f"redis://127.0.0.1:{server.port}/0", namespace=namespace)
    environment = os.environ | {
        "PACKHORSE_URL": app.url,
        "BENCH_NAMESPACE": namespace,
        "BENCH_NAMES": "1",
    }
    command = [sys.executable, "-m", "packhorse", "worker", "benchmarks.apps.own_app:app", "--concurrency", "20"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        await asyncio.sleep(3)
        (child,) = children(process.pid)
        idle = resident(child)
        marks = []
        for _ in range(4):
            await app.client.enqueue_many_async(app.client.prepare("job0") for _ in range(jobs // 4))
            while await backlog(app):
                await asyncio.sleep(0.2)
            marks.append(resident(child))
    finally:
        process.terminate()
        process.wait(30)
        await app.client.aclose()
    return [
        ("memory of an idle worker process", f"{idle:.0f} MB", "< 60 MB"),
        (f"memory after each quarter of {jobs:,} jobs", ", ".join(f"{m:.0f}" for m in marks) + " MB", "flat"),
    ]


async def backlog(app: App) -> int:
    async with app.admin() as admin:
        return sum(row.depth + row.running for row in await admin.queues())


def children(pid: int) -> list[int]:
    listing = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listing.split()]


def resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


PARTS: dict[str, Part] = {
    "names": names,
    "idle_names": idle_names,
    "depth": depth,
    "wake_up": wake_up,
    "lateness": lateness,
    "two_pools": two_pools,
    "memory": memory,
}


async def measure(parts: list[str], quick: bool) -> list[Row]:
    rows: list[Row] = []
    with Server() as server:
        for part in parts:
            print(f"{part} ...", file=sys.stderr, flush=True)
            rows += await PARTS[part](server, quick)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which; all by default")
    parser.add_argument("--quick", action="store_true", help="small counts, one round")
    options = parser.parse_args()
    rows = uvloop.run(measure(options.parts or list(PARTS), options.quick))
    width = max(len(row[0]) for row in rows)
    for what, figure, aim in rows:
        print(f"{what:<{width}}  {figure:<28}  {aim and 'aim: ' + aim}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
