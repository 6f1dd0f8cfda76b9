"""The gocraft layout as people see it: rows and pages; nothing odd hides what is beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from keyspace import Keyspace

from packhorse.errors import ConfigError, StoreRefused
from packhorse.protocols.gocraft import admin
from packhorse.protocols.gocraft.admin import GocraftInspector
from packhorse.protocols.gocraft.keys import Keys
from packhorse.protocols.inspect import Filter, JobRow, State
from packhorse.settings import StoreSettings
from packhorse.store import Reply, Store

#: Payloads that are no jobs, with what can be read of them all the same.
DEEP = b'{"name":"wat","id":"deep","t":1,"args":{"a":' + b"[" * 3000 + b"]" * 3000 + b"}}"
ODD: dict[bytes, tuple[str, str]] = {
    b"": ("", ""),
    b"not json": ("", ""),
    b"null": ("", ""),
    b"[]": ("", ""),
    b"1e999": ("", ""),
    b"\x00\xff\xfe": ("", ""),
    b'{"name":"wat","id":"f","t":1.5,"args":null}': ("wat", "f"),
    b'{"name":"wat","id":"s","t":"1","args":null}': ("wat", "s"),
    b'{"name":"wat","id":"l","t":1,"args":[]}': ("wat", "l"),
    b'{"name":"wat","id":5,"t":1,"args":null}': ("wat", ""),
    b'{"name":["wat"],"id":"n","t":1,"args":null}': ("", "n"),
    b'{"name":"wat","id":"cut","t":1,"args":': ("", ""),
    DEEP: ("", ""),
}

GOOD = b'{"name":"wat","id":"good","t":1999999990,"args":{"a":[],"n":12345678901234567890}}'


def payload(id: str, **fields: Any) -> bytes:
    return json.dumps({"name": "wat", "id": id, "t": 1, "args": None, **fields}, separators=(",", ":")).encode()


async def listed(inspector: GocraftInspector, state: State, **asked: Any) -> list[JobRow]:
    return list((await inspector.jobs(state, **asked)).rows)


class Recorded:
    """What a call brought over the connection."""

    def __init__(self, inspector: GocraftInspector, patch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.commands: list[str] = []
        self._call = inspector._link.call
        patch.setattr(inspector._link, "call", self.call)

    async def call(self, *commands: tuple[Any, ...]) -> list[Reply]:
        replies = await self._call(*commands)
        self.commands += [command[0] for command in commands]
        self.sizes += [len(reply) for reply in replies if isinstance(reply, list)]
        return replies


# Odd things are shown and hide nothing.


@pytest.mark.parametrize("state", [State.SCHEDULED, State.RETRY, State.DEAD])
async def test_odd_members_of_a_sorted_set(state: State, inspector: GocraftInspector, space: Keyspace) -> None:
    key = space.key(state.value)
    await space.raw.zadd(key, {raw: score for score, raw in enumerate([*ODD, GOOD])})
    page = await inspector.jobs(state, limit=100)
    assert page.total == len(ODD) + 1
    seen = {row.raw: (row.name, row.id) for row in page.rows if not row.readable}
    # How deep the name of a job can be made out in spite of its depth differs between Python versions.
    assert seen.pop(DEEP) in {("", ""), ("wat", "deep")}
    assert seen == {raw: legible for raw, legible in ODD.items() if raw != DEEP}
    assert [row.at for row in page.rows] == list(range(len(ODD) + 1))
    assert all(row.error.startswith("undecodable payload: ") for row in page.rows[:-1])
    (good,) = [row for row in page.rows if row.readable]
    assert good == JobRow(
        state, "wat", GOOD, True, "wat", "good", '{"a":[],"n":12345678901234567890}', 1999999990, len(ODD)
    )

    assert await inspector.retry(page.rows) == 0  # nobody knows the name
    assert await inspector.delete(page.rows[:-1]) == len(ODD)
    assert await space.raw.zrange(key, 0, -1) == [GOOD]


async def test_odd_entries_of_a_queue(inspector: GocraftInspector, space: Keyspace) -> None:
    await space.raw.sadd(space.key("known_jobs"), "wat")
    await space.raw.rpush(space.key("jobs:wat"), GOOD, *ODD)
    (queue,) = await inspector.queues()
    assert (queue.depth, queue.latency) == (len(ODD) + 1, 0.0)
    page = await inspector.jobs(State.QUEUED, queue="wat", limit=100)
    assert [(row.raw, row.queue, row.at) for row in page.rows] == [(raw, "wat", None) for raw in reversed([GOOD, *ODD])]
    assert [row.id for row in await inspector.find("l")] == ["l"]
    assert await inspector.delete([row for row in page.rows if not row.readable]) == len(ODD)
    assert await space.items("jobs:wat") == [GOOD]


async def test_odd_scores(inspector: GocraftInspector, space: Keyspace) -> None:
    for score in ("-inf", "inf", "1700000100.25", "1e300", "-5"):
        await space.raw.execute_command("ZADD", space.key("dead"), score, payload(score))
    rows = await listed(inspector, State.DEAD)
    assert [row.at for row in rows] == [float("-inf"), -5.0, 1700000100.25, 1e300, float("inf")]
    assert [row.id for row in rows] == ["-inf", "-5", "1700000100.25", "1e300", "inf"]


WRONG = [
    "known_jobs", "jobs:wat", "jobs:wat:lock", "jobs:wat:max_concurrency", "scheduled", "retry", "dead",
    "worker_pools", "worker_pools:p", "worker:w",
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_key_of_a_wrong_type_hides_nothing_else(
    wrong: str, inspector: GocraftInspector, space: Keyspace
) -> None:
    raw, key = space.raw, space.key
    await raw.sadd(key("known_jobs"), "wat", "other")
    await raw.lpush(key("jobs:wat"), payload("1"))
    await raw.lpush(key("jobs:other"), payload("2"))
    await raw.set(key("jobs:wat:lock"), 3)
    await raw.set(key("jobs:wat:max_concurrency"), 7)
    for name in ("scheduled", "retry", "dead"):
        await raw.zadd(key(name), {payload(name): 1})
    await raw.sadd(key("worker_pools"), "p", "q")
    for pool, worker in (("p", "w"), ("q", "v")):
        await raw.hset(key(f"worker_pools:{pool}"), mapping={"heartbeat_at": 1, "worker_ids": worker})
        await raw.hset(key(f"worker:{worker}"), mapping={"job_name": "wat"})
    await raw.delete(key(wrong))
    await raw.xadd(key(wrong), {"a": "stream"})

    queues = {row.name: row for row in await inspector.queues()}
    assert set(queues) == (set() if wrong == "known_jobs" else {"wat", "other"})
    if queues:
        assert queues["other"].depth == 1
        assert queues["wat"].depth == (0 if wrong == "jobs:wat" else 1)
        assert queues["wat"].running == (0 if wrong.endswith("lock") else 3)
        assert queues["wat"].max_concurrency == (None if wrong.endswith("concurrency") else 7)
    counts = await inspector.counts()
    for state in (State.SCHEDULED, State.RETRY, State.DEAD):
        page = await inspector.jobs(state)
        assert page.total == len(page.rows) == counts[state] == (0 if wrong == state.value else 1)
    assert counts[State.QUEUED] == sum(row.depth for row in queues.values())
    pools = [row.id for row in await inspector.pools()]
    assert pools == ([] if wrong == "worker_pools" else ["p", "q"])
    busy = [row.worker_id for row in await inspector.busy()]
    assert busy == ([] if wrong == "worker_pools" else ["v"] if wrong in ("worker:w", "worker_pools:p") else ["w", "v"])
    assert [row.id for row in await inspector.find("dead")] == ([] if wrong == "dead" else ["dead"])
    assert await inspector.purge("wat") == (0 if wrong == "jobs:wat" else 1)
    assert await raw.type(key(wrong)) == b"stream"


async def test_what_the_server_refuses_is_not_taken_for_nothing(
    url: str, keys: Keys, space: Keyspace, namespace: str
) -> None:
    """Somebody who may not read a key must not be told that it is empty."""
    user = f"user_of_{namespace}"
    rules = ("on", ">secret", "~*known_jobs", "+@all")
    await space.raw.execute_command("ACL", "SETUSER", user, *rules)
    settings = StoreSettings(url, options={"username": user, "password": "secret"})
    inspector = GocraftInspector(Store(settings), keys, space.clock)
    try:
        assert await inspector.queues() == []
        with pytest.raises(StoreRefused, match="NOPERM"):
            await inspector.jobs(State.DEAD)
        with pytest.raises(StoreRefused, match="NOPERM"):
            await inspector.pause(["wat"])
    finally:
        await inspector.close()
        await space.raw.execute_command("ACL", "DELUSER", user)


async def test_heartbeats_with_missing_and_odd_fields(inspector: GocraftInspector, space: Keyspace) -> None:
    raw, key = space.raw, space.key
    fields: dict[str, dict[str, str | bytes]] = {
        "a": {},
        "b": {"host": b"\xff", "pid": "many", "concurrency": "1e1", "heartbeat_at": "soon"},
        "c": {"job_names": ",b,,a", "worker_ids": ",", "heartbeat_at": "inf", "started_at": "9" * 5000},
        "d": {"heartbeat_at": str(space.clock.start - 7), "worker_ids": "w2,w1", "pid": "-1"},
    }
    await raw.sadd(key("worker_pools"), *fields)
    for pool, mapping in fields.items():
        if mapping:
            await raw.hset(key(f"worker_pools:{pool}"), mapping=mapping)
    a, b, c, d = await inspector.pools()
    assert (a.id, a.age, a.heartbeat_at, a.host, a.worker_ids) == ("a", None, 0, "", ())
    assert (b.age, b.host, b.pid, b.concurrency) == (None, "\ufffd", 0, 10)
    assert (c.age, c.job_names, c.worker_ids, c.started_at) == (None, ("a", "b"), (), 0)
    assert (d.age, d.worker_ids, d.pid) == (7.0, ("w1", "w2"), -1)

    await raw.hset(key("worker:w1"), mapping={"job_name": b"\xff", "started_at": "then"})
    await raw.hset(key("worker:w9"), mapping={"job_name": "of no pool"})
    (busy,) = await inspector.busy()
    assert (busy.worker_id, busy.pool_id, busy.job_name, busy.started_at) == ("w1", "d", "\ufffd", 0)


async def test_a_queue_whose_name_is_no_utf8(inspector: GocraftInspector, space: Keyspace) -> None:
    await space.raw.sadd(space.key("known_jobs"), b"\xff", "wat")
    await space.raw.lpush(space.key("jobs:").encode() + b"\xff", payload("1"))
    assert [(row.name, row.depth) for row in await inspector.queues()] == [("wat", 0), ("\ufffd", 1)]
    (row,) = await inspector.find("1")
    assert await inspector.delete([row]) == 1


# Queues.


async def test_queues(inspector: GocraftInspector, space: Keyspace) -> None:
    raw, key, now = space.raw, space.key, space.clock.start
    await raw.sadd(key("known_jobs"), "b", "a", "B", "é")
    await raw.lpush(key("jobs:a"), payload("1", t=now - 300), payload("2", t=now - 5))
    await raw.set(key("jobs:a:lock"), "2")
    await raw.set(key("jobs:a:max_concurrency"), "5")
    await raw.set(key("jobs:b:paused"), "")
    await raw.set(key("jobs:b:lock"), "odd")
    await raw.set(key("jobs:b:max_concurrency"), "0")
    space.clock.advance(0.5)
    assert [
        (row.name, row.depth, row.latency, row.paused, row.running, row.max_concurrency)
        for row in await inspector.queues()
    ] == [
        ("B", 0, 0.0, False, 0, None),
        ("a", 2, 300.5, False, 2, 5),
        ("b", 0, 0.0, True, 0, None),
        ("é", 0, 0.0, False, 0, None),
    ]


async def test_counts(inspector: GocraftInspector, space: Keyspace) -> None:
    assert await inspector.counts() == dict.fromkeys(State, 0)
    await space.raw.sadd(space.key("known_jobs"), "a", "b", "empty")
    await space.raw.lpush(space.key("jobs:a"), "1", "2")
    await space.raw.lpush(space.key("jobs:b"), "1")
    await space.raw.zadd(space.key("dead"), {"1": 1, "2": 2})
    await space.raw.zadd(space.key("retry"), {"1": 1})
    assert await inspector.counts() == {
        State.QUEUED: 3, State.SCHEDULED: 0, State.RETRY: 1, State.DEAD: 2
    }  # fmt: skip


async def test_ping(inspector: GocraftInspector) -> None:
    assert 0 < await inspector.ping() < 5


async def test_pause_and_resume(inspector: GocraftInspector, space: Keyspace) -> None:
    await space.raw.sadd(space.key("known_jobs"), "a", "b", "c")
    await inspector.pause(["a", "b"])
    assert await space.raw.get(space.key("jobs:a:paused")) == b"1"
    assert await space.raw.ttl(space.key("jobs:a:paused")) == -1
    assert [row.paused for row in await inspector.queues()] == [True, True, False]
    await inspector.resume({"a", "c"})
    await inspector.resume([])
    await inspector.pause([])
    assert [row.paused for row in await inspector.queues()] == [False, True, False]


# Pages.


async def fill(space: Keyspace, count: int) -> None:
    """Dead jobs 0, 1, 2, ...; every hundredth is named `rare`."""
    for start in range(0, count, 1000):
        jobs = {
            payload(str(i), name="wat" if i % 100 else "rare", err=f"e{i % 3}"): i
            for i in range(start, min(start + 1000, count))
        }
        await space.raw.zadd(space.key("dead"), jobs)


async def test_a_page_of_many_reads_only_that_page(
    inspector: GocraftInspector, space: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(space, 10_000)
    recorded = Recorded(inspector, monkeypatch)
    page = await inspector.jobs(State.DEAD, offset=9_000, limit=20)
    assert page.total == 10_000
    assert [row.id for row in page.rows] == [str(i) for i in range(9_000, 9_020)]
    assert (recorded.commands, recorded.sizes) == (["ZRANGE", "ZCARD"], [20])


async def test_a_large_page_comes_in_batches(
    inspector: GocraftInspector, space: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(space, 1_000)
    recorded = Recorded(inspector, monkeypatch)
    page = await inspector.jobs(State.DEAD, offset=100, limit=5_000)
    assert [row.id for row in page.rows] == [str(i) for i in range(100, 1_000)]
    assert max(recorded.sizes) <= admin.BATCH


async def test_a_filter_looks_no_further_than_its_page(
    inspector: GocraftInspector, space: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(space, 10_000)
    recorded = Recorded(inspector, monkeypatch)
    page = await inspector.jobs(State.DEAD, Filter(name="rare"), offset=2, limit=3)
    assert [row.id for row in page.rows] == ["200", "300", "400"]
    assert page.total == 401
    assert sum(recorded.sizes) <= 401 + admin.BATCH
    assert max(recorded.sizes) <= admin.BATCH

    page = await inspector.jobs(State.DEAD, Filter(name="rare"), offset=99, limit=3)
    assert ([row.id for row in page.rows], page.total) == (["9900"], 10_000)


async def test_what_filters_match(inspector: GocraftInspector, space: Keyspace) -> None:
    await fill(space, 300)
    await space.raw.zadd(space.key("dead"), {payload("x", args={"to": "ada@example.com"}): 1e9, b"odd": 2e9})

    async def ids(where: Filter = admin.ANY, queue: str | None = None) -> list[str]:
        return [row.id for row in await listed(inspector, State.DEAD, where=where, queue=queue, limit=999)]

    assert await ids(Filter(error="e2", name="rare")) == ["200"]
    assert await ids(Filter(id="7")) == ["7"]
    assert await ids(Filter(text="ada@")) == ["x"]
    assert await ids(Filter(error="undecodable")) == [""]
    assert await ids(queue="rare") == ["0", "100", "200"]
    assert await ids(Filter(error="e1"), queue="rare") == ["100"]
    assert await ids(Filter(name="nobody")) == []


async def test_the_edges_of_pages(inspector: GocraftInspector, space: Keyspace) -> None:
    await fill(space, 5)
    for offset, limit, ids in (
        (0, 0, ""),
        (5, 20, ""),
        (9, 20, ""),
        (4, 20, "4"),
        (-3, 2, "01"),
        (1, -1, ""),
    ):
        page = await inspector.jobs(State.DEAD, offset=offset, limit=limit)
        assert ("".join(row.id for row in page.rows), page.total) == (ids, 5)
        page = await inspector.jobs(State.DEAD, Filter(error="e"), offset=offset, limit=limit)
        assert "".join(row.id for row in page.rows) == ids


async def test_a_queue_shows_its_oldest_first(inspector: GocraftInspector, space: Keyspace) -> None:
    await space.raw.lpush(space.key("jobs:wat"), *(payload(str(i)) for i in range(600)))
    for offset, limit, ids in (
        (0, 3, [0, 1, 2]),
        (598, 9, [598, 599]),
        (600, 9, []),
        (0, 999, [*range(600)]),
    ):
        page = await inspector.jobs(State.QUEUED, queue="wat", offset=offset, limit=limit)
        assert ([int(row.id) for row in page.rows], page.total) == (ids, 600)
    page = await inspector.jobs(State.QUEUED, Filter(id="550"), queue="wat", limit=1)
    assert ([row.id for row in page.rows], page.total) == (["550"], 551)


async def test_queued_jobs_of_which_queue(inspector: GocraftInspector) -> None:
    with pytest.raises(ConfigError, match="which queue"):
        await inspector.jobs(State.QUEUED)


async def test_find(inspector: GocraftInspector, space: Keyspace, monkeypatch: pytest.MonkeyPatch) -> None:
    id = "periodic:wat:*/5 * * * * *:1700000000"
    raw, key = space.raw, space.key
    await fill(space, 2_000)
    await raw.sadd(key("known_jobs"), "wat", "other")
    await raw.rpush(key("jobs:other"), payload("a"), payload(id, name="other"), payload("b"))
    await raw.zadd(key("scheduled"), {payload(id).replace(b"/", rb"\/"): 5})  # as Redis' cjson writes it
    await raw.zadd(key("dead"), {payload("x", args={"parent": id}): 6, payload(id, t=1.5): 7})
    recorded = Recorded(inspector, monkeypatch)
    found = await inspector.find(id)
    assert [(row.state, row.queue, row.readable) for row in found] == [
        (State.SCHEDULED, "wat", True), (State.DEAD, "wat", False), (State.QUEUED, "other", True)
    ]  # fmt: skip
    assert max(recorded.sizes) <= admin.BATCH
    assert await inspector.find("nobody") == []
