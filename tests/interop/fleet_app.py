"""The packhorse side of the mixed fleet: the same job names and the same ledger lines as the Go worker.

Run by `packhorse worker tests.interop.fleet_app:app` with LEDGER, PACKHORSE_URL and FLEET_NAMESPACE set.
"""

from __future__ import annotations

import asyncio
import os
import time

from packhorse import App, Job

app = App(
    os.environ.get("PACKHORSE_URL", "redis://127.0.0.1:6379/0"), namespace=os.environ.get("FLEET_NAMESPACE", "fleet")
)
LEDGER = os.open(os.environ.get("LEDGER", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(what: str, job: Job) -> None:
    """One line, one write: lines of several processes never mix."""
    line = f"{what} {job.name} {job.id} {job.fails} {os.getpid()} {time.monotonic_ns()}\n"
    os.write(LEDGER, line.encode())


@app.job(name="plain")
async def plain(job: Job, n: int = 0) -> None:
    note("start", job)
    note("end", job)


@app.job(name="capped", max_concurrency=3)
async def capped(job: Job, n: int = 0) -> None:
    note("start", job)
    await asyncio.sleep(0.002)
    note("end", job)


@app.job(name="ours")
async def ours(job: Job, n: int = 0) -> None:
    note("start", job)
    note("end", job)
