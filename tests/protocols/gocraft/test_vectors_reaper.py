"""Golden vectors of the reaper: what becomes of pools that are dead.

Go compares a stamp with its own clock; here a heartbeat is watched, and dead when it stands still for ten
seconds. The outcome is the same, key by key, except where Go leaves jobs behind (quirk 7).
"""

from __future__ import annotations

import json
import re

import pytest
from keyspace import FakeClock, Held, Keyspace, State, golden, holding, poke, state, working
from tests.support import eventually
from vectors import Vector

from packhorse import App, ConfigError
from packhorse.protocols.gocraft.keys import Keys
from packhorse.protocols.gocraft.reaper import LEFT_BEHIND, Reaper
from packhorse.protocols.gocraft.upkeep import Heartbeat, Observer
from packhorse.store import Link


class Watch:
    """The reaper of a pool that has just started."""

    def __init__(self, link: Link, keys: Keys, names: set[str], clock: FakeClock) -> None:
        self._reaper = Reaper(link, keys, "me", frozenset(names), clock)
        self._clock = clock

    async def watch(self, seconds: float) -> None:
        await self._reaper.run_once()
        self._clock.advance(seconds)
        await self._reaper.run_once()


@pytest.fixture
def reaper(request: pytest.FixtureRequest, link: Link, keys: Keys) -> Watch:
    vector = request.getfixturevalue("vector") if "vector" in request.fixturenames else {}
    listed = re.findall(r"job types \[(.*)\]", vector.get("go_call", ""))
    return Watch(link, keys, set(" ".join(listed).split()), FakeClock())


J1 = '{"name":"wat","id":"j1","t":1700000000,"args":null}'


@golden(
    "reaper", "order_of_requeue", "ten_seconds_is_dead", "empty_job_names", "stale_lock_larger_than_lock",
    "lock_key_missing", "negative_lock_info", "unknown_job_type_of_dead_pool",
)  # fmt: skip
async def test_a_dead_pool(vector: Vector, reaper: Watch, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    await reaper.watch(10)
    await space.becomes(state(vector, "after"))


@golden("reaper", "alive_pool_untouched")
async def test_a_pool_whose_heart_beats_is_left_alone(vector: Vector, reaper: Watch, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    await reaper.watch(9)
    await space.becomes(state(vector, "after"))
    for beat in range(3):
        await space.raw.hset(space.key("worker_pools:alive"), "heartbeat_at", space.clock.start + beat)
        await reaper.watch(9)
    assert await space.items("jobs:wat") == []


# Pools that Go's reaper cannot help.


@golden("reaper", "pool_without_heartbeat", quirk=7)
async def test_jobs_of_a_pool_without_a_heartbeat_are_found(vector: Vector, reaper: Watch, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    await reaper.watch(10)
    wanted = state(vector, "after").without("ns:jobs:wat:ghost:inprogress")
    await space.becomes(wanted.having("ns:jobs:wat", "list", [J1]))


@golden("reaper", "heartbeat_without_job_names", quirk=7)
async def test_a_heartbeat_need_not_tell_the_names(vector: Vector, reaper: Watch, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    await reaper.watch(10)
    await space.becomes(freed())


@golden("reaper", "heartbeat_not_a_number", quirk=7)
async def test_a_heartbeat_that_is_no_number_stops_nothing(vector: Vector, reaper: Watch, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    await reaper.watch(10)
    await space.becomes(freed())


@golden("reaper", "wrong_type_stops_requeue_loses_pool", quirk=7)
async def test_a_key_of_a_wrong_type_strands_no_job(vector: Vector, reaper: Watch, space: Keyspace) -> None:
    await space.plant(state(vector, "before"))
    await reaper.watch(10)
    await space.becomes(freed().having("ns:jobs:aaa:deadpool:inprogress", "string", "not a list"))


def freed() -> State:
    """The one job waits again, its lock is free, and nothing is left of the pool."""
    return State([]).having("ns:jobs:wat", "list", [J1]).having("ns:jobs:wat:lock", "string", "0")


@golden("reaper", "order_of_requeue")
async def test_a_queue_of_a_wrong_type_keeps_its_jobs_and_no_others(
    vector: Vector, reaper: Watch, space: Keyspace
) -> None:
    before = state(vector, "before")
    await space.plant(before.having("ns:jobs:foo", "string", "no list"))
    await reaper.watch(10)
    await reaper.watch(10)
    assert len(await space.items("jobs:wat")) == 5
    assert len(await space.items("jobs:foo:deadpool:inprogress")) == 1
    assert await space.raw.smembers(space.key("worker_pools")) == {b"deadpool"}

    await space.raw.delete(space.key("jobs:foo"))
    await reaper.watch(10)
    await space.becomes(state(vector, "after"))


@golden("fault", "job_name_with_comma", quirk=7)
async def test_a_name_with_a_comma_is_refused_and_yet_recovered(
    vector: Vector, reaper: Watch, space: Keyspace, still_app: App
) -> None:
    with pytest.raises(ConfigError, match="comma"):
        still_app.job(name="a,b")(print)
    await space.plant(state(vector, "before"))
    await reaper.watch(10)
    (waiting,) = state(vector, "before")["ns:jobs:a,b:deadpool:inprogress"]
    await space.becomes(State([]).having("ns:jobs:a,b", "list", [waiting]).having("ns:jobs:a,b:lock", "string", "0"))


@golden("worker", "unique_by_key_dup_leaks_in_progress", quirk=4)
async def test_what_a_go_pool_has_done_and_left_in_its_list_does_not_run_again(
    vector: Vector, reaper: Watch, space: Keyspace
) -> None:
    """Go's pool is gone, its list stays: the job in it was replaced by a newer one, which has run."""
    after = state(vector)
    await space.plant(after)
    await reaper.watch(10)
    assert await space.items("jobs:wat") == []
    ((kept, _),) = await space.members("dead")
    assert LEFT_BEHIND in json.loads(kept)["err"]
    assert json.loads(kept)["args"] == {"a": "old"}
    assert await space.raw.get(space.key("jobs:wat:lock")) == b"0"
    assert not await space.raw.exists(space.key("jobs:wat:lock_info"))


@golden("worker", "unique_by_key_dup_leaks_in_progress", quirk=4)
async def test_a_job_that_holds_its_lock_was_not_done(vector: Vector, reaper: Watch, space: Keyspace) -> None:
    await space.plant(state(vector).having("ns:jobs:wat:lock_info", "hash", [["<POOL_1>", "1"]]))
    await reaper.watch(10)
    assert len(await space.items("jobs:wat")) == 1
    assert await space.members("dead") == []


async def test_a_pool_that_signed_off_is_not_taken_for_dead(
    reaper: Watch, space: Keyspace, caplog: pytest.LogCaptureFixture
) -> None:
    await space.raw.sadd(space.key("worker_pools"), "other")
    await space.raw.hset(space.key("worker_pools:other"), "heartbeat_at", space.clock.start)
    await space.raw.lpush(space.key("jobs:wat:other:inprogress"), J1)
    await reaper.watch(5)
    await space.raw.delete(
        space.key("worker_pools"), space.key("worker_pools:other"), space.key("jobs:wat:other:inprogress")
    )
    await reaper.watch(10)
    assert caplog.messages == []


async def test_queues_that_look_like_lists_of_pools_are_left_alone(reaper: Watch, space: Keyspace) -> None:
    for name in ("x:inprogress", "x:y:inprogress"):
        await space.raw.lpush(space.key(f"jobs:{name}"), J1)
        await space.raw.sadd(space.key("known_jobs"), name)
    await reaper.watch(10)
    assert await space.items("jobs:x:inprogress") == await space.items("jobs:x:y:inprogress") == [J1.encode()]
    assert await space.items("jobs:x") == []


# With pools that run.


@golden("reaper", "killed_pool_recovered_by_real_pool")
async def test_the_job_of_a_killed_pool_is_found_by_a_pool_that_starts(
    vector: Vector, still_app: App, space: Keyspace, clock: FakeClock
) -> None:
    holding(still_app)
    await space.plant(state(vector, "child killed"))
    await space.becomes(state(vector, "child killed"))
    async with working(still_app, space, concurrency=1) as pool:
        (reaper,) = [service for service in pool._services if isinstance(service, Reaper)]
        await eventually(lambda: reaper._seen)
        clock.advance(10)
        reaper.poke()
        await space.becomes(state(vector, "after the reap pass"))


@golden("reaper", "stopped_pool_comes_back", quirk=7)
async def test_a_pool_that_comes_back_does_not_touch_what_was_taken_from_it(
    vector: Vector, still_app: App, space: Keyspace, clock: FakeClock, link: Link, keys: Keys
) -> None:
    """Go's late ack takes the lock below zero, and from then on one job too many may run."""
    clock.advance(0.5)
    held: Held = holding(still_app)
    await still_app.client.enqueue_async("wat", {"n": 1})
    async with working(still_app, space, concurrency=1) as pool:
        await held.has_started()
        await space.raw.set(space.key("jobs:wat:paused"), "1")
        poke(pool, Observer)
        await space.becomes(state(vector, "child stopped"))

        # The heart beats, but the hour stands still: for others the pool has stopped.
        other = Watch(link, keys, {"wat"}, FakeClock())
        await other.watch(10)
        await space.becomes(state(vector, "reaped"))

        poke(pool, Heartbeat)
        await space.becomes(state(vector, "child continued"))

        held.let_go()
        await eventually(lambda: pool.stats.lost == 1)
        poke(pool, Observer)
        wanted = state(vector, "child finished").without("ns:jobs:wat:lock_info", "ns:worker:<WORKER_1>")
        await space.becomes(wanted.having("ns:jobs:wat:lock", "string", "0"))
    wanted = state(vector, "child stopped cleanly").without("ns:jobs:wat:lock_info")
    await space.becomes(wanted.having("ns:jobs:wat:lock", "string", "0"))
