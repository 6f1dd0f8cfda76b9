"""Golden vectors of Go's Client: the same store, the matching call of ours, the same store afterwards.

Go names a job by score and id, ours by the row that was listed.
"""

from __future__ import annotations

import json
from typing import Any

from keyspace import Keyspace, State, golden, state
from vectors import Vector

from packhorse import App
from packhorse.protocols.gocraft.admin import GocraftInspector
from packhorse.protocols.inspect import Filter, JobRow
from packhorse.protocols.inspect import State as At


async def named(inspector: GocraftInspector, where: At, score: int, id: str) -> list[JobRow]:
    """The rows that Go would find by these two."""
    page = await inspector.jobs(where, Filter(id=id), limit=100)
    return [row for row in page.rows if row.at == score]


def returned(vector: Vector) -> Any:
    """What Go's call gave, with the numbers of its args as float64."""
    found = vector["raw_returned"]
    return json.loads(found if isinstance(found, str) else found["jobs"], parse_int=float)


def as_go_tells(row: JobRow, score_name: str) -> dict[str, Any]:
    """A row with the names and the omissions of Go's JSON."""
    told = {
        score_name: row.at, "name": row.name, "id": row.id, "t": row.enqueued_at,
        "args": json.loads(row.args, parse_int=float), "unique": row.unique, "fails": row.fails,
        "err": row.error, "failed_at": row.failed_at,
    }  # fmt: skip
    return {name: value for name, value in told.items() if value or name == "args"}


# Retrying the dead.


@golden("client", "retry_dead_job", "retry_dead_job_unique", "retry_dead_job_same_score")
async def test_retry_of_a_dead_job(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    id = "dead2" if vector["name"].endswith("same_score") else "dead1"
    assert await inspector.retry(await named(inspector, At.DEAD, 1700000100, id)) == 1
    await space.becomes(state(vector, "after"), parsed=True)


@golden("client", "retry_dead_job_not_found")
async def test_retry_of_a_job_that_is_not_there(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    rows = await named(inspector, At.DEAD, 1700000100, "other")
    assert rows == []
    assert await inspector.retry(rows) == 0
    await space.becomes(state(vector, "after"))


@golden("client", "retry_dead_job_unknown_name", "retry_dead_job_no_known_jobs", quirk=12)
async def test_retry_of_a_name_that_nobody_knows_changes_nothing(
    vector: Vector, inspector: GocraftInspector, space: Keyspace
) -> None:
    """Go answers "nothing retried" and yet gives the job another score and another error."""
    await space.plant(state(vector, "before"))
    rows = await named(inspector, At.DEAD, 1700000100, "dead1")
    assert await inspector.retry(rows) == 0
    await space.becomes(state(vector, "before"))
    assert await named(inspector, At.DEAD, 1700000100, "dead1") == rows


@golden("client", "retry_all_dead_jobs", quirk=12)
async def test_retry_all_takes_the_future_ones_and_leaves_the_unknown_ones(
    vector: Vector, still_app: App, space: Keyspace
) -> None:
    """Go skips scores in the future and rewrites jobs of unknown names.

    `dead3` has a list for args, which is no job (section 2). Go's script makes an object of it.
    """
    before = state(vector, "before")
    await space.plant(before)
    async with still_app.admin() as admin:
        assert await admin.retry_all(At.DEAD) == 2
    queued = ['{"name":"wat","id":"dead4","t":<T>,"args":null}',
              '{"name":"wat","id":"dead1","t":<T>,"args":{"a":1}}']  # fmt: skip
    left = [entry for entry in before["ns:dead"] if "dead2" in entry["member"] or "dead3" in entry["member"]]
    await space.becomes(before.having("ns:jobs:wat", "list", queued).having("ns:dead", "zset", left))


@golden("client", "retry_all_dead_jobs_batches")
async def test_retry_all_of_many(vector: Vector, still_app: App, space: Keyspace) -> None:
    await dead(space, "wat", 2500)
    await space.raw.sadd(space.key("known_jobs"), "wat")
    async with still_app.admin() as admin:
        assert await admin.retry_all(At.DEAD) == 2500
    assert await space.raw.zcard(space.key("dead")) == vector["facts"]["dead_left"] == 0
    assert await space.raw.llen(space.key("jobs:wat")) == vector["facts"]["queued"] == 2500


@golden("client", "retry_all_dead_jobs_stops_at_unknown_batch", quirk=12)
async def test_retry_all_finds_the_known_one_behind_a_thousand_unknown_ones(
    vector: Vector, still_app: App, space: Keyspace
) -> None:
    """Go gives up when a batch of 1000 retries nothing."""
    assert vector["facts"] == {"dead_left": 1001, "queued": 0}
    await dead(space, "other", 1000)
    await dead(space, "wat", 1, first_score=1700001000)
    await space.raw.sadd(space.key("known_jobs"), "wat")
    async with still_app.admin() as admin:
        assert await admin.retry_all(At.DEAD) == 1
    assert await space.raw.llen(space.key("jobs:wat")) == 1
    assert [score for _, score in await space.members("dead")] == list(range(1700000000, 1700001000))


async def dead(space: Keyspace, name: str, count: int, first_score: int = 1700000000) -> None:
    jobs = {f'{{"name":"{name}","id":"{i}","t":1,"args":null,"fails":4}}': first_score + i for i in range(count)}
    await space.raw.zadd(space.key("dead"), jobs)


# Deleting.


@golden("client", "delete_dead_job", "delete_dead_job_twice_same_id", "delete_retry_job")
async def test_delete(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    if vector["name"] == "delete_retry_job":
        rows = await named(inspector, At.RETRY, 1700000300, "r1")
    else:
        rows = await named(inspector, At.DEAD, 1700000100, "dead1")
    assert await inspector.delete(rows) == len(rows) == (2 if "twice" in vector["name"] else 1)
    await space.becomes(state(vector, "after"))


@golden("client", "delete_dead_job_not_found", "delete_scheduled_job_not_found")
async def test_delete_of_a_job_that_is_not_there(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    rows = await named(inspector, At.DEAD if "dead" in vector["name"] else At.SCHEDULED, 1, "dead1")
    assert rows == []
    assert await inspector.delete(rows) == 0
    await space.becomes(state(vector))


@golden("client", "delete_dead_job_malformed_neighbour", quirk=12)
async def test_delete_beside_a_malformed_member(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    """Go's script decodes the neighbour, fails, and deletes nothing."""
    before = state(vector, "before")
    await space.plant(before)
    assert await inspector.delete(await named(inspector, At.DEAD, 1700000100, "dead1")) == 1
    await space.becomes(before.having("ns:dead", "zset", before["ns:dead"][:1]))
    (odd,) = (await inspector.jobs(At.DEAD)).rows
    assert await inspector.delete([odd]) == 1
    await space.becomes(State([]))


@golden("client", "delete_all_dead_jobs")
async def test_delete_all(vector: Vector, still_app: App, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    async with still_app.admin() as admin:
        assert await admin.delete_all(At.DEAD) == 1
        await space.becomes(state(vector, "after"))
        assert await admin.delete_all(At.DEAD) == 0


@golden("client", "delete_scheduled_job", "delete_scheduled_job_unique", "delete_scheduled_job_unique_nil")
async def test_delete_of_a_scheduled_job(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    (row,) = (await inspector.jobs(At.SCHEDULED)).rows
    assert row.at == space.clock.wall() + 300
    assert await inspector.delete([row]) == 1
    await space.becomes(state(vector, "after"))


@golden(
    "client", "delete_scheduled_job_unique_by_key", "delete_scheduled_job_unique_bigint", quirk=10
)  # fmt: skip
async def test_delete_of_a_scheduled_job_frees_the_key_that_it_holds(
    vector: Vector, inspector: GocraftInspector, space: Keyspace
) -> None:
    """Go recomputes the key from decoded args, which is another one here: it blocks equal jobs for a day."""
    await space.plant(state(vector, "before"))
    assert await inspector.delete((await inspector.jobs(At.SCHEDULED)).rows) == 1
    assert len(state(vector, "after").entries) == 1  # the key
    await space.becomes(State([]))


# Listing.


@golden("client", "queues", "queues_empty")
async def test_queues(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    told = [{"job_name": row.name, "count": row.depth, "latency": row.latency} for row in await inspector.queues()]
    assert told == returned(vector)
    await space.becomes(state(vector, "before"))


@golden("client", "queues_malformed_tail", quirk=3)
async def test_queues_with_a_malformed_tail(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    """Go's call panics, and with it every retry of a dead job."""
    await space.plant(state(vector, "before"))
    (row,) = await inspector.queues()
    assert (row.name, row.depth, row.latency) == ("wat", 1, 0.0)


@golden("client", "pages")
async def test_pages(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    jobs = {f'{{"name":"wat","id":"s{i}","t":1,"args":null}}': 2000000000 + i for i in range(45)}
    await space.raw.zadd(space.key("scheduled"), jobs)
    for number in range(5):
        wanted = vector["facts"][f"page_{number}"]
        page = await inspector.jobs(At.SCHEDULED, offset=(max(number, 1) - 1) * 20)
        first = page.rows[0].id if page.rows else ""
        assert (page.total, len(page.rows), first) == (wanted["count"], wanted["len"], wanted["first"])


@golden("client", "scheduled_jobs_json", "retry_jobs_json", "dead_jobs_json")
async def test_job_fields(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    """Args come as they are stored; Go's come through float64, so both sides are read that way."""
    await space.plant(state(vector, "before"))
    where, score = {
        "scheduled_jobs_json": (At.SCHEDULED, "run_at"), "retry_jobs_json": (At.RETRY, "retry_at"),
        "dead_jobs_json": (At.DEAD, "died_at"),
    }[vector["name"]]  # fmt: skip
    page = await inspector.jobs(where)
    (wanted,) = returned(vector)
    wanted.pop("unique_key", None)
    (row,) = page.rows
    assert page.total == 1
    assert as_go_tells(row, score) == wanted
    assert json.loads(row.raw)["args"] == json.loads(row.args)


@golden("client", "dead_jobs_score_2", "dead_jobs_score_6", "dead_jobs_score_8")
async def test_scores_that_go_reads_too(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    (row,) = (await inspector.jobs(At.DEAD)).rows
    assert as_go_tells(row, "died_at") == returned(vector)[0]


@golden(
    "client", "dead_jobs_score_1", "dead_jobs_score_3", "dead_jobs_score_4", "dead_jobs_score_5",
    "dead_jobs_score_7", quirk=12,
)  # fmt: skip
async def test_scores_that_blank_a_page_of_go(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    (entry,) = state(vector, "before")["ns:dead"]
    await space.raw.execute_command("ZADD", space.key("dead"), entry["score"], entry["member"])
    page = await inspector.jobs(At.DEAD)
    assert page.total == 1
    (row,) = page.rows
    assert (row.readable, row.id, row.at) == (True, "dead1", float(entry["score"]))
    assert await inspector.delete([row]) == 1


@golden("client", "dead_jobs_malformed_member", quirk=12)
async def test_a_malformed_member_hides_nothing(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    page = await inspector.jobs(At.DEAD)
    assert page.total == 2
    good, odd = page.rows
    assert (good.readable, good.id) == (True, "dead1")
    assert (odd.readable, odd.name, odd.id) == (False, "wat", "x")
    assert odd.raw == b'{"name":"wat","id":"x","t":1.5,"args":null}'
    assert odd.error.startswith("undecodable payload: ")


# Pools.


@golden("client", "worker_pool_heartbeats")
async def test_pools(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    """Go makes one empty name of an empty list of names; ours makes none."""
    await space.plant(State(vector["raw_states"][0]["keys"]))
    told = [
        {
            "worker_pool_id": row.id, "started_at": row.started_at, "heartbeat_at": row.heartbeat_at,
            "job_names": [*row.job_names], "concurrency": row.concurrency, "host": row.host, "pid": row.pid,
            "worker_ids": [*row.worker_ids],
        }
        for row in await inspector.pools()
    ]  # fmt: skip
    lists = ("job_names", "worker_ids")
    assert told == [
        {name: [item for item in value or () if item] if name in lists else value for name, value in row.items()}
        for row in returned(vector)
    ]
    ages = [row.age for row in await inspector.pools()]
    assert ages == [None, space.clock.start - 1700000005, space.clock.start - 1700000005]


@golden("client", "worker_pool_heartbeats_bad_number", quirk=16)
async def test_a_heartbeat_with_a_fraction(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    """Go's call fails as a whole."""
    await space.plant(state(vector, "before"))
    assert [(row.id, row.heartbeat_at) for row in await inspector.pools()] == [("p1", 1), ("p2", 1700000005)]


@golden("client", "worker_observations")
async def test_busy_workers(vector: Vector, inspector: GocraftInspector, space: Keyspace) -> None:
    """Of Go's rows those that are busy, as its web page lists them."""
    await space.plant(state(vector, "before"))
    (row,) = await inspector.busy()
    (wanted,) = [worker for worker in returned(vector) if worker["is_busy"]]
    assert row.pool_id == "p2"
    assert wanted == {
        "worker_id": row.worker_id, "is_busy": True, "job_name": row.job_name, "job_id": row.job_id,
        "started_at": row.started_at, "args_json": row.args, "checkin": row.checkin,
        "checkin_at": row.checkin_at,
    }  # fmt: skip
