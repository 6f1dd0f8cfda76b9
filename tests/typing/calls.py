"""Calls that type checkers must judge right: lines marked `expect-error` are wrong, all others are fine.

Read by test_typing.py, never run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from packhorse import App, Job, NewJob, Receipt

app = App()


@app.job
async def mail(address: str, copies: int = 1) -> None: ...


@app.job(max_fails=2, timeout=3.5)
def report(job: Job, year: int) -> int:
    return year


@app.middleware
async def around(job: Job, call_next: Callable[[Job], Awaitable[Any]]) -> Any:
    return await call_next(job)


def good() -> None:
    receipt: Receipt = mail.enqueue(address="a@example.com")
    mail.enqueue("a@example.com", copies=2)
    mail.enqueue_in(60, address="a@example.com")
    mail.enqueue_at(1_800_000_000, "a@example.com")
    mail.enqueue_unique(address="a@example.com")
    mail.enqueue_unique_by_key({"k": 1}, address="a@example.com")
    mail.options(id="x", expires_in=5).enqueue(address="a@example.com")
    job: NewJob = report.prepare(year=2026)
    report.enqueue(year=2026)
    value: int = report(2026)
    print(receipt, job, value)


async def good_async() -> None:
    await mail("a@example.com")
    receipt: Receipt = await mail.enqueue_async(address="a@example.com")
    await report.enqueue_in_async(5, year=2026)
    print(receipt)


def wrong() -> None:
    mail.enqueue(address=1)  # expect-error
    mail.enqueue(adress="a@example.com")  # expect-error
    mail.enqueue()  # expect-error
    mail.enqueue("a@example.com", 1, 2)  # expect-error
    mail.enqueue_in("soon", address="a@example.com")  # expect-error
    report.enqueue(year="2026")  # expect-error
    report.enqueue(job=None, year=2026)  # expect-error
    mail.options(unknown=1)  # expect-error
    app.job(max_fails="3")  # expect-error


async def wrong_async() -> None:
    await mail.enqueue_async(address=None)  # expect-error
    await mail.enqueue_unique_by_key_async("key", address="a@example.com")  # expect-error
