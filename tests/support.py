"""What several tests share: patience with an end, a look into the books of a namespace, and a proxy that loses replies.

Not for the engine's own use. Nothing here knows how packhorse works inside; it knows the gocraft layout and RESP.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import redis.asyncio

T = TypeVar("T")
Payload = dict[str, Any]


async def eventually(check: Callable[[], Any], within: float = 15.0) -> Any:
    """Ask every few milliseconds until the answer is true, and give it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while True:
        answer = check()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if loop.time() >= end:
            raise AssertionError(f"not within {within:g} s: {inspect.getsource(check).strip()}")
        await asyncio.sleep(0.005)


async def soon(awaitable: Awaitable[T], within: float = 15.0) -> T:
    """Wait for something that must come."""
    return await asyncio.wait_for(awaitable, within)


class Books:
    """A namespace as it lies in the store. Lists come oldest first."""

    def __init__(self, raw: redis.asyncio.Redis, namespace: str) -> None:
        self.raw = raw
        self.prefix = f"{namespace}:"

    async def queue(self, name: str) -> list[bytes]:
        return (await self.raw.lrange(f"{self.prefix}jobs:{name}", 0, -1))[::-1]

    async def held(self, name: str) -> list[bytes]:
        """Payloads in the in-progress lists of all pools."""
        found: list[bytes] = []
        async for key in self.raw.scan_iter(f"{self.prefix}jobs:{name}:*:inprogress"):
            found += (await self.raw.lrange(key, 0, -1))[::-1]
        return found

    async def lock(self, name: str) -> int:
        return int(await self.raw.get(f"{self.prefix}jobs:{name}:lock") or 0)

    async def locks(self, name: str) -> list[int]:
        """`lock` and every field of `lock_info`."""
        info = await self.raw.hgetall(f"{self.prefix}jobs:{name}:lock_info")
        return [await self.lock(name), *map(int, info.values())]

    async def retry(self) -> list[Payload]:
        return await self._zset("retry")

    async def dead(self) -> list[Payload]:
        return await self._zset("dead")

    async def scheduled(self) -> list[Payload]:
        return await self._zset("scheduled")

    async def at_rest(self, *names: str) -> bool:
        """Nobody holds a job of these names, and every lock says so."""
        return not any([await self.held(name) or any(await self.locks(name)) for name in names])

    async def places(self, name: str) -> Counter[str]:
        """How many payloads lie where."""
        found = {"queue": len(await self.queue(name)), "held": len(await self.held(name))}
        for place in ("retry", "dead", "scheduled"):
            found[place] = sum(job["name"] == name for job in await self._zset(place))
        return Counter({place: count for place, count in found.items() if count})

    async def _zset(self, key: str) -> list[Payload]:
        members = await self.raw.zrange(f"{self.prefix}{key}", 0, -1)
        return [json.loads(member) for member in members]


Command = list[bytes]


class RespProxy:
    """Stands between clients and a server on a unix socket, and understands just enough to count replies.

    `lose(when)`: the next reply to a command for which `when` is true is not passed on; the connection ends instead,
    after the server has carried the command out. `slow(least, most)`: each reply waits. `commands` is the log.
    """

    def __init__(self, upstream: str, path: str) -> None:
        self.commands: list[Command] = []
        self.lost: list[Command] = []
        self.writes = 0
        self._upstream = upstream
        self._path = path
        self._losing: list[Callable[[Command], bool]] = []
        self._delay = (0.0, 0.0)
        self._random = random.Random(7)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"unix://{self._path}"

    def lose(self, when: Callable[[Command], bool], times: int = 1) -> None:
        self._losing += [when] * times

    def slow(self, least: float, most: float) -> None:
        self._delay = (least, most)

    async def __aenter__(self) -> RespProxy:
        self._server = await asyncio.start_unix_server(self._connected, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
        asked: list[Command] = []
        forward = asyncio.create_task(self._forward(reader, up_writer, asked))
        try:
            await self._answer(up_reader, writer, asked)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            forward.cancel()
            for end in (writer, up_writer):
                end.transport.abort()
            await asyncio.gather(forward, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, up: asyncio.StreamWriter, asked: list[Command]) -> None:
        rest = b""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                self.writes += 1
                rest += data
                start = 0
                while (end := frame_end(rest, start)) is not None:
                    command = _words(rest[start:end])
                    asked.append(command)
                    self.commands.append(command)
                    start = end
                rest = rest[start:]
                up.write(data)
        up.close()

    async def _answer(self, up: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: list[Command]) -> None:
        rest = b""
        while data := await up.read(1 << 16):
            rest += data
            start = 0
            while (end := frame_end(rest, start)) is not None:
                reply, start = rest[start:end], end
                if not reply.startswith(b">"):
                    command = asked.pop(0)
                    losing = next((when for when in self._losing if when(command)), None)
                    # The script was not there: what matters is the command that comes after it.
                    if losing is not None and not reply.startswith(b"-NOSCRIPT"):
                        self._losing.remove(losing)
                        self.lost.append(command)
                        return
                if self._delay[1]:
                    await asyncio.sleep(self._random.uniform(*self._delay))
                writer.write(reply)
            rest = rest[start:]


def frame_end(data: bytes, at: int) -> int | None:
    """Where the RESP frame that begins at `at` ends, or None if it is not whole yet."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return None
    kind, head, end = data[at : at + 1], data[at + 1 : line], line + 2
    if kind in b"$=!":
        end += max(int(head) + 2, 0)
        return end if end <= len(data) else None
    if kind in b"*~>%|":
        for _ in range(max(int(head), 0) * (2 if kind in b"%|" else 1)):
            inner = frame_end(data, end)
            if inner is None:
                return None
            end = inner
    return end


def _words(frame: bytes) -> Command:
    """The words of a command."""
    words = []
    at = frame.index(b"\r\n") + 2
    while at < len(frame):
        line = frame.index(b"\r\n", at)
        size = int(frame[at + 1 : line])
        words.append(frame[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
    return words


def names(word: str) -> Callable[[Command], bool]:
    """Commands with this first word."""
    return lambda command: command[0].upper() == word.encode()


def runs(script: Any) -> Callable[[Command], bool]:
    """Commands that run this script (a `packhorse.store.Script`)."""
    forms = {part.encode() for flags in (False, True) for part in script.form(flags)}
    return lambda command: command[0].upper() in (b"EVALSHA", b"EVAL") and command[1] in forms


@contextlib.asynccontextmanager
async def running(*pools: Any) -> AsyncIterator[None]:
    """Pools that run for a while, started and stopped at the same time."""
    try:
        await asyncio.gather(*(pool.start() for pool in pools))
        yield
    finally:
        await asyncio.gather(*(pool.stop() for pool in pools))
