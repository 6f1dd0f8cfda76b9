"""What the tests of golden vectors start from: a clock that stands still, an App, a link to the store."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from keyspace import FakeClock, Keyspace

from packhorse import App
from packhorse.protocols.gocraft.admin import GocraftInspector
from packhorse.protocols.gocraft.keys import Keys
from packhorse.settings import StoreSettings
from packhorse.store import Link, Store


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def space(raw: redis.asyncio.Redis, namespace: str, clock: FakeClock) -> Keyspace:
    return Keyspace(raw, namespace, clock)


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace)


@pytest.fixture
async def still_app(url: str, namespace: str, clock: FakeClock) -> AsyncIterator[App]:
    """An App for which no time passes."""
    app = App(url, namespace=namespace, clock=clock)
    yield app
    await app.client.aclose()


@pytest.fixture
async def link(url: str) -> AsyncIterator[Link]:
    """For services that are driven without a pool."""
    store = Store(StoreSettings(url))
    yield store.link()
    await store.close()


@pytest.fixture
async def inspector(url: str, keys: Keys, clock: FakeClock) -> AsyncIterator[GocraftInspector]:
    """What people ask of the store, at the time of `clock`."""
    inspector = GocraftInspector(Store(StoreSettings(url)), keys, clock)
    yield inspector
    await inspector.close()
