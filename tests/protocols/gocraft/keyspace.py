"""A namespace of a server in the shape of the golden vectors: dump it, plant it, compare it.

Both sides of a comparison are read alike: ids become <ID_n> by first appearance, seconds become <T>, <T+300>,
... by a clock that stands still. What differs is shown as a diff of the two texts. Keys that only
packhorse uses are left out.
"""

from __future__ import annotations

import asyncio
import base64
import difflib
import json
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio
from tests.support import eventually
from vectors import Vector, vectors

from packhorse import App, Job
from packhorse.engine.pool import WorkerPool
from packhorse.protocols.gocraft.keys import Keys
from packhorse.service import Service

Entry = dict[str, Any]

#: Far from every second in the vectors, so that a number which is no stamp cannot be taken for one.
START = 2_000_000_000

#: Golden vectors that a test reproduces -> the quirk (of quirks.md) in which packhorse does better, or None.
EXERCISED: dict[tuple[str, str], int | None] = {}

_ID = re.compile(r"<(?:JOB|POOL|WORKER)_\d+>|\b[0-9a-f]{24}\b")
_STAMP = re.compile(r"<T([+-]\d+)?>|(?<![\w.])\d{10}(?![\w.])")
_BARE_STAMP = re.compile(r"(?<=[:,\[])<T[+-]?\d*>")


def golden(group: str, *names: str, quirk: int | None = None) -> pytest.MarkDecorator:
    """Run a test for each of these vectors, given as `vector`.

    `quirk`: the trap of quirks.md that Go falls into here; the test shows that packhorse does not.
    """
    EXERCISED.update({(group, name): quirk for name in names})
    found = {v["name"]: v for v in vectors(group)}
    suffix = "" if quirk is None else f"-better-by-quirk-{quirk}"
    return pytest.mark.parametrize("vector", [pytest.param(found[name], id=f"{name}{suffix}") for name in names])


class FakeClock:
    """The hour stands still until a test moves it; `monotonic` goes on, as running pools need it to."""

    def __init__(self, start: int = START) -> None:
        self.start = start
        self.passed = 0.0

    def wall(self) -> float:
        return self.start + self.passed

    def monotonic(self) -> float:
        return time.monotonic() + self.passed

    def advance(self, seconds: float) -> None:
        self.passed += seconds


class Held:
    """A handler whose runs last until a test lets them go on, one by one."""

    def __init__(self) -> None:
        self.running: list[Job] = []
        self._gate = asyncio.Semaphore(0)

    async def __call__(self) -> None:
        await self._gate.acquire()

    def let_go(self) -> None:
        self._gate.release()

    async def has_started(self, count: int = 1) -> None:
        await eventually(lambda: len(self.running) == count)


def holding(app: App, *, fails_with: str | None = None, **options: Any) -> Held:
    """`wat` as a handler that holds, and then fails if it is told to."""
    held = Held()

    @app.job(name="wat", **options)
    async def wat(job: Job, **args: Any) -> None:
        held.running.append(job)
        await held()
        if fails_with is not None:
            raise Exception(fails_with)

    return held


async def nothing() -> None:
    """A handler."""


@asynccontextmanager
async def working(app: App, space: Keyspace, **settings: Any) -> AsyncIterator[WorkerPool]:
    """A pool that has made its first periodic pass, which Go makes before anything else."""
    async with app.worker(**settings) as pool:
        await eventually(lambda: space.raw.exists(space.key("last_periodic_enqueue")))
        yield pool


def poke(pool: WorkerPool, kind: type[Service]) -> None:
    """Have services of the pool run now."""
    for service in pool._services:
        if isinstance(service, kind):
            service.poke()


class State:
    """What a vector says the database holds. Changing it gives a new one: vectors stay as they are."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = list(entries)

    def __getitem__(self, key: str) -> Any:
        return next(entry["value"] for entry in self.entries if entry["key"] == key)

    def names(self) -> set[str]:
        return {entry["key"] for entry in self.entries}

    def without(self, *keys: str) -> State:
        """Keys that packhorse does not leave behind; each must be there in Go's state."""
        assert set(keys) <= self.names()
        return State(entry for entry in self.entries if entry["key"] not in keys)

    def having(self, key: str, kind: str, value: object, ttl: int | None = None) -> State:
        """One key as packhorse leaves it, in place of what Go left there."""
        others = (entry for entry in self.entries if entry["key"] != key)
        return State([*others, {"key": key, "type": kind, "ttl": ttl, "value": value}])

    def signed_off(self) -> State:
        """A pool that has stopped leaves no zero in lock_info (quirk 7)."""
        entries = []
        for entry in self.entries:
            if entry["key"].endswith(":lock_info"):
                entry = {**entry, "value": [field for field in entry["value"] if field[1] != "0"]}
                if not entry["value"]:
                    continue
            entries.append(entry)
        return State(entries)


def state(vector: Vector, which: int | str = -1) -> State:
    """One of the states of a vector, by position, or by its label or the beginning of it."""
    states = vector["states"]
    if isinstance(which, str):
        found = [s for s in states if s["label"] == which] or [s for s in states if s["label"].startswith(which)]
        assert len(found) == 1, [s["label"] for s in states]
        return State(found[0]["keys"])
    return State(states[which]["keys"])


class Keyspace:
    """A namespace of the server, shown as the one of the vectors.

    `becomes` is to be called with the states of one vector in their order: an id keeps its number.
    """

    def __init__(self, raw: redis.asyncio.Redis, namespace: str, clock: FakeClock, shown: str = "ns:") -> None:
        self.prefix = Keys(namespace).prefix
        #: As Any, because redis-py's types leave open whether an answer is text or bytes.
        self.raw: Any = raw
        self.clock = clock
        self._shown = shown
        self._ours: dict[str, str] = {}
        self._theirs: dict[str, str] = {}
        self._made: dict[str, str] = {}

    def key(self, name: str) -> str:
        """The real key behind a name such as `jobs:wat`."""
        return f"{self.prefix}{name}"

    async def items(self, name: str) -> list[bytes]:
        """A list, head first."""
        found: list[bytes] = await self.raw.lrange(self.key(name), 0, -1)
        return found

    async def members(self, name: str) -> list[tuple[bytes, int]]:
        """A sorted set: members with their scores."""
        return [(m, int(score)) for m, score in await self.raw.zrange(self.key(name), 0, -1, withscores=True)]

    async def gets(self, name: str, field: str, value: bytes) -> None:
        """Wait until a hash has this field with this value."""

        async def there() -> Any:
            return await self.raw.hget(self.key(name), field) == value

        await eventually(there)

    async def becomes(self, wanted: State, *, parsed: bool = False, timeout: float = 10) -> None:
        """Wait until the namespace is in this state, key by key; fails with a diff.

        `parsed`: compare payloads as JSON values, since Redis' cjson wrote those in the vector. All else is
        compared byte for byte.
        """
        theirs = dict(self._theirs)
        want = self._lines(wanted.entries, theirs, parsed)
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while True:
            ours = dict(self._ours)
            have = self._lines(await self.dump(), ours, parsed)
            if have == want:
                self._ours, self._theirs = ours, theirs
                return
            if loop.time() > end:
                diff = difflib.unified_diff(want, have, "golden vector", "packhorse", lineterm="", n=2)
                pytest.fail("\n".join(diff), pytrace=False)
            await asyncio.sleep(0.01)

    async def dump(self) -> list[Entry]:
        """Everything in the namespace, as texts, with the vectors' prefix."""
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", self.prefix) + "*"
        found = [key async for key in self.raw.scan_iter(match=pattern, count=500)]
        private = f"{self.prefix}packhorse:".encode()
        entries = [await self._entry(key) for key in sorted(found) if not key.startswith(private)]
        return [entry for entry in entries if entry["type"] != "none"]

    async def plant(self, planted: State) -> None:
        """Put a vector's state into the namespace."""
        for entry in planted.entries:
            key, value, kind = self._concrete(entry["key"]), entry["value"], entry["type"]
            if kind == "list":
                await self.raw.rpush(key, *(self._concrete(item) for item in value))
            elif kind == "set":
                await self.raw.sadd(key, *(self._concrete(item) for item in value))
            elif kind == "hash":
                for field, text in value:
                    await self.raw.hset(key, self._concrete(field), self._concrete(text))
            elif kind == "zset":
                for item in value:
                    score = self._concrete(item["score"]).decode()
                    await self.raw.zadd(key, {self._concrete(item["member"]): int(score)})
            else:
                await self.raw.set(key, self._concrete(value))
            if entry["ttl"] is not None:
                await self.raw.expire(key, entry["ttl"])

    async def clear(self) -> None:
        """Remove the namespace; for one that is not a test's own by its name."""
        for key in [key async for key in self.raw.scan_iter(match=f"{self.prefix}*")]:
            await self.raw.delete(key)

    def _concrete(self, text: str | dict[str, str]) -> bytes:
        """A text of a vector as it must be in this namespace now."""
        if isinstance(text, dict):
            return base64.b64decode(text["b64"])
        if text.startswith(self._shown):
            text = self.prefix + text.removeprefix(self._shown)
        text = text.replace(f'"unique_key":"{self._shown}', f'"unique_key":"{self.prefix}')
        text = re.sub(r"<T([+-]\d+)?>", lambda m: str(self.clock.start + int(self.clock.passed) + int(m[1] or 0)), text)
        return _ID.sub(lambda m: self._made.setdefault(m[0], os.urandom(12).hex()), text).encode()

    async def _entry(self, key: bytes) -> Entry:
        raw = self.raw
        kind = (await raw.type(key)).decode()
        value: Any = None
        if kind == "list":
            value = [_text(item) for item in await raw.lrange(key, 0, -1)]
        elif kind == "set":
            value = sorted(_text(item) for item in await raw.smembers(key))
        elif kind == "hash":
            flat = await raw.execute_command("HGETALL", key)
            value = [[_text(field), _text(text)] for field, text in flat.items()]
        elif kind == "zset":
            flat = await raw.execute_command("ZRANGE", key, 0, -1, "WITHSCORES")
            value = [{"member": _text(m), "score": _text(s)} for m, s in zip(*[iter(flat)] * 2, strict=True)]
        elif kind == "string":
            value = _text(await raw.get(key) or b"")
        ttl = await raw.ttl(key)
        shown = self._shown + _text(key).removeprefix(self.prefix)
        return {"key": shown, "type": kind, "ttl": round(ttl / 60) * 60 if ttl >= 0 else None, "value": value}

    def _lines(self, entries: Sequence[Entry], names: dict[str, str], parsed: bool) -> list[str]:
        """A state as text: one line per key and one per thing in it."""

        def read(text: str | dict[str, str]) -> str:
            if isinstance(text, dict):
                text = _text(base64.b64decode(text["b64"]))
            text = text.replace(f'"unique_key":"{self.prefix}', f'"unique_key":"{self._shown}')
            text = _ID.sub(lambda m: names.setdefault(m[0], f"<ID_{len(names) + 1}>"), text)
            return _STAMP.sub(self._stamp, text)

        def payload(text: str | dict[str, str]) -> str:
            return _as_json(read(text)) if parsed else read(text)

        lines: list[str] = []
        for entry in sorted(entries, key=lambda entry: _ID.sub("<ID>", entry["key"])):
            key, kind, value = read(entry["key"]), entry["type"], entry["value"]
            lines.append(f"{key!r} {kind} ttl={entry['ttl']}")
            if kind == "list":
                lines += [f"    {payload(item)}" for item in value]
            elif kind == "set":
                lines += sorted(f"    {read(item)}" for item in value)
            elif kind == "zset":
                # The scores of retries are drawn by chance: tests look at them on their own.
                drawn = key == f"{self._shown}retry"
                lines += [f"    {'<RETRY_AT>' if drawn else read(i['score'])} {payload(i['member'])}" for i in value]
            elif kind == "hash":
                lines += [f"    {read(field)} = {_told(field, read(text))}" for field, text in value]
            else:
                lines.append(f"    {payload(value)}")
        return lines

    def _stamp(self, match: re.Match[str]) -> str:
        if match[0].startswith("<"):
            return match[0]
        after = int(match[0]) - self.clock.start
        if 0 <= after <= self.clock.passed:
            return "<T>"
        return f"<T{after:+d}>" if abs(after) <= 100_000 else match[0]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _told(field: str, text: str) -> str:
    """A field of a hash without what differs from process to process."""
    if (field, text) in (("host", socket.gethostname()), ("pid", str(os.getpid()))):
        return f"<{field.upper()}>"
    return ",".join(sorted(text.split(","))) if field == "worker_ids" else text


def _as_json(text: str) -> str:
    try:
        value = json.loads(_BARE_STAMP.sub(r'"\g<0>"', text))
    except ValueError:
        return text
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
