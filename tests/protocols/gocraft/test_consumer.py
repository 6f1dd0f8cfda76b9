"""The consumer on its own: what one exchange takes and settles, and when it rests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from keyspace import FakeClock, Keyspace

from packhorse import App
from packhorse.protocols.base import (
    DONE,
    RETURNED,
    Again,
    Consumer,
    Delivery,
    Observation,
    PoolRecord,
    QueueOptions,
    Want,
    WorkerView,
)

ONE = Want(total=1, slow=1)


class Idle(WorkerView):
    """A pool that holds nothing."""

    def held(self) -> Mapping[str, Sequence[bytes]]:
        return {}

    def observations(self) -> Sequence[Observation]:
        return []

    def nudge(self) -> None: ...


def consumer_of(app: App, clock: FakeClock, pool: str) -> Consumer:
    queues = (QueueOptions("wat", max_concurrency=1), QueueOptions("other"))
    record = PoolRecord(pool, 1, (f"{pool}-1",), "host", 1, clock.wall(), queues)
    return app.protocol.consumer(record, Idle())


@pytest.fixture
async def consumer(still_app: App, clock: FakeClock) -> AsyncIterator[Consumer]:
    made = consumer_of(still_app, clock, "here")
    await made.open()
    yield made
    await made.close()
    await made.disconnect()


async def take(consumer: Consumer) -> list[Delivery]:
    """What can be taken now; the first exchange may have to look where there is something."""
    for _ in range(3):
        result = await consumer.exchange([], ONE)
        if result.deliveries or result.dry:
            return result.deliveries
    raise AssertionError("neither a job nor an end")


@pytest.mark.parametrize("barrier", ["lock", "paused"])
async def test_what_opens_before_anybody_listens_is_not_missed(
    barrier: str, consumer: Consumer, still_app: App, space: Keyspace
) -> None:
    """Without another look the job would wait until the pool's patience ends, for seconds."""
    await still_app.client.enqueue_async("wat")
    await space.raw.set(space.key(f"jobs:wat:{barrier}"), 1)
    assert await take(consumer) == []
    await space.raw.delete(space.key(f"jobs:wat:{barrier}"))
    assert await consumer.rest()
    assert len(await take(consumer)) == 1


async def test_a_barrier_that_stays_lets_it_rest(consumer: Consumer, still_app: App, space: Keyspace) -> None:
    await still_app.client.enqueue_async("wat")
    await space.raw.set(space.key("jobs:wat:paused"), 1)
    assert await take(consumer) == []
    assert await consumer.rest()
    assert await take(consumer) == []
    assert not await consumer.rest()


async def test_only_what_is_still_ours_is_settled(consumer: Consumer, still_app: App, space: Keyspace) -> None:
    await still_app.client.enqueue_async("wat", {"n": 1})
    (delivery,) = await take(consumer)
    await space.raw.delete(space.key("jobs:wat:here:inprogress"))
    for outcome in (DONE, RETURNED, Again(space.clock.wall(), "late")):
        result = await consumer.exchange([(delivery, outcome)], None)
        assert result.lost == [delivery]
    assert await space.raw.get(space.key("jobs:wat:lock")) == b"1"
    assert await space.members("retry") == []
    assert await space.items("jobs:wat") == []


async def test_equal_payloads_are_settled_one_by_one(consumer: Consumer, space: Keyspace) -> None:
    """Two producers may have sent the same bytes; each settle ends one of them."""
    twin = b'{"name":"other","id":"twin","t":1,"args":null}'
    await space.raw.rpush(space.key("jobs:other"), twin, twin)
    first, second = [*await take(consumer), *await take(consumer)]
    result = await consumer.exchange([(first, DONE), (second, Again(space.clock.wall() + 9, "oops"))], None)
    assert not result.lost
    assert not result.refused
    assert await space.items("jobs:other:here:inprogress") == []
    assert await space.raw.get(space.key("jobs:other:lock")) == b"0"
    ((_, at),) = await space.members("retry")
    assert at == space.clock.start + 9


async def test_what_goes_back_is_taken_first_again(consumer: Consumer, still_app: App, space: Keyspace) -> None:
    for n in (1, 2):
        await still_app.client.enqueue_async("wat", {"n": n})
    (delivery,) = await take(consumer)
    await consumer.exchange([(delivery, RETURNED)], None)
    (again,) = await take(consumer)
    assert again.raw == delivery.raw


async def test_a_set_of_a_wrong_type_refuses_and_loses_nothing(
    consumer: Consumer, still_app: App, space: Keyspace
) -> None:
    await still_app.client.enqueue_async("wat")
    await space.raw.set(space.key("retry"), "no set")
    (delivery,) = await take(consumer)
    settlement = (delivery, Again(space.clock.wall(), "oops"))
    result = await consumer.exchange([settlement], None)
    assert result.refused == [settlement]
    assert await space.items("jobs:wat:here:inprogress") == [delivery.raw]
    await space.raw.delete(space.key("retry"))
    assert (await consumer.exchange([settlement], None)).refused == []
    assert len(await space.members("retry")) == 1
