"""Golden vectors of the periodic enqueuer: which entries a pass adds. All pools must add the same bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from keyspace import FakeClock, Keyspace, golden, nothing, state, working
from vectors import Vector

from packhorse import App
from packhorse.protocols.gocraft.keys import Keys
from packhorse.protocols.gocraft.mover import Mover
from packhorse.protocols.gocraft.periodic import Periodic
from packhorse.store import Link

NOW = 1468359453
EVERY_MINUTE = "0 * * * * *"

#: Vector -> (the second of its pass, its specs and job names).
PASSES: dict[str, tuple[int, list[tuple[str, str]]]] = {
    "three_specs": (NOW, [("0/29 * * * * *", "foo"), ("3/49 * * * * *", "bar"), ("* * * 2 * *", "baz")]),
    "five_fields": (NOW, [("*/2 * * * *", "p")]),
    "spec_text_kept": (
        NOW,
        [("  */30   *  * * * MON-sat  ", "a<b>"), ("CRON_TZ=Asia/Tokyo 0 * * * * *", "tz")],
    ),
    "boundaries": (1468359480, [(EVERY_MINUTE, "p")]),
    "no_jobs": (NOW, []),
    "descriptor_none_in_window": (NOW, [("@daily", "p")]),
}


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@golden("periodic", *PASSES)
async def test_one_pass(vector: Vector, space: Keyspace, keys: Keys, link: Link, clock: FakeClock) -> None:
    now, specs = PASSES[vector["name"]]
    clock.start = now
    await Periodic(link, keys, tuple(specs), clock).enqueue()
    await space.becomes(state(vector))


@golden("periodic", "second_pass_same_bytes")
async def test_a_second_pass_adds_what_is_new(
    vector: Vector, space: Keyspace, keys: Keys, link: Link, clock: FakeClock
) -> None:
    service = Periodic(link, keys, ((EVERY_MINUTE, "p"),), clock)
    await service.enqueue()
    await space.becomes(state(vector, "first"))
    clock.advance(30)
    await service.enqueue()
    await space.becomes(state(vector, "second"))


@golden("periodic", "every_duplicates", quirk=6)
async def test_every_fires_at_the_same_seconds_whenever_a_pass_is_made(
    vector: Vector, space: Keyspace, keys: Keys, link: Link, clock: FakeClock
) -> None:
    """Go counts from the second of the pass, so that each pass adds other seconds."""
    service = Periodic(link, keys, (("@every 1m", "p"), ("@every 10m", "rare")), clock)
    await service.enqueue()
    clock.advance(121)
    await service.enqueue()
    minutes = range(1468359480, NOW + 121 + 240, 60)
    assert await fired(space, "p") == list(minutes)
    theirs = [int(item["score"]) for item in state(vector)["ns:scheduled"]]
    assert {1468359633, 1468359634} < set(theirs), "two runs, one second apart"
    # A delay of four minutes and more never fires in Go (#35).
    for _ in range(30):
        clock.advance(121)
        await service.enqueue()
    assert await fired(space, "rare") == list(range(1468359600, NOW + 31 * 121 + 240, 600))


async def fired(space: Keyspace, name: str) -> list[int]:
    """The seconds for which jobs of this name are scheduled."""
    return [at for member, at in await space.members("scheduled") if json.loads(member)["name"] == name]


@golden("periodic", "real_pool")
async def test_a_pool_schedules_at_its_start(vector: Vector, still_app: App, space: Keyspace, clock: FakeClock) -> None:
    clock.start = int(state(vector)["ns:last_periodic_enqueue"])
    still_app.job(name="p1")(nothing)
    still_app.periodic("*/30 * * * * *", "p1")
    async with working(still_app, space, concurrency=1):
        await space.becomes(state(vector, "after Start"))


# Beyond the vectors.


async def test_a_slow_clock_does_not_add_again_what_has_run(
    space: Keyspace, keys: Keys, link: Link, clock: FakeClock
) -> None:
    """Quirk 6: in Go a pool whose clock is behind adds an entry again that another pool has moved on."""
    specs = ((EVERY_MINUTE, "p"),)
    ahead = FakeClock(NOW)
    await Periodic(link, keys, specs, ahead).enqueue()
    ahead.advance(30)
    assert await Mover(link, keys, keys.scheduled, frozenset({"p"}), ahead).move_due() == 1
    await Periodic(link, keys, specs, clock).enqueue()
    assert await fired(space, "p") == [1468359540, 1468359600, 1468359660]
    assert len(await space.items("jobs:p")) == 1
