"""Handlers for the tests that kill, stop and block whole processes. Run by `packhorse worker tests.process_app:app`."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time

from packhorse import App, Job

app = App(
    os.environ.get("PACKHORSE_URL", "redis://127.0.0.1:6379/0"), namespace=os.environ.get("TEST_NAMESPACE", "test")
)
LEDGER = os.open(os.environ.get("LEDGER", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(what: str, job: Job) -> None:
    os.write(LEDGER, f"{what} {job.id} {os.getpid()} {time.monotonic()}\n".encode())


@app.job
async def hold(job: Job, seconds: float) -> None:
    note("start", job)
    await asyncio.sleep(seconds)
    note("end", job)


@app.job
async def hold_the_gil(job: Job, seconds: int) -> None:
    """PyDLL calls keep the GIL, so nothing else in this process runs meanwhile."""
    note("start", job)
    ctypes.PyDLL(None).sleep(seconds)
    note("end", job)


@app.job(max_concurrency=1)
async def die(job: Job) -> None:
    note("start", job)
    os.abort()


@app.job
async def grow(job: Job, megabytes: int) -> None:
    note("start", job)
    kept.append(b"x" * (megabytes << 20))
    note("end", job)


kept: list[bytes] = []
