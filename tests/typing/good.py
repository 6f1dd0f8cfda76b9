"""Calls that must type-check. Read by mypy and pyright in `test_typing.py`, never run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, assert_type

from packhorse import App, Client, Job, JobFunction, NewJob, Receipt, WorkerPool, WorkerSettings

app = App("redis://localhost:6379/0", namespace="shop", timeout=2, store_options={"username": "worker"})


@app.job
async def bare(address: str, subject: str = "hello") -> None: ...


@app.job()
async def called(address: str) -> int:
    return len(address)


@app.job(
    name="other", priority=10, max_fails=3, skip_dead=True, max_concurrency=2, timeout=1.5,
    backoff=lambda job: 2.0 * job.fails, retry={ValueError: 1, KeyError: None},
)  # fmt: skip
def with_job(job: Job, n: int, *, flag: bool = False) -> list[int]:
    job.checkin("started")
    return [n, job.attempt]


@app.job(kind="process")
def crunch(rows: list[float]) -> float:
    return sum(rows)


@app.middleware
async def around(job: Job, call_next: Callable[[Job], Awaitable[Any]]) -> Any:
    job.context["user"] = job.id
    return await call_next(job)


app.periodic("0 0 3 * * *", bare)
app.periodic("0 3 * * *", "by name")


def sync_callers(client: Client) -> None:
    assert_type(bare.enqueue("a@b.c"), Receipt)
    assert_type(bare.enqueue(address="a@b.c", subject="hi"), Receipt)
    assert_type(with_job.enqueue(5, flag=True), Receipt)
    assert_type(with_job.enqueue_in(60, 5), Receipt)
    assert_type(with_job.enqueue_at(2e9, n=5), Receipt)
    assert_type(with_job.enqueue_unique(5), Receipt)
    assert_type(with_job.enqueue_unique_by_key({"n": 5}, 5, flag=False), Receipt)
    assert_type(with_job.options(delay=5, unique=True).enqueue(5), Receipt)
    assert_type(with_job.prepare(5), NewJob)
    assert_type(client.enqueue("other", {"n": 5}, delay=2.5), Receipt)
    assert_type(client.enqueue_many([bare.prepare("a"), client.prepare("other")]), list[Receipt])


async def async_callers(client: Client) -> None:
    assert_type(await bare.enqueue_async("a@b.c"), Receipt)
    assert_type(await with_job.enqueue_in_async(60, 5), Receipt)
    assert_type(await crunch.enqueue_async(rows=[1.5]), Receipt)
    assert_type(await client.enqueue_async("other", id="mine"), Receipt)
    assert_type(await client.enqueue_many_async(bare.prepare(x) for x in "ab"), list[Receipt])


async def direct_calls() -> None:
    assert_type(await called("a@b.c"), int)
    assert_type(with_job(5), list[int])
    assert_type(crunch([1.0]), float)


def what_they_are() -> None:
    take_job(with_job)
    assert_type(with_job.name, str)


def take_job(job: JobFunction[..., list[int]]) -> None: ...


async def pools() -> None:
    async with app.worker(concurrency=5) as pool:
        assert_type(pool, WorkerPool)
        assert_type(pool.cancel("id"), bool)
        assert_type(pool.stats.done, int)
    await app.worker(WorkerSettings(concurrency=2, stop_timeout=1)).start()
