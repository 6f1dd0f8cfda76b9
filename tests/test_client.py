"""Enqueueing: from anywhere, shared round trips, options, and errors that tell what was stored."""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from tests.support import Books, RespProxy, eventually, names, soon

from packhorse import (
    App,
    BlockingCall,
    Client,
    ConfigError,
    EncodeError,
    EnqueueUnknown,
    PartlyEnqueued,
    Receipt,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from packhorse import client as client_module
from packhorse.embedded import EmbeddedServer
from packhorse.protocols.base import NewJob


@pytest.fixture
def books(raw: redis.asyncio.Redis, namespace: str) -> Books:
    return Books(raw, namespace)


@pytest.fixture
def plain(server: EmbeddedServer) -> Any:
    """A sync look at the store."""
    client = redis.Redis(unix_socket_path=str(server.socket), protocol=2)
    yield client
    client.close()


@pytest.fixture
async def proxy(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[RespProxy]:
    async with RespProxy(str(server.socket), str(tmp_path / "proxy")) as proxy:
        yield proxy


def ids_in(payloads: list[bytes]) -> list[str]:
    return [json.loads(payload)["id"] for payload in payloads]


# -- callers -------------------------------------------------------------------------------------------------


def test_plain_code_enqueues(app: App, plain: redis.Redis) -> None:
    receipts = [app.client.enqueue("mail", {"n": n}) for n in range(3)]
    stored = plain.lrange(f"{app.namespace}:jobs:mail", 0, -1)[::-1]
    assert [receipt.id for receipt in receipts] == ids_in(stored)
    assert len({receipt.id for receipt in receipts}) == 3
    assert plain.smembers(f"{app.namespace}:known_jobs") == {b"mail"}


def test_many_threads_enqueue_with_one_client(app: App, plain: redis.Redis) -> None:
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda n: app.client.enqueue("mail", {"n": n}), range(200)))
    stored = ids_in(plain.lrange(f"{app.namespace}:jobs:mail", 0, -1))
    assert sorted(stored) == sorted(receipt.id for receipt in receipts)
    assert len(set(stored)) == 200


async def test_a_sync_enqueue_inside_a_running_loop_is_refused(app: App, books: Books) -> None:
    @app.job
    async def mail() -> None: ...

    for call in (
        lambda: app.client.enqueue("mail"),
        lambda: app.client.enqueue_many([app.client.prepare("mail")]),
        lambda: app.client.send(app.client.prepare("mail")),
        mail.enqueue,
        mail.enqueue_unique,
        lambda: mail.enqueue_in(5),
        lambda: mail.enqueue_at(5),
        lambda: mail.enqueue_unique_by_key({}),
    ):
        with pytest.raises(BlockingCall, match="use the _async method here"):
            call()
    assert await books.places("mail") == {}


async def test_a_thread_of_a_running_program_enqueues(app: App, books: Books) -> None:
    receipts = await asyncio.gather(*(asyncio.to_thread(app.client.enqueue, "mail") for _ in range(5)))
    await app.client.enqueue_async("mail")
    assert len(await books.queue("mail")) == 6
    assert {receipt.id for receipt in receipts} < set(ids_in(await books.queue("mail")))


def test_several_loops_one_after_the_other(app: App, plain: redis.Redis) -> None:
    """Each `asyncio.run` has a connection of its own, and takes it along when it ends."""
    before = open_files()
    for n in range(10):
        asyncio.run(app.client.enqueue_async("mail", {"n": n}))  # type: ignore[arg-type]
    assert plain.llen(f"{app.namespace}:jobs:mail") == 10
    assert len(app.client._outboxes) == 1
    assert open_files() <= before + 1


def open_files() -> int:
    """0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_a_client_can_be_closed_and_used_again(app: App, plain: redis.Redis) -> None:
    for _ in range(3):
        app.client.enqueue("mail")
        app.client.close()
        app.client.close()
    assert plain.llen(f"{app.namespace}:jobs:mail") == 3
    assert "packhorse-client" not in [thread.name for thread in threading.enumerate()]


async def test_an_async_client_can_be_closed_and_used_again(app: App, books: Books) -> None:
    for _ in range(3):
        await app.client.enqueue_async("mail")
        await app.client.aclose()
        await app.client.aclose()
    assert len(await books.queue("mail")) == 3


def test_closing_while_threads_enqueue_lets_each_of_them_end(app: App, plain: redis.Redis) -> None:
    stored: list[str] = []
    ending = threading.Event()

    def produce() -> None:
        while not ending.is_set():
            try:
                stored.append(app.client.enqueue("mail").id)
            except EnqueueUnknown as exc:
                stored.extend(exc.ids)

    threads = [threading.Thread(target=produce, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        before = len(stored)
        until = time.monotonic() + 15
        while len(stored) < before + 5:
            assert time.monotonic() < until, "an enqueue hangs"
            time.sleep(0.001)
        app.client.close()
    ending.set()
    for thread in threads:
        thread.join(15)
        assert not thread.is_alive()
    assert set(ids_in(plain.lrange(f"{app.namespace}:jobs:mail", 0, -1))) <= set(stored)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_process_has_a_connection_and_ids_of_its_own(app: App, plain: redis.Redis) -> None:
    mine = app.client.enqueue("mail").id
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, app.client.enqueue("mail").id.encode())
        finally:
            os._exit(0)
    os.close(writer)
    theirs = os.read(reader, 100).decode()
    os.close(reader)
    os.waitpid(pid, 0)
    last = app.client.enqueue("mail").id
    assert len({mine, theirs, last}) == 3
    assert len(theirs) == 24
    assert ids_in(plain.lrange(f"{app.namespace}:jobs:mail", 0, -1)[::-1]) == [mine, theirs, last]


# -- round trips ---------------------------------------------------------------------------------------------


async def test_callers_at_the_same_time_share_round_trips(proxy: RespProxy, namespace: str, books: Books) -> None:
    app = App(proxy.url, namespace=namespace)
    await app.client.enqueue_async("mail")
    before = len([command for command in proxy.commands if names("LPUSH")(command)])
    receipts = await asyncio.gather(*(app.client.enqueue_async("mail", {"n": n}) for n in range(64)))
    pushes = [command for command in proxy.commands if names("LPUSH")(command)][before:]
    assert len(pushes) <= 4
    stored = await books.queue("mail")
    assert ids_in(stored)[1:] == [receipt.id for receipt in receipts]
    assert [json.loads(payload)["args"]["n"] for payload in stored[1:]] == list(range(64))
    await app.client.aclose()


async def test_enqueue_many_needs_few_round_trips(
    proxy: RespProxy, namespace: str, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "BULK_CHUNK", 1000)
    app = App(proxy.url, namespace=namespace)
    receipts = await app.client.enqueue_many_async(app.client.prepare("mail", {"n": n}) for n in range(2500))
    pushes = [command for command in proxy.commands if names("LPUSH")(command)]
    assert len(pushes) == 5, "500 jobs per command, three chunks"
    assert ids_in(await books.queue("mail")) == [receipt.id for receipt in receipts]
    assert await app.client.enqueue_many_async([]) == []
    await app.client.aclose()


def test_enqueue_many_from_plain_code(app: App, plain: redis.Redis) -> None:
    jobs = [
        app.client.prepare("mail", {"n": 1}), app.client.prepare("mail", {"n": 2}, delay=60),
        app.client.prepare("other", unique=True), app.client.prepare("other", unique=True),
    ]  # fmt: skip
    receipts = app.client.enqueue_many(jobs)
    assert [receipt.id for receipt in receipts] == [job.id for job in jobs]
    assert [receipt.duplicate for receipt in receipts] == [False, False, False, True]
    assert [plain.llen(f"{app.namespace}:jobs:{name}") for name in ("mail", "other")] == [1, 1]
    assert plain.zcard(f"{app.namespace}:scheduled") == 1


async def test_partly_enqueued_tells_which(app: App, raw: redis.asyncio.Redis, books: Books) -> None:
    await raw.set(f"{app.namespace}:jobs:broken", "no list")
    names_ = ["mail", "broken", "mail", "broken"]
    with pytest.raises(PartlyEnqueued, match="2 of 4 jobs were refused, the first with: WRONGTYPE") as caught:
        await app.client.enqueue_many_async(app.client.prepare(name, id=f"{n}") for n, name in enumerate(names_))
    answers = caught.value.answers
    assert [type(answer) for answer in answers] == [Receipt, StoreRefused, Receipt, StoreRefused]
    assert ids_in(await books.queue("mail")) == ["0", "2"]
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await app.client.enqueue_async("broken")


async def test_a_later_chunk_whose_fate_is_unknown_is_told_apart(
    proxy: RespProxy, namespace: str, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stored before must not be sent again by somebody who believes an error that says "not stored"."""
    monkeypatch.setattr(client_module, "BULK_CHUNK", 2)
    app = App(proxy.url, namespace=namespace)
    proxy.lose(lambda command: names("LPUSH")(command) and b'"id":"2"' in command[2])
    with pytest.raises(PartlyEnqueued) as caught:
        await app.client.enqueue_many_async(app.client.prepare("mail", id=f"{n}") for n in range(6))
    answers = caught.value.answers
    assert [type(answer) for answer in answers] == [
        Receipt, Receipt, EnqueueUnknown, EnqueueUnknown, StoreUnavailable, StoreUnavailable,
    ]  # fmt: skip
    assert [answer.ids for answer in answers if isinstance(answer, EnqueueUnknown)] == [("2",), ("3",)]
    assert ids_in(await books.queue("mail")) == ["0", "1", "2", "3"]
    await app.client.aclose()


async def test_a_failure_of_the_first_chunk_is_raised_as_it_is(proxy: RespProxy, namespace: str) -> None:
    app = App(proxy.url, namespace=namespace)
    proxy.lose(names("LPUSH"))
    with pytest.raises(EnqueueUnknown) as caught:
        await app.client.enqueue_many_async(app.client.prepare("mail", id=f"{n}") for n in range(5))
    assert caught.value.ids == ("0", "1", "2", "3", "4")
    assert "0, 1, 2 and 2 more" in str(caught.value)
    await app.client.aclose()


async def test_a_job_that_cannot_be_written_leaves_its_neighbours_alone(app: App, books: Books) -> None:
    """Jobs made by hand may be anything; whoever shares their round trip must not wait for ever."""
    bad = NewJob("mail", "bad", b"null", run_at=math.inf)
    calls = [app.client.enqueue_async("mail"), *(app.client.send_async(job) for job in (bad, bad))]
    results = await soon(asyncio.gather(*calls, return_exceptions=True))
    assert isinstance(results[0], Receipt)
    assert all(isinstance(result, Exception) for result in results[1:])
    await soon(app.client.enqueue_async("mail"))


async def test_a_caller_that_is_cancelled_takes_nobody_along(proxy: RespProxy, namespace: str, books: Books) -> None:
    app = App(proxy.url, namespace=namespace)
    await app.client.enqueue_async("mail", id="warm")
    proxy.slow(0.05, 0.05)
    calls = [asyncio.create_task(app.client.enqueue_async("mail", id=f"{n}")) for n in range(4)]
    await eventually(lambda: len([command for command in proxy.commands if names("LPUSH")(command)]) == 2)
    calls[0].cancel()
    calls[2].cancel()
    results = await soon(asyncio.gather(*calls, return_exceptions=True))
    assert [getattr(result, "id", None) for result in results] == [None, "1", None, "3"]
    assert set(ids_in(await books.queue("mail"))) >= {"warm", "1", "3"}
    await app.client.aclose()


# -- options -------------------------------------------------------------------------------------------------


async def test_options(app: App, books: Books, raw: redis.asyncio.Redis) -> None:
    now = time.time()
    client = app.client
    plain = await client.enqueue_async("mail", {"n": 1}, id="plain")
    late = await client.enqueue_async("mail", id="late", delay=60)
    fixed = await client.enqueue_async("mail", id="fixed", at=now + 120.5)
    past = await client.enqueue_async("mail", id="past", at=5)
    mortal = await client.enqueue_async("mail", id="mortal", expires_in=30)
    late_mortal = await client.enqueue_async("mail", id="late mortal", delay=60, expires_in=30)
    assert (plain.run_at, plain.duplicate) == (None, False)
    assert [receipt.id for receipt in (late, fixed, past, mortal, late_mortal)] == [
        "late", "fixed", "past", "mortal", "late mortal",
    ]  # fmt: skip
    members = await raw.zrange(f"{books.prefix}scheduled", 0, -1, withscores=True)
    scores = {json.loads(member)["id"]: score for member, score in members}
    assert 60 <= scores["late"] - now <= 62
    assert scores["fixed"] == math.ceil(now + 120.5)
    assert scores["past"] == 5
    jobs = {job["id"]: job for job in [*map(json.loads, await books.queue("mail")), *await books.scheduled()]}
    assert jobs["plain"] == {"name": "mail", "id": "plain", "t": jobs["plain"]["t"], "args": {"n": 1}}
    assert 30 <= jobs["mortal"]["deadline"] - now <= 32
    assert 90 <= jobs["late mortal"]["deadline"] - now <= 92


async def test_unique_jobs(app: App, books: Books) -> None:
    ran: list[int] = []

    @app.job
    async def mail(to: str, n: int = 0) -> None:
        ran.append(n)

    first = await mail.enqueue_unique_async("ada")
    again = await mail.enqueue_unique_async("ada")
    other = await mail.enqueue_unique_async("bob")
    assert [receipt.duplicate for receipt in (first, again, other)] == [False, True, False]
    assert ids_in(await books.queue("mail")) == [first.id, other.id]
    one = await mail.enqueue_unique_by_key_async({"to": "eve"}, "eve", 1)
    two = await mail.enqueue_unique_by_key_async({"to": "eve"}, "eve", 2)
    assert [receipt.duplicate for receipt in (one, two)] == [False, True]
    async with app.worker(concurrency=1) as pool:
        await soon(pool.drain())
        assert ran == [0, 0, 2], "the later arguments of the same key win"
        assert not (await mail.enqueue_unique_async("ada")).duplicate, "the first one has started"
        await soon(pool.drain())
    assert await books.at_rest("mail")


async def test_ways_of_enqueueing_a_job_function(app: App, books: Books) -> None:
    @app.job
    async def mail(to: str) -> None: ...

    await mail.enqueue_async("ada")
    await mail.enqueue_async(to="ada")
    await mail.enqueue_in_async(60, "ada")
    await mail.enqueue_at_async(time.time() + 60, to="ada")
    await mail.options(delay=60, id="mine").enqueue_async("ada")
    await mail.options(id="yours").options(delay=60).enqueue_async("ada")
    await app.client.enqueue_many_async([mail.prepare("ada"), mail.options(at=2e9).prepare("ada")])
    assert await books.places("mail") == {"queue": 3, "scheduled": 5}
    everything = [*map(json.loads, await books.queue("mail")), *await books.scheduled()]
    assert all(job["args"] == {"to": "ada"} for job in everything)
    assert {"mine", "yours"} <= {job["id"] for job in everything}


def test_sync_twins(app: App, plain: redis.Redis) -> None:
    @app.job
    def mail(to: str) -> None: ...

    mail.enqueue("ada")
    mail.enqueue_in(60, "ada")
    mail.enqueue_at(2e9, to="ada")
    assert [mail.enqueue_unique("bob").duplicate for _ in range(2)] == [False, True]
    assert [mail.enqueue_unique_by_key({"k": 1}, "eve").duplicate for _ in range(2)] == [False, True]
    assert plain.llen(f"{app.namespace}:jobs:mail") == 3
    assert plain.zcard(f"{app.namespace}:scheduled") == 2


@pytest.mark.parametrize(
    "options",
    [
        {"delay": 5, "at": 5}, {"delay": math.inf}, {"delay": math.nan}, {"at": -math.inf}, {"expires_in": 0},
        {"expires_in": -1}, {"expires_in": math.nan}, {"id": ""}, {"id": "two\nlines"}, {"id": "\ud800"},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_cannot_be_meant(options: dict[str, Any]) -> None:
    app = App(namespace="never-connected")

    @app.job
    def mail() -> None: ...

    for prepare in (lambda: app.client.prepare("mail", **options), mail.options(**options).prepare):
        with pytest.raises(ConfigError, match=next(iter(options))):
            prepare()


@pytest.mark.parametrize("name", ["", "a,b", "a\nb", "a\x00", "x" * 257, "mail:lock", "a:b:inprogress"])
def test_names_that_cannot_be_used(name: str) -> None:
    app = App(namespace="never-connected")
    with pytest.raises(ConfigError, match="cannot be used"):
        app.client.prepare(name)
    with pytest.raises(ConfigError, match="cannot be used"):
        app.job(name=name)(lambda: None)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({"a": math.nan}, "$.a is NaN"),
        ({"a": [1, math.inf]}, "$.a[1] is Infinity"),
        ({"a": {"b": 2**64}}, "$.a.b is an integer of 65 bits"),
        ({"a": "\udcff"}, "lone surrogate"),
        ({"a": object()}, "has no JSON form"),
        ({"a": {1.5: 2}}, "keys must be text"),
        ({"a": {1, "x"}}, "items cannot be ordered"),
        ({"big": "x" * (1 << 20)}, "store the data elsewhere"),
    ],
)
def test_arguments_that_cannot_be_sent(args: dict[str, object], reason: str) -> None:
    client = App(namespace="never-connected").client
    with pytest.raises(EncodeError, match="job 'mail' cannot be sent") as caught:
        client.prepare("mail", args)
    assert reason in str(caught.value)
    with pytest.raises(EncodeError):
        client.prepare("mail", key=args)


async def test_nothing_is_sent_when_something_is_wrong(app: App, raw: redis.asyncio.Redis) -> None:
    for wrong in ({"args": {"a": math.nan}}, {"expires_in": -1}, {"id": ""}):
        with pytest.raises(ValueError):  # noqa: PT011 - ConfigError and EncodeError are both one
            await app.client.enqueue_async("mail", **wrong)  # type: ignore[arg-type]
    assert not await raw.keys(f"{app.namespace}:*")


def test_ids_are_random_and_short() -> None:
    ids = {client_module.new_id() for _ in range(2000)}
    assert len(ids) == 2000
    assert all(len(id) == 24 and set(id) <= set("0123456789abcdef") for id in ids)


# -- errors --------------------------------------------------------------------------------------------------


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    app = App(f"unix://{tmp_path / 'nobody'}", namespace="t")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="nobody cannot be reached"):
            app.client.enqueue("mail")
    app.client.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://localhost", "does not begin with redis://"),
        ("redis://localhost:99999", "no host or port that can be read"),
        ("redis://localhost/five", "the database must be a number"),
        ("unix://", "names no socket"),
        ("", "does not begin with"),
    ],
)
def test_urls_that_cannot_work(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match="url") as caught:
        App(url)
    assert reason in str(caught.value)


def test_passwords_are_never_shown(tmp_path: Path) -> None:
    secret = "s3cr3t"
    for url in (f"redis://user:{secret}@localhost:1/0", f"unix://:{secret}@{tmp_path}/nobody"):
        app = App(url, namespace="t", timeout=0.5)
        with pytest.raises(StoreError) as caught:
            app.client.enqueue("mail")
        app.client.close()
        assert secret not in str(caught.value)
    for url in (f"redis://:{secret}@localhost:port", f"http://u:{secret}@h"):
        with pytest.raises(ConfigError) as wrong:
            App(url)
        assert secret not in str(wrong.value)


def test_a_password_that_is_wrong_says_so(server: EmbeddedServer) -> None:
    app = App(f"unix://nobody:wrong@{server.socket}", namespace="t")
    with pytest.raises(StoreUnavailable, match="refuses the login") as caught:
        app.client.enqueue("mail")
    app.client.close()
    assert "wrong" not in str(caught.value).replace("WRONGPASS", "")


def test_one_client_belongs_to_one_app() -> None:
    app = App(namespace="never-connected")
    assert app.client is app.client
    assert isinstance(app.client, Client)
    with pytest.raises(ConfigError, match="connected already"):
        app.use("redis://elsewhere")
