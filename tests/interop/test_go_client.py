"""Go's Client looks at what packhorse wrote, and packhorse's admin at what Go wrote: both tell the same.

They look at a quiet moment, on one namespace, so their answers can be compared field by field.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis.asyncio
from tests.gowork import GoClient, GoEnqueuer, GoWorker

from packhorse import App, Job
from packhorse.admin import Admin
from packhorse.embedded import EmbeddedServer
from packhorse.protocols.inspect import JobRow, State

SCORES = {State.SCHEDULED: "run_at", State.RETRY: "retry_at", State.DEAD: "died_at"}


@pytest.fixture
def address(server: EmbeddedServer) -> str:
    return f"127.0.0.1:{server.port}"


@pytest.fixture
def go(address: str, namespace: str) -> Iterator[GoClient]:
    with GoClient(address, namespace) as client:
        yield client


@pytest.fixture
async def admin(app: App) -> AsyncIterator[Admin]:
    async with app.admin() as admin:
        yield admin
    await app.client.aclose()


def told(go: GoClient, op: str, **fields: Any) -> Any:
    answer = go.call(op=op, **fields)
    assert answer["error"] == ""
    return answer["result"]


async def same_queues(go: GoClient, admin: Admin) -> list[dict[str, Any]]:
    """The queues, which both tell alike."""
    theirs: list[dict[str, Any]] = told(go, "queues")
    ours = await admin.queues()
    assert [(row.name, row.depth) for row in ours] == [(q["job_name"], q["count"]) for q in theirs]
    for row, queue in zip(ours, theirs, strict=True):
        assert abs(row.latency - queue["latency"]) < 5
    return theirs


async def same_jobs(go: GoClient, admin: Admin, state: State) -> list[JobRow]:
    """The rows of one set, which both tell alike, page by page."""
    rows: list[JobRow] = []
    number = 1
    while True:
        theirs = told(go, f"{state.value}_jobs", page=number)
        ours = await admin.jobs(state, offset=(number - 1) * 20, limit=20)
        assert ours.total == theirs["count"]
        jobs = theirs["jobs"] or []
        assert [as_go(row) for row in ours.rows] == [compared(job) for job in jobs]
        if not jobs:
            return rows
        rows += ours.rows
        number += 1


def as_go(row: JobRow) -> dict[str, Any]:
    fields = {
        SCORES[row.state]: row.at, "name": row.name, "id": row.id, "t": row.enqueued_at,
        "args": json.loads(row.args), "unique": row.unique, "fails": row.fails, "err": row.error,
        "failed_at": row.failed_at,
    }  # fmt: skip
    return {name: value for name, value in fields.items() if value or name == "args"}


def score(row: JobRow) -> int:
    assert row.at is not None
    return int(row.at)


def compared(job: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in job.items() if name != "unique_key"}


async def seen(check: Any) -> Any:
    """Ask until there is an answer: pools write what they do once a second."""
    async with asyncio.timeout(20):
        while not (answer := await check()):
            await asyncio.sleep(0.02)
        return answer


async def test_go_sees_our_queues_pools_and_running_jobs(app: App, go: GoClient, admin: Admin) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    @app.job(name="mail", max_concurrency=1)
    async def mail(job: Job, to: str) -> None:
        job.checkin("half way <&>")
        running.set()
        await go_on.wait()

    @app.job(name="other")
    async def other() -> None: ...

    for to in ("ada <a@example.com>", "b", "c"):
        await mail.enqueue_async(to)
    async with app.worker(concurrency=3):
        await running.wait()
        assert [(q["job_name"], q["count"]) for q in await same_queues(go, admin)] == [
            ("mail", 2),
            ("other", 0),
        ]
        (queue, _) = await admin.queues()
        assert (queue.running, queue.max_concurrency) == (1, 1)

        (beat,) = told(go, "worker_pool_heartbeats")
        (pool,) = await admin.pools()
        assert beat == {
            "worker_pool_id": pool.id, "started_at": pool.started_at, "heartbeat_at": pool.heartbeat_at,
            "job_names": ["mail", "other"], "concurrency": 3, "host": pool.host, "pid": pool.pid,
            "worker_ids": list(pool.worker_ids),
        }  # fmt: skip
        assert len(pool.worker_ids) == 3
        assert pool.age is not None
        assert pool.age < 20

        async def checked_in() -> Any:
            return [w for w in told(go, "worker_observations") if w["is_busy"] and w["checkin"]]

        (worker,) = await seen(checked_in)
        (busy,) = await admin.busy()
        assert json.loads(busy.args) == {"to": "ada <a@example.com>"}
        assert worker == {
            "worker_id": busy.worker_id, "is_busy": True, "job_name": "mail", "job_id": busy.job_id,
            "started_at": busy.started_at, "args_json": busy.args, "checkin": "half way <&>",
            "checkin_at": busy.checkin_at,
        }  # fmt: skip
        go_on.set()
    assert told(go, "worker_pool_heartbeats") == []
    assert await admin.pools() == []


async def test_go_reads_and_changes_our_retry_dead_and_scheduled_jobs(
    app: App, go: GoClient, admin: Admin, raw: redis.asyncio.Redis, namespace: str
) -> None:
    @app.job(name="again", backoff=lambda job: 600)
    async def again(n: int) -> None:
        raise RuntimeError(f"not <yet> {n}")

    @app.job(name="never", max_fails=1)
    async def never(n: int) -> None:
        raise ValueError("no \u2028 way")

    for n in range(25):
        await again.enqueue_async(n)
        await never.enqueue_async(n)
        await again.enqueue_in_async(600 + n, n)
    await again.options(delay=900, unique=True).enqueue_async(7)
    await raw.lpush(f"{namespace}:jobs:never", b"no job at all")
    async with app.worker(concurrency=10) as pool:
        await pool.drain()

    dead = await same_jobs(go, admin, State.DEAD)
    retry = await same_jobs(go, admin, State.RETRY)
    scheduled = await same_jobs(go, admin, State.SCHEDULED)
    assert (len(dead), len(retry), len(scheduled)) == (26, 25, 26)
    assert {row.error for row in retry} == {f"RuntimeError: not <yet> {n}" for n in range(25)}
    (wrapped,) = [row for row in dead if row.id.startswith("bad-")]
    dead.remove(wrapped)

    for row in dead[:2]:
        assert told(go, "delete_dead_job", score=score(row), id=row.id) is None
    assert told(go, "delete_retry_job", score=score(retry[0]), id=retry[0].id) is None
    assert told(go, "delete_scheduled_job", score=score(scheduled[-1]), id=scheduled[-1].id) is None
    assert [key async for key in raw.scan_iter(match=f"{namespace}:unique:*")] == []
    assert await admin.delete([dead[0], retry[0], scheduled[-1]]) == 0
    assert told(go, "retry_dead_job", score=score(dead[2]), id=dead[2].id) is None
    (row,) = (await admin.jobs(State.QUEUED, queue="never")).rows
    assert (row.id, row.fails, row.error) == (dead[2].id, 0, "")
    assert await admin.delete([wrapped]) == 1
    assert told(go, "retry_all_dead_jobs") is None
    assert (await same_queues(go, admin))[1]["count"] == 23
    for state in SCORES:
        await same_jobs(go, admin, state)


async def test_we_read_and_change_what_go_wrote(
    app: App, go: GoClient, admin: Admin, address: str, namespace: str
) -> None:
    with GoEnqueuer(address, namespace) as enqueuer:
        for n in range(22):
            assert enqueuer.call(op="enqueue", name="mail", args={"n": n, "h": "<&>"})["error"] == ""
            assert enqueuer.call(op="enqueue", name="dies", args={"n": n})["error"] == ""
            enqueuer.call(op="enqueue_in", name="mail", secs=900 + n, args={"n": n, "list": []})
        enqueuer.call(op="enqueue_unique_in_by_key", name="mail", secs=2000, args={"n": 1}, key={"k": 2**53 + 1})

        with GoWorker(address, namespace, "mail::4,dies::1", concurrency=3, fail_every=1, backoff=600) as worker:
            (pool,) = await seen(admin.pools)
            assert (pool.job_names, pool.concurrency, pool.pid) == (("dies", "mail"), 3, worker.pid)
            (beat,) = told(go, "worker_pool_heartbeats")
            assert beat["worker_ids"] == list(pool.worker_ids)

            async def all_failed() -> bool:
                counts = await admin.counts()
                return counts[State.RETRY] + counts[State.DEAD] == 44

            await seen(all_failed)

        await same_queues(go, admin)
        rows = {state: await same_jobs(go, admin, state) for state in SCORES}
        assert [len(rows[state]) for state in SCORES] == [23, 22, 22]
        assert all(row.readable and row.fails == 1 and row.error for row in rows[State.RETRY] + rows[State.DEAD])

        assert await admin.retry(rows[State.DEAD][:3]) == 3
        assert await admin.retry(rows[State.RETRY][:2]) == 2
        assert await admin.retry(rows[State.SCHEDULED][:1]) == 1
        queued = {q["job_name"]: q["count"] for q in await same_queues(go, admin)}
        assert queued == {"dies": 3, "mail": 3}
        assert await admin.delete(rows[State.SCHEDULED]) == 22
        again = enqueuer.call(op="enqueue_unique_in_by_key", name="mail", secs=9, args={"n": 1}, key={"k": 2**53 + 1})
        assert again["duplicate"] is False  # the key was freed with its job
        assert await admin.delete(rows[State.DEAD]) == 19
    assert told(go, "dead_jobs", page=1)["count"] == 0


async def test_a_go_worker_obeys_our_pause_and_runs_what_we_retry(
    app: App, admin: Admin, address: str, namespace: str
) -> None:
    with GoEnqueuer(address, namespace) as enqueuer:
        for n in range(3):
            enqueuer.call(op="enqueue", name="mail", args={"n": n})
    flags: dict[str, Any] = {"concurrency": 1, "drain_exit": True}
    with GoWorker(address, namespace, "mail::1", fail_every=1, **flags) as worker:
        await asyncio.to_thread(worker.wait)
    assert (await admin.counts())[State.DEAD] == 3
    assert await admin.retry_all(State.DEAD) == 3

    await admin.pause("mail")
    with GoWorker(address, namespace, "mail::1", **flags) as worker:
        await asyncio.to_thread(worker.wait)
    assert (await admin.counts())[State.QUEUED] == 3

    await admin.resume("mail")
    with GoWorker(address, namespace, "mail::1", **flags) as worker:
        await asyncio.to_thread(worker.wait)
    assert set((await admin.counts()).values()) == {0}
