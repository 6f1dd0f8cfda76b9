"""`packhorse bench`: how fast enqueueing and running are, here and with this store.

Works in a namespace of its own, which it deletes at the end. Comparisons with other systems are in benchmarks
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from packhorse.cli.bench_app import app, noop
from packhorse.cli.faults import FAILED, Fault
from packhorse.cli.loop import run_fast
from packhorse.cli.options import Given, connection_options, json_option
from packhorse.cli.output import document, note, table
from packhorse.cli.target import own_url
from packhorse.clock import SYSTEM_CLOCK
from packhorse.embedded import EmbeddedServer
from packhorse.settings import StoreSettings, masked
from packhorse.store import Store

HELP = """Measure this machine: enqueueing (one by one, 100 callers at once, in bulk) and running no-op jobs.

\b
  packhorse bench                                   with a server of its own
  packhorse bench --url redis://localhost:6379/0 --jobs 200000 --processes 2

Uses a namespace of its own and deletes it at the end.
"""

CALLERS = 100
#: One by one is slow: so many times fewer jobs.
ONE_BY_ONE = 20
START_SECONDS = 30.0
LOOK_EVERY = 0.002


@dataclass(frozen=True, slots=True)
class Timing:
    """`jobs` took `seconds`."""

    what: str
    jobs: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.jobs / self.seconds if self.seconds > 0 else 0.0


@click.command("bench", help=HELP)
@click.option(
    "--jobs",
    type=click.IntRange(100, 10_000_000),
    default=50_000,
    show_default=True,
    metavar="N",
    help="Jobs to run.",
)
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    metavar="N",
    help="Slots per process.",
)
@click.option(
    "-p",
    "--processes",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    metavar="N",
    help="Worker processes.",
)
@connection_options
@json_option
@click.pass_obj
def bench(given: Given, jobs: int, concurrency: int, processes: int) -> None:
    with _server(own_url(given)) as url:
        namespace = f"packhorse-bench-{os.urandom(4).hex()}"
        app.use(url, namespace=namespace)
        if not given.json:
            note(f"measuring with {jobs} jobs at {masked(url)}")
        timings = run_fast(_measure(jobs, concurrency, processes))
    if given.json:
        document([{"what": t.what, "jobs": t.jobs, "seconds": t.seconds, "per_second": t.rate} for t in timings])
    else:
        table(
            ("what", "jobs", "seconds", "per second"),
            [(t.what, t.jobs, round(t.seconds, 3), round(t.rate)) for t in timings],
        )


@contextmanager
def _server(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with (
        tempfile.TemporaryDirectory(prefix="packhorse-bench-") as folder,
        EmbeddedServer(Path(folder)) as server,
    ):
        yield server.url


async def _measure(jobs: int, concurrency: int, processes: int) -> list[Timing]:
    try:
        timings = await _enqueueing(jobs)
        total = sum(timing.jobs for timing in timings)
        running = _in_this_process(concurrency) if processes == 1 else _in_processes(total, concurrency, processes)
        what = f"run, {concurrency} slots" + (f" in each of {processes} processes" if processes > 1 else "")
        return [*timings, Timing(what, total, await running)]
    finally:
        await app.client.aclose()
        await _clean_up()


async def _enqueueing(jobs: int) -> list[Timing]:
    clock, few = SYSTEM_CLOCK.monotonic, max(jobs // ONE_BY_ONE, 1)
    await noop.enqueue_async()  # connects
    start = clock()
    for _ in range(few):
        await noop.enqueue_async()
    one_by_one = clock() - start

    async def caller() -> None:
        for _ in range(max(jobs // CALLERS // 2, 1)):
            await noop.enqueue_async()

    start = clock()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    at_once = clock() - start
    start = clock()
    await app.client.enqueue_many_async(noop.prepare() for _ in range(jobs))
    bulk = clock() - start
    return [
        Timing("enqueue, one by one", few, one_by_one),
        Timing(f"enqueue, {CALLERS} callers", max(jobs // CALLERS // 2, 1) * CALLERS, at_once),
        Timing("enqueue, in bulk", jobs, bulk),
    ]


async def _in_this_process(concurrency: int) -> float:
    pool = app.worker(concurrency=concurrency)
    start = SYSTEM_CLOCK.monotonic()
    async with pool:
        await pool.drain()
        return SYSTEM_CLOCK.monotonic() - start


async def _in_processes(total: int, concurrency: int, processes: int) -> float:
    """Workers are started on a paused queue, so that their start is not measured."""
    async with app.admin() as admin, _workers(concurrency, processes):
        await admin.pause(noop.name)
        deadline = SYSTEM_CLOCK.monotonic() + START_SECONDS
        while len(await admin.pools()) < processes:
            if SYSTEM_CLOCK.monotonic() > deadline:
                raise Fault(f"{processes} workers did not start within {START_SECONDS:g} s", code=FAILED)
            await asyncio.sleep(0.05)
        await admin.resume(noop.name)
        start = SYSTEM_CLOCK.monotonic()
        while any(row.depth or row.running for row in await admin.queues()):  # noqa: ASYNC110 - a store has no event
            await asyncio.sleep(LOOK_EVERY)
        return SYSTEM_CLOCK.monotonic() - start


@asynccontextmanager
async def _workers(concurrency: int, processes: int) -> AsyncIterator[None]:
    command = [sys.executable, "-m", "packhorse", "worker", "packhorse.cli.bench_app:app"]
    options = ["-c", str(concurrency), "-p", str(processes), "--log-level", "warning"]
    environment = os.environ | {"PACKHORSE_URL": app.url, "PACKHORSE_NAMESPACE": app.namespace}
    supervisor = await asyncio.create_subprocess_exec(*command, *options, env=environment, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        if supervisor.returncode is None:
            supervisor.terminate()
        await supervisor.wait()


async def _clean_up() -> None:
    """Delete what is left of the namespace."""
    store = Store(StoreSettings(app.url))
    link = store.link()
    try:
        cursor = b"0"
        while True:
            cursor, keys = await link.one("SCAN", cursor, "MATCH", f"{app.namespace}:*", "COUNT", 1000)
            if keys:
                await link.one("UNLINK", *keys)
            if cursor == b"0":
                return
    finally:
        await store.close()
