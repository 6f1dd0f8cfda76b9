"""Golden vectors of the requeuers: what becomes of members of `retry` and `scheduled` when they are due.

Go's requeuers decode and encode in Lua. Where that keeps the values, the same must come out here; where it
does not (quirk 2), or loses the job or stops at it (quirk 3), nothing may be damaged, lost or stuck.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from keyspace import Keyspace, State, golden, state
from vectors import Vector

from packhorse.protocols.gocraft import codec
from packhorse.protocols.gocraft.keys import Keys
from packhorse.protocols.gocraft.mover import Mover, Rescuer
from packhorse.store import Link


class Pass:
    """One pass of the requeuer that a vector speaks of, over the members that it starts from."""

    def __init__(self, vector: Vector, space: Keyspace, keys: Keys, link: Link) -> None:
        self.before = state(vector, "before") if vector.get("states") else State([])
        self.source = "retry" if self.before.names() == {"ns:retry"} else "scheduled"
        (listed,) = re.findall(r"job types \[(.*)\]", vector["go_call"])
        source = space.key(self.source)
        self._mover = Mover(link, keys, source, frozenset(listed.split()), space.clock)
        self._space = space

    async def run(self) -> int:
        await self._space.plant(self.before)
        return await self._mover.move_due()


@pytest.fixture
def requeue(vector: Vector, space: Keyspace, keys: Keys, link: Link) -> Pass:
    return Pass(vector, space, keys, link)


SAME_VALUES = [
    "scheduled_to_queue", "retry_to_queue", "unique_to_queue", "duplicate_keys", "control_chars",
    "poison_sparse_array",
]  # fmt: skip


@golden("requeuer", *SAME_VALUES)
async def test_a_due_job_is_moved_with_its_values(vector: Vector, requeue: Pass, space: Keyspace) -> None:
    assert await requeue.run() == vector["facts"]["moved"]
    await space.becomes(state(vector), parsed=True)


@golden("requeuer", "invalid_utf8_bytes")
async def test_bytes_that_are_no_text_pass_through(vector: Vector, requeue: Pass, space: Keyspace) -> None:
    assert await requeue.run() == vector["facts"]["moved"]
    # The second of the capture is inside the base64 here.
    (theirs,) = state(vector)["ns:jobs:wat"]
    moved = re.sub(rb'"t":\d+', b'"t":<T>', base64.b64decode(theirs["b64"]))
    wanted = [{"b64": base64.b64encode(moved).decode()}]
    await space.becomes(State([]).having("ns:jobs:wat", "list", wanted), parsed=True)


@golden("requeuer", "numbers", "arrays_objects", quirk=2)
async def test_a_move_changes_nothing_but_the_second(vector: Vector, requeue: Pass, space: Keyspace) -> None:
    """Go keeps 14 digits of a number and makes `{}` of `[]`."""
    assert await requeue.run() == vector["facts"]["moved"]
    ((member, _),) = [(m["member"], m["score"]) for m in requeue.before["ns:scheduled"]]
    moved = member.replace('"t":1700000000', '"t":<T>')
    assert json.loads(moved.replace("<T>", "0"))["args"] != json.loads(theirs(vector))["args"]
    await space.becomes(State([]).having("ns:jobs:wat", "list", [moved]))


def theirs(vector: Vector) -> str:
    (moved,) = state(vector)["ns:jobs:wat"]
    return str(moved).replace("<T>", "0")


@golden("requeuer", "unknown_to_dead", quirk=5)
async def test_a_name_that_this_pool_does_not_know_stays(vector: Vector, requeue: Pass, space: Keyspace) -> None:
    """Go declares it dead, even when another pool would run it."""
    assert await requeue.run() == 1
    unknown, foo = requeue.before["ns:scheduled"]
    moved = foo["member"].replace('"t":1700000000', '"t":<T>')
    assert json.loads(moved.replace("<T>", "0")) == json.loads(state(vector)["ns:jobs:foo"][0].replace("<T>", "0"))
    await space.becomes(State([]).having("ns:scheduled", "zset", [unknown]).having("ns:jobs:foo", "list", [moved]))


@golden("requeuer", "unknown_to_dead", quirk=5)
async def test_a_name_that_any_pool_knows_is_moved(vector: Vector, requeue: Pass, space: Keyspace) -> None:
    await space.raw.sadd(space.key("known_jobs"), "wat")
    assert await requeue.run() == vector["facts"]["moved"] == 2
    assert await space.members("dead") == []
    assert len(await space.items("jobs:wat")) == len(await space.items("jobs:foo")) == 1


@golden("requeuer", "unknown_to_dead", quirk=5)
async def test_a_pool_that_has_the_handler_takes_the_job_back_from_dead(
    vector: Vector, space: Keyspace, keys: Keys, link: Link
) -> None:
    await space.plant(state(vector).without("ns:jobs:foo"))
    assert await Rescuer(link, keys, frozenset({"wat"}), space.clock).rescue() == 1
    await space.becomes(State([]).having("ns:jobs:wat", "list", ['{"name":"wat","id":"sched1","t":<T>,"args":null}']))


# What Go's requeuers lose, or stop at: vector -> what the dead job must say.

UNREADABLE = {
    "poison_nan": "JSON is malformed",
    "poison_infinity": "JSON is malformed",
    "poison_not_json": "JSON is malformed",
    "poison_1e400": "out of range",
    "poison_huge_int": "too large",
    "poison_no_name": "no name",
    "poison_not_object": "Expected `object`",
}


@golden("requeuer", *UNREADABLE, quirk=3)
async def test_a_member_that_is_no_job_is_kept_in_dead_and_stops_nothing(
    vector: Vector, requeue: Pass, space: Keyspace
) -> None:
    await requeue.run()
    bad, *later = [item["member"] for item in requeue.before["ns:scheduled"]]
    assert await space.members("scheduled") == []
    assert [job["args"] for job in map(json.loads, await space.items("jobs:wat"))] == [{"later": 1}] * len(later)
    ((kept, score),) = await space.members("dead")
    assert score == space.clock.start
    assert codec.unwrapped(kept) == bad.encode()
    assert UNREADABLE[vector["name"]] in codec.decode(kept, "").last_error


@golden("requeuer", "poison_lone_surrogate", quirk=3)
async def test_half_a_surrogate_pair_is_moved_for_a_worker_to_read(
    vector: Vector, requeue: Pass, space: Keyspace
) -> None:
    """Go's worker reads it as U+FFFD, and so does ours; only Redis' cjson stops at it."""
    assert await requeue.run() == 2
    assert await space.members("scheduled") == []
    later, half = [codec.decode(raw, "wat").args for raw in await space.items("jobs:wat")]
    assert (half, later) == ({"a": "\ufffd"}, {"later": 1})


def nested(levels: int) -> Any:
    return f'{{"name":"wat","id":"deep","t":1700000000,"args":{{"a":{"[" * levels}{"]" * levels}}}}}'


@golden("requeuer", "deep_900")
async def test_900_levels_are_moved(vector: Vector, requeue: Pass, space: Keyspace) -> None:
    requeue.before = State([]).having("ns:scheduled", "zset", [{"member": nested(900), "score": "<T-100>"}])
    assert await requeue.run() == vector["facts"]["moved"] == 1
    moved = nested(900).replace("1700000000", "<T>")
    await space.becomes(State([]).having("ns:jobs:wat", "list", [moved]))


@golden("requeuer", "poison_deep", quirk=3)
async def test_1001_levels_stop_nothing(vector: Vector, requeue: Pass, space: Keyspace) -> None:
    requeue.before = State([]).having("ns:scheduled", "zset", [{"member": nested(1001), "score": "<T-100>"}])
    assert await requeue.run() == 1
    assert await space.members("scheduled") == []
    ((kept, _),) = await space.members("dead")
    assert codec.unwrapped(kept) == nested(1001).encode()
