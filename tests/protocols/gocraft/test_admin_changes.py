"""What people change in the gocraft layout: a job is touched only if it still is what was listed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from keyspace import Keyspace

from packhorse import App
from packhorse.protocols.gocraft import admin, codec
from packhorse.protocols.gocraft.admin import GocraftInspector
from packhorse.protocols.inspect import Filter, JobRow, State
from packhorse.store import Reply

NUMBERS = b'{"z":[],"id":9007199254740993,"f":0.30000000000000004,"e":1e2,"s":"\xe2\x80\xa8</>"}'


def payload(id: str, args: bytes = b"null", extra: str = "", name: str = "wat") -> bytes:
    return b'{"name":"%b","id":"%b","t":1,"args":%b%b}' % (name.encode(), id.encode(), args, extra.encode())


def unique(space: Keyspace, id: str, args: bytes = b"null", extra: str = "", key: str | None = None) -> bytes:
    """A unique job; its key is the one of `wat` and `key` in this namespace."""
    suffix = (args.decode() + "\n" if args != b"null" else "") if key is None else key
    text = json.dumps(space.key(f"unique:wat:{suffix}"))
    return payload(id, args, f',"unique":true,"unique_key":{text}{extra}')


async def listed(inspector: GocraftInspector, state: State, **asked: Any) -> list[JobRow]:
    return list((await inspector.jobs(state, limit=9999, **asked)).rows)


async def know(space: Keyspace, *names: str) -> None:
    await space.raw.sadd(space.key("known_jobs"), *names)


async def hold(space: Keyspace, *suffixes: str) -> list[str]:
    """Make unique keys of `wat`."""
    keys = [space.key(f"unique:wat:{suffix}") for suffix in suffixes]
    for key in keys:
        await space.raw.set(key, 1, ex=86400)
    return keys


async def held(space: Keyspace) -> set[str]:
    prefix = space.key("unique:wat:")
    return {key.decode().removeprefix(prefix) async for key in space.raw.scan_iter(match=f"{prefix}*")}


# Retry.


FAILED = ',"fails":3,"err":"oops","failed_at":7,"trace":"t1"'


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        (State.DEAD, ',"trace":"t1"'),
        (State.RETRY, ',"fails":3,"trace":"t1"'),
        (State.SCHEDULED, FAILED),
    ],
)
async def test_retry_keeps_the_args_as_they_are(
    state: State, kept: str, inspector: GocraftInspector, space: Keyspace
) -> None:
    """Go's client sends them through cjson, which damages every one of these (quirk 2)."""
    await know(space, "wat")
    await space.raw.zadd(space.key(state.value), {payload("1", NUMBERS, FAILED): 5, payload("2", extra=FAILED): 6})
    assert await inspector.retry(await listed(inspector, state)) == 2
    assert await space.raw.zcard(space.key(state.value)) == 0
    wanted = [payload("2", extra=kept), payload("1", NUMBERS, kept)]
    t = b'"t":%d' % space.clock.start
    assert await space.items("jobs:wat") == [raw.replace(b'"t":1', t) for raw in wanted]


async def test_retry_of_many_keeps_their_order(inspector: GocraftInspector, space: Keyspace) -> None:
    await know(space, "wat", "other")
    jobs = {payload(str(i), name="wat" if i % 2 else "other"): i for i in range(2 * admin.BATCH + 10)}
    await space.raw.zadd(space.key("dead"), jobs)
    assert await inspector.retry(await listed(inspector, State.DEAD)) == len(jobs)
    assert [json.loads(raw)["id"] for raw in reversed(await space.items("jobs:other"))] == [
        str(i) for i in range(0, len(jobs), 2)
    ]


async def test_retry_leaves_what_it_cannot_retry(inspector: GocraftInspector, space: Keyspace) -> None:
    """Unknown names, unreadable ones, a queue that is none; those beside them go."""
    await know(space, "wat", "broken")
    await space.raw.set(space.key("jobs:broken"), "a string")
    left = [payload("1", name="other"), b'{"name":"wat","id":"2","t":1.5,"args":null}', b"not json",
            payload("3", name="broken"), payload("4", name="")]  # fmt: skip
    members = dict.fromkeys([*left, payload("5")], 5)
    await space.raw.zadd(space.key("dead"), members)
    await space.raw.lpush(space.key("jobs:wat"), payload("queued"))
    queued = await listed(inspector, State.QUEUED, queue="wat")
    assert await inspector.retry(await listed(inspector, State.DEAD)) == 1
    assert await inspector.retry(queued) == 0
    assert {raw for raw, score in await space.members("dead") if score == 5} == set(left)
    assert await space.raw.llen(space.key("jobs:wat")) == 2


@pytest.mark.parametrize("change", ["gone", "other bytes"])
async def test_retry_and_delete_of_a_row_that_has_changed(
    change: str, inspector: GocraftInspector, space: Keyspace
) -> None:
    await know(space, "wat")
    args = b'{"a":1}'
    await hold(space, '{"a":1}\n')
    for name in ("scheduled", "retry", "dead"):
        await space.raw.zadd(space.key(name), {unique(space, name, args): 5, payload("beside"): 5})
    await space.raw.rpush(space.key("jobs:wat"), unique(space, "queued", args), payload("beside"))
    rows = [row for state in State for row in await listed(inspector, state, where=Filter(id=state.value), queue="wat")]
    assert len(rows) == 4
    for name in ("scheduled", "retry", "dead"):
        await space.raw.zrem(space.key(name), unique(space, name, args))
        if change == "other bytes":
            await space.raw.zadd(space.key(name), {unique(space, name, args, ',"fails":1'): 5})
        await space.raw.lpop(space.key("jobs:wat"))
    before = await space.dump()
    assert await inspector.retry(rows) == 0
    assert await inspector.delete(rows) == 0
    assert await space.dump() == before


async def test_the_same_row_twice_counts_once(inspector: GocraftInspector, space: Keyspace) -> None:
    await know(space, "wat")
    await space.raw.zadd(space.key("dead"), {payload("1"): 5})
    await space.raw.rpush(space.key("jobs:other"), payload("2"), payload("3"), payload("2"))
    (row,) = await listed(inspector, State.DEAD)
    assert await inspector.retry([row, row]) == 1
    (first, *_) = await listed(inspector, State.QUEUED, queue="other")
    assert await inspector.delete([first]) == 1
    assert await space.items("jobs:other") == [payload("2"), payload("3")]
    assert await inspector.delete([first, first, first]) == 1


# Retry of what was set aside.


async def test_a_wrapped_payload_is_shown_and_goes_back_as_it_was(inspector: GocraftInspector, space: Keyspace) -> None:
    await know(space, "wat")
    odd = b'{"name":"wat","id":"1","t":1.5,"args":\xff'
    await space.raw.zadd(space.key("dead"), {codec.wrapped(odd, "wat", "it is cut off", 9): 9})
    (row,) = await listed(inspector, State.DEAD)
    assert (row.readable, row.name, row.queue) == (True, "wat", "wat")
    assert row.id.startswith("bad-")
    assert row.error == "undecodable payload: it is cut off"
    assert await inspector.retry([row]) == 1
    assert await space.items("jobs:wat") == [odd]
    assert await space.raw.zcard(space.key("dead")) == 0


async def test_a_payload_set_aside_by_a_mover_goes_to_the_queue_that_it_names(
    inspector: GocraftInspector, space: Keyspace
) -> None:
    """It had not come to a queue when it was wrapped."""
    await know(space, "wat")
    odd = b'{"name":"wat","id":"1","t":1.5,"args":null}'
    nameless = b'{"id":"1","t":1,"args":null}'
    wraps = {codec.wrapped(raw, "", "odd", 9): 9 for raw in (odd, nameless, b"not json")}
    await space.raw.zadd(space.key("dead"), wraps)
    assert await inspector.retry(await listed(inspector, State.DEAD)) == 1
    assert await space.items("jobs:wat") == [odd]
    assert await space.raw.zcard(space.key("dead")) == 2


async def test_a_wrapped_payload_that_cannot_be_put_back_stays(inspector: GocraftInspector, space: Keyspace) -> None:
    await know(space, "wat")
    too_large = codec.wrapped(b"x" * (codec.MAX_RAW_KEPT + 1), "wat", "odd", 9)
    unknown = codec.wrapped(b"odd", "other", "odd", 9)
    good = codec.wrapped(b"odd", "wat", "odd", 9)
    damaged = good.replace(base64.b64encode(b"odd"), b"%%%%")
    assert damaged != good
    await space.raw.zadd(space.key("dead"), dict.fromkeys((too_large, unknown, damaged), 9))
    rows = await listed(inspector, State.DEAD)
    assert [row.readable for row in rows] == [True] * 3
    assert await inspector.retry(rows) == 0
    assert await inspector.delete(rows) == 3


async def test_a_job_with_such_an_argument_is_a_job(inspector: GocraftInspector, space: Keyspace) -> None:
    await know(space, "wat")
    args = b'{"packhorse_raw_b64":"b2Rk","packhorse_queue":"other"}'
    await space.raw.zadd(space.key("dead"), {payload("1", args): 9})
    assert await inspector.retry(await listed(inspector, State.DEAD)) == 1
    (raw,) = await space.items("jobs:wat")
    assert json.loads(raw)["args"] == json.loads(args)


# Delete.


@pytest.mark.parametrize("state", list(State))
async def test_delete_frees_the_key_of_a_unique_job_that_has_not_run(
    state: State, inspector: GocraftInspector, space: Keyspace
) -> None:
    """One that has failed has lost its key; the one that is there belongs to a newer job (quirk 10)."""
    waiting = unique(space, "1", b'{"a":1}')
    failed = unique(space, "2", b'{"a":2}', ',"fails":1,"err":"x","failed_at":3')
    beside = unique(space, "3", b'{"a":3}')
    await hold(space, '{"a":1}\n', '{"a":2}\n', '{"a":3}\n')
    if state is State.QUEUED:
        await space.raw.rpush(space.key("jobs:wat"), waiting, failed, beside)
    else:
        await space.raw.zadd(space.key(state.value), {waiting: 1, failed: 2, beside: 3})
    rows = [row for row in await listed(inspector, state, queue="wat") if row.id != "3"]
    assert await inspector.delete(rows) == 2
    assert [row.id for row in await listed(inspector, state, queue="wat")] == ["3"]
    assert await held(space) == {'{"a":2}\n', '{"a":3}\n'}


BY_ARGS = [
    (b"null", ""),
    (b"{}", "{}\n"),
    (b'{"b":[1,{}],"a":"<"}', '{"a":"\\u003c","b":[1,{}]}\n'),
    (b'{"n":12345678901234567}', '{"n":12345678901234567}\n'),
    (b'{"n":1.50}', '{"n":1.5}\n'),
]


@pytest.mark.parametrize("field", ["missing", "foreign"])
@pytest.mark.parametrize(("args", "key"), BY_ARGS)
async def test_a_key_that_the_job_does_not_name_is_computed(
    field: str, args: bytes, key: str, inspector: GocraftInspector, space: Keyspace
) -> None:
    """A payload may name any key; only unique keys of this namespace are believed."""
    victim = space.key("jobs:victim")
    await space.raw.lpush(victim, "x")
    named = "" if field == "missing" else f',"unique_key":{json.dumps(victim)}'
    await hold(space, key, "of another job")
    await space.raw.zadd(space.key("scheduled"), {payload("1", args, f',"unique":true{named}'): 5})
    assert await inspector.delete(await listed(inspector, State.SCHEDULED)) == 1
    assert await held(space) == {"of another job"}
    assert await space.raw.llen(victim) == 1


async def test_a_key_that_the_job_names_is_the_one(inspector: GocraftInspector, space: Keyspace) -> None:
    """It was unique by a key of its own, so that the one of its args belongs to another job."""
    await hold(space, '{"k":"\u00e9"}\n', '{"a":1}\n')
    await space.raw.zadd(space.key("scheduled"), {unique(space, "1", b'{"a":1}', key='{"k":"\u00e9"}\n'): 5})
    assert await inspector.delete(await listed(inspector, State.SCHEDULED)) == 1
    assert await held(space) == {'{"a":1}\n'}


async def test_delete_of_a_unique_job_whose_args_make_no_key(inspector: GocraftInspector, space: Keyspace) -> None:
    deep = b'{"a":' * 500 + b"1" + b"}" * 500
    await space.raw.zadd(space.key("scheduled"), {payload("1", deep, ',"unique":true'): 5})
    assert await inspector.delete(await listed(inspector, State.SCHEDULED)) == 1


async def test_delete_of_many_in_several_places(inspector: GocraftInspector, space: Keyspace) -> None:
    await know(space, "a", "b")
    ids = [str(i) for i in range(admin.BATCH + 7)]
    for name in ("a", "b"):
        await space.raw.rpush(space.key(f"jobs:{name}"), *(payload(id, name=name) for id in ids))
    for name in ("scheduled", "retry", "dead"):
        await space.raw.zadd(space.key(name), {payload(id): int(id) for id in ids})
    rows = [
        *await listed(inspector, State.DEAD), *await listed(inspector, State.QUEUED, queue="a"),
        *await listed(inspector, State.RETRY), *await listed(inspector, State.QUEUED, queue="b"),
        *await listed(inspector, State.SCHEDULED),
    ]  # fmt: skip
    assert await inspector.delete([row for row in rows if row.id != "5"]) == 5 * (len(ids) - 1)
    assert [row.id for row in await inspector.find("5")] == ["5"] * 5
    assert sum((await inspector.counts()).values()) == 5


# Purge.


async def test_purge(inspector: GocraftInspector, space: Keyspace) -> None:
    await know(space, "wat")
    queued = [unique(space, str(i), b'{"n":%d}' % i) for i in range(600)]
    failed = unique(space, "f", b'{"f":1}', ',"fails":1')
    await space.raw.rpush(space.key("jobs:wat"), *queued, b"not json", failed, payload("plain"))
    await hold(space, *(f'{{"n":{i}}}\n' for i in range(601)), '{"f":1}\n')
    await space.raw.zadd(space.key("dead"), {payload("1"): 1})
    assert await inspector.purge("wat") == 603
    assert await held(space) == {'{"n":600}\n', '{"f":1}\n'}
    assert [(row.name, row.depth) for row in await inspector.queues()] == [("wat", 0)]
    assert await space.raw.zcard(space.key("dead")) == 1
    assert [key async for key in space.raw.scan_iter(match=space.key("packhorse:*"))] == []
    assert await inspector.purge("wat") == 0


async def test_purge_spares_what_is_enqueued_meanwhile(
    inspector: GocraftInspector, still_app: App, space: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also an equal unique job, as soon as the key of the purged one is free, and at most once."""
    client = still_app.client
    await client.enqueue_async("wat", {"a": 1}, unique=True)
    await client.enqueue_async("wat")
    duplicates: list[bool] = []
    call = inspector._link.call

    async def busy_call(*commands: tuple[Any, ...]) -> list[Reply]:
        replies = await call(*commands)
        receipt = await client.enqueue_async("wat", {"a": 1}, unique=True)
        duplicates.append(receipt.duplicate)
        return replies

    monkeypatch.setattr(inspector._link, "call", busy_call)
    assert await inspector.purge("wat") == 2
    # Put aside; read; freed; deleted.
    assert duplicates == [True, True, False, True]
    assert await space.raw.llen(space.key("jobs:wat")) == 1
    assert await held(space) == {'{"a":1}\n'}


async def test_a_purge_that_is_cut_short_leaves_nothing_for_ever(
    inspector: GocraftInspector, space: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    await space.raw.rpush(space.key("jobs:wat"), payload("1"))

    async def cut(*command: Any) -> Reply:
        if command[0] != "EVALSHA":
            raise ConnectionError
        return (await inspector._link.call(command))[0]

    monkeypatch.setattr(inspector._link, "one", cut)
    with pytest.raises(ConnectionError):
        await inspector.purge("wat")
    (aside,) = [key async for key in space.raw.scan_iter(match=space.key("packhorse:*"))]
    assert 0 < await space.raw.ttl(aside) <= admin.PURGED_TTL


# With a pool.


async def test_a_paused_queue_waits_and_a_retried_job_runs(
    inspector: GocraftInspector, still_app: App, space: Keyspace
) -> None:
    ran: list[str] = []

    @still_app.job(name="wat")
    async def wat(x: str) -> None:
        ran.append(x)

    await space.raw.zadd(space.key("dead"), {payload("1", b'{"x":"dead"}', FAILED): 5})
    async with still_app.worker(concurrency=1) as pool:
        await pool.drain()
        await inspector.pause(["wat"])
        await still_app.client.enqueue_async("wat", {"x": "queued"})
        await pool.drain()
        assert ran == []
        assert await inspector.retry(await listed(inspector, State.DEAD)) == 1
        (row,) = await inspector.queues()
        assert (row.paused, row.depth, row.running) == (True, 2, 0)
        (beat,) = await inspector.pools()
        assert (beat.job_names, beat.concurrency, beat.age) == (("wat",), 1, 0.0)
        await inspector.resume(["wat"])
        await pool.drain()
    assert ran == ["queued", "dead"]
    assert await inspector.pools() == []
