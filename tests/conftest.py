"""What every test may ask for: a real server of its own, a fresh namespace in it, a raw client to look with."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio

from packhorse import App
from packhorse.embedded import EmbeddedServer

_namespaces = itertools.count(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def missing(reason: str) -> None:
    """A peer is not there: skip here, fail in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI needs this peer: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server for the whole run; the suite passes once on Valkey and once on the system's Redis."""
    binary = None
    if request.param == "redis":
        binary = shutil.which("redis-server")
        if binary is None:
            missing("redis-server is not installed (Debian: apt-get install redis-server)")
    folder: Path = tmp_path_factory.mktemp(request.param)
    with EmbeddedServer(folder, port=free_port(), binary=binary) as running:
        yield running


@pytest.fixture
def namespace() -> str:
    return f"t{next(_namespaces)}"


@pytest.fixture
def url(server: EmbeddedServer) -> str:
    return server.url


@pytest.fixture
def app(url: str, namespace: str) -> Iterator[App]:
    app = App(url, namespace=namespace)
    yield app
    app.client.close()


@pytest.fixture
async def raw(server: EmbeddedServer) -> AsyncIterator[redis.asyncio.Redis]:
    """A plain async client for looking at keys and planting them."""
    client = redis.asyncio.Redis(unix_socket_path=str(server.socket), decode_responses=False, protocol=2)
    yield client
    await client.aclose()
