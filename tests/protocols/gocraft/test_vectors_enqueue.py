"""Golden vectors of the producer: what each enqueue call of Go writes, key by key."""

from __future__ import annotations

import math
from typing import Any

import pytest
import redis.asyncio
from keyspace import FakeClock, Keyspace, golden, state
from vectors import Vector

from packhorse import App, ConfigError
from packhorse.embedded import EmbeddedServer
from packhorse.errors import EncodeError

NESTED: dict[Any, Any] = {
    "m": {"z": 1, "a": {"y": None, "b": []}, 10: 1, 2: 2},
    "l": [1, "two", 3.5, None, True, {}, []],
    "empty_map": {},
    "empty_slice": [],
    "nil_map": None,
    "nil_slice": None,
}
INTS = {
    "2p53": 2**53, "2p53m1": 2**53 - 1, "2p53p1": 2**53 + 1, "e15": 10**15, "e18": 10**18,
    "neg": -1, "zero": 0, "maxint64": 2**63 - 1, "maxuint64": 2**64 - 1, "minint64": -(2**63),
}  # fmt: skip
FLOATS = {
    text: float(text)
    for text in (
        "-0", "0", "0.1", "1.0", "1.25e-100", "1.5", "1.5e21", "123456789.123456789", "123456789012345678",
        "1e-10", "1e-6", "1e-7", "1e100", "1e20", "1e21", "3e15", "9.99e-7", "999999999999999999999",
    )
} | {
    # Python has no float32: the double nearest to what Go writes for one.
    "f32_0.1": 0.1, "f32_16777216": 16777216.0, "f32_1e21": 1e21,
    "max": 1.7976931348623157e308, "smallest": 5e-324, "pi": math.pi, "third": 1 / 3,
}  # fmt: skip

#: Vector -> (job name, args) of its one call.
CALLS: dict[str, tuple[str, dict[Any, Any] | None]] = {
    "basic": ("send_email", {"address": "test@example.com", "subject": "hello", "customer_id": 4}),
    "nil_args": ("wat", None),
    "empty_args": ("wat", {}),
    "unicode": (
        "wat",
        {"ключ": "значение", "é": 3, "~": 4, "Z": 1, "a": 2, "😀": 1, "text": "héllo 日本 😀"},
    ),
    "html": ("wat", {"v": '<a href="/x?a=1&b=2">it\'s</a>', "<k>&": "v", "slash": "a/b\\c"}),
    "separators": ("wat", {"v": "a\u2028b\u2029c"}),
    "control_chars": (
        "wat",
        {"v": "".join(map(chr, (*range(0x21), 0x7F, 0x80, 0xFEFF, 0xFFFD, 0xFFFF)))},
    ),
    "nested": ("wat", NESTED),
    "ints": ("wat", INTS),
    "floats": ("wat", FLOATS),
    "bool_null": ("wat", {"t": True, "f": False, "n": None}),
    "name_odd": ("send/<email>& имя:x", None),
}

#: Vector -> (our namespace, given the test's own; the vector's prefix).
NAMESPACES = {
    "ns_colon": ("{}:", "ns:"),
    "ns_two_colons": ("{}::", "ns::"),
    "ns_hashtag": ("{{{}}}", "{app}:"),
    "ns_unicode_space": ("é {}", "é x:"),
}


@golden("enqueue", *CALLS)
async def test_one_call(vector: Vector, still_app: App, space: Keyspace) -> None:
    name, args = CALLS[vector["name"]]
    await still_app.client.enqueue_async(name, args)
    await space.becomes(state(vector))


@golden("enqueue", "twice_same_enqueuer")
async def test_a_client_remembers_for_five_minutes_that_a_name_is_known(
    vector: Vector, still_app: App, space: Keyspace, clock: FakeClock
) -> None:
    await still_app.client.enqueue_async("wat")
    await still_app.client.enqueue_async("wat")
    await space.becomes(state(vector))

    await space.raw.delete(space.key("known_jobs"))
    clock.advance(299)
    await still_app.client.enqueue_async("wat")
    assert not await space.raw.exists(space.key("known_jobs"))
    clock.advance(1)
    await still_app.client.enqueue_async("wat")
    assert await space.raw.smembers(space.key("known_jobs")) == {b"wat"}


@golden("enqueue", "error_nan", "error_inf", "error_func")
async def test_what_json_cannot_carry_is_refused_before_anything_is_written(
    vector: Vector, still_app: App, space: Keyspace
) -> None:
    value = {"error_nan": math.nan, "error_inf": math.inf, "error_func": print}[vector["name"]]
    with pytest.raises(EncodeError):
        await still_app.client.enqueue_async("wat", {"v": value})
    await space.becomes(state(vector))


@golden("enqueue", *NAMESPACES)
async def test_a_namespace_gets_one_colon(
    vector: Vector, url: str, raw: redis.asyncio.Redis, namespace: str, clock: FakeClock
) -> None:
    form, shown = NAMESPACES[vector["name"]]
    app = App(url, namespace=form.format(namespace), clock=clock)
    await app.client.enqueue_async("wat")
    await Keyspace(raw, form.format(namespace), clock, shown).becomes(state(vector))
    await app.client.aclose()


@golden("enqueue", "ns_empty")
async def test_no_namespace_gives_no_prefix(vector: Vector, url: str, server: EmbeddedServer, clock: FakeClock) -> None:
    raw = redis.asyncio.Redis(unix_socket_path=str(server.socket), db=7, protocol=2)
    app = App(f"{url}?db=7", namespace="", clock=clock)
    space = Keyspace(raw, "", clock, shown="")
    await space.clear()
    await app.client.enqueue_async("wat")
    await space.becomes(state(vector))
    await space.clear()
    await app.client.aclose()
    await raw.aclose()


@golden("enqueue", "name_empty", quirk=13)
async def test_the_empty_name_is_refused(vector: Vector, still_app: App, space: Keyspace) -> None:
    assert "ns:jobs:" in {entry["key"] for entry in state(vector).entries}
    with pytest.raises(ConfigError, match="empty"):
        await still_app.client.enqueue_async("")
    assert await space.dump() == []


@golden("enqueue", "invalid_utf8", quirk=1)
async def test_bytes_that_are_no_text_are_refused_rather_than_lost(
    vector: Vector, still_app: App, space: Keyspace
) -> None:
    text = bytes.fromhex("fffe41c328eda080f09f98")
    with pytest.raises(EncodeError, match="lone surrogate"):
        await still_app.client.enqueue_async("wat", {"v": text.decode("utf-8", "surrogateescape")})
    assert await space.dump() == []
    # Replaced by hand it is the same character for a Go program, though not the same six letters.
    await still_app.client.enqueue_async("wat", {"v": text.decode("utf-8", "replace")})
    await space.becomes(
        state(vector).having(
            "ns:jobs:wat", "list",
            [f'{{"name":"wat","id":"<JOB_1>","t":<T>,"args":{{"v":"{text.decode("utf-8", "replace")}"}}}}'],
        )
    )  # fmt: skip


# Delayed.


@golden("enqueue_in", "300")
async def test_a_delayed_call(vector: Vector, still_app: App, space: Keyspace) -> None:
    receipt = await still_app.client.enqueue_async("wat", {"a": 1}, delay=300)
    await space.becomes(state(vector))
    assert receipt.run_at == space.clock.start + 300


@golden("enqueue_in", "zero_and_negative")
async def test_delays_of_nothing_and_less(vector: Vector, still_app: App, space: Keyspace) -> None:
    await still_app.client.enqueue_async("wat", delay=0)
    await still_app.client.enqueue_async("wat", delay=-1000)
    await space.becomes(state(vector))


# Unique. Each call with its options, and whether it is a duplicate.

Call = tuple[dict[str, Any] | None, dict[str, Any], bool]

UNIQUE: dict[str, tuple[str, list[Call]]] = {
    "unique": (
        "wat",
        [
            ({"b": "cool", "a": 1}, {"unique": True}, False),
            ({"a": 1, "b": "cool"}, {"unique": True}, True),
            ({"a": 1.0, "b": "coolio"}, {"unique": True}, False),
        ],
    ),
    "unique_nil_and_empty": ("wat", [(None, {"unique": True}, False), ({}, {"unique": True}, False)]),
    "unique_escapes": (
        "a<b>",
        [
            (
                {"k": '<&>/"\\ \u2028 é', "n": None, "f": 1e21, "i": 12345678901234567890},
                {"unique": True},
                False,
            )
        ],
    ),
    "unique_in": (
        "wat",
        [
            ({"a": 1}, {"unique": True, "delay": 300}, False),
            ({"a": 1}, {"unique": True, "delay": 10}, True),
            ({"a": 1}, {"unique": True}, True),
        ],
    ),
    "unique_by_key": (
        "wat",
        [
            ({"a": 3, "b": "foo"}, {"key": {"key": "123"}}, False),
            ({"a": 3, "b": "bar"}, {"key": {"key": "123"}}, True),
        ],
    ),
    "unique_by_key_empty_map": ("wat", [({"a": 1}, {"key": {}}, False)]),
    "unique_in_by_key": (
        "wat",
        [
            ({"a": 1}, {"key": {"key": "123"}, "delay": 300}, False),
            ({"a": 2}, {"key": {"key": "123"}, "delay": 10}, True),
        ],
    ),
    "unique_mixed_key_space": (
        "wat",
        [({"a": "payload"}, {"key": {"k": 1}}, False), ({"k": 1}, {"unique": True}, True)],
    ),
}


@golden("unique", *UNIQUE)
async def test_unique_calls(vector: Vector, still_app: App, space: Keyspace) -> None:
    name, calls = UNIQUE[vector["name"]]
    for (args, options, duplicate), after in zip(calls, vector["states"], strict=True):
        receipt = await still_app.client.enqueue_async(name, args, **options)
        await space.becomes(state(vector, after["label"]))
        assert receipt.duplicate is duplicate


@golden("unique", "unique_ttl_refresh")
async def test_a_duplicate_prolongs_the_unique_key(vector: Vector, still_app: App, space: Keyspace) -> None:
    await still_app.client.enqueue_async("wat", unique=True)
    await space.raw.expire(space.key("unique:wat:"), 100)
    await space.becomes(state(vector, "ttl lowered by hand"))
    receipt = await still_app.client.enqueue_async("wat", unique=True)
    assert receipt.duplicate
    await space.becomes(state(vector, "after duplicate"))


async def test_a_unique_job_for_the_day_after_tomorrow_keeps_its_key_until_then(
    still_app: App, space: Keyspace
) -> None:
    """Quirk 10: after Go's 24 hours a second equal job could be added."""
    await still_app.client.enqueue_async("wat", unique=True, delay=172_800)
    assert await space.raw.ttl(space.key("unique:wat:")) > 172_800
