"""What the tests of the engine start from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import redis.asyncio
from tests.support import Books

from packhorse import App


@pytest.fixture
def books(raw: redis.asyncio.Redis, namespace: str) -> Books:
    return Books(raw, namespace)


@pytest.fixture
async def another(url: str, namespace: str) -> AsyncIterator[Callable[[], App]]:
    """Makes further Apps on the same namespace, as other programs would have them."""
    apps: list[App] = []

    def make() -> App:
        apps.append(App(url, namespace=namespace))
        return apps[-1]

    yield make
    for app in apps:
        await app.client.aclose()
