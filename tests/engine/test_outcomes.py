"""What becomes of a job whose handler failed: attempts, backoff, retry policies, and jobs that must not run at all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest
import redis.asyncio
from tests.support import Books, eventually

from packhorse import App, ConfigError, GiveUp, Job, RetryLater, UnknownJob
from packhorse.engine.outcome import LONGEST_DELAY, MAX_BACKOFF, decide, default_backoff, error_text
from packhorse.engine.pool import WorkerPool
from packhorse.protocols.base import DONE, Again, Dead, Dropped
from packhorse.registry import Handler, Kind, Options

NOW = 1_000_000.0


class Declined(LookupError):
    """A failure that no further attempt will mend."""


class CardDeclined(Declined):
    """A special case of it."""


def handler(**options: object) -> Handler:
    def tried() -> None:
        pass

    return Handler("tried", tried, Kind.THREAD, Options(**options))  # type: ignore[arg-type]


def outcome(error: BaseException | None, fails: int = 0, **options: object) -> object:
    return decide(handler(**options), Job("tried", "1", fails=fails), error, NOW)


@pytest.mark.parametrize("fails", range(4))
def test_four_attempts_are_the_default(fails: int) -> None:
    assert isinstance(outcome(ValueError("no"), fails), Again if fails < 3 else Dead)


@pytest.mark.parametrize(
    ("options", "error", "fails", "expected"),
    [
        ({"max_fails": 1}, ValueError("no"), 0, Dead("ValueError: no")),
        ({"max_fails": 1, "skip_dead": True}, ValueError("no"), 0, Dropped("ValueError: no")),
        ({"skip_dead": True}, GiveUp("never"), 0, Dead("never")),
        ({}, GiveUp(), 0, Dead("given up by its handler")),
        ({"max_fails": 1}, RetryLater(5), 0, Again(NOW + 5, None)),
        ({"max_fails": 1}, RetryLater(math.inf), 0, Again(NOW + LONGEST_DELAY, None)),
        ({"retry": {Declined: 1}}, Declined("no"), 0, Dead("Declined: no")),
        ({"retry": {Declined: 1}}, CardDeclined("no"), 0, Dead("CardDeclined: no")),
        ({"retry": {LookupError: 1, Declined: 2}, "backoff": lambda _: 7}, CardDeclined("x"), 0,
         Again(NOW + 7, "CardDeclined: x")),
        ({"retry": {Declined: 2}}, CardDeclined("x"), 1, Dead("CardDeclined: x")),
        ({"retry": {Declined: None}, "max_fails": 1}, Declined("x"), 0, Dead("Declined: x")),
        ({"retry": {Declined: 9}, "max_fails": 1, "backoff": lambda _: 0}, Declined("x"), 7,
         Again(NOW, "Declined: x")),
        ({"retry": {Declined: 1}, "backoff": lambda _: 0}, KeyError("x"), 0, Again(NOW, "KeyError: 'x'")),
        ({}, None, 0, DONE),
    ],
)  # fmt: skip
def test_outcomes(options: dict[str, object], error: BaseException | None, fails: int, expected: object) -> None:
    assert outcome(error, fails, **options) == expected


def raising(_: Job) -> float:
    raise SystemExit(1)


@pytest.mark.parametrize(
    ("backoff", "seconds"),
    [
        (lambda job: 10 * job.fails, 10),
        (lambda job: 2.5, 2.5),
        (lambda job: 0, 0),
        (lambda job: -5, 0),
        (lambda job: math.inf, LONGEST_DELAY),
        (lambda job: True, 1),
    ],
)
def test_a_backoff_of_ones_own(backoff: Callable[[Job], float], seconds: float) -> None:
    assert outcome(ValueError(), backoff=backoff) == Again(NOW + seconds, "ValueError")


@pytest.mark.parametrize("backoff", [raising, lambda job: math.nan, lambda job: None, lambda job: "x"])
def test_a_backoff_that_fails_is_replaced_by_the_default(
    backoff: Callable[[Job], float], caplog: pytest.LogCaptureFixture
) -> None:
    again = outcome(ValueError(), backoff=backoff)
    assert isinstance(again, Again)
    assert 16 <= again.at - NOW <= 16 + 58
    assert "backoff of job 'tried' failed" in caplog.text


def test_the_default_backoff_is_that_of_go_and_at_most_a_day() -> None:
    for fails in (1, 2, 3, 10):
        seconds = [default_backoff(fails) for _ in range(200)]
        assert min(seconds) >= fails**4 + 15
        assert max(seconds) <= fails**4 + 15 + 29 * (fails + 1)
    assert default_backoff(10**9) == MAX_BACKOFF


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Exception("plain"), "plain"),
        (Exception(), "Exception"),
        (ValueError("typed"), "ValueError: typed"),
        (ValueError(), "ValueError"),
        (GiveUp("reason"), "reason"),
        (UnknownJob("x"), "UnknownJob: x"),
        (ValueError("two\nlines"), "ValueError: two\nlines"),
    ],
)
def test_error_texts(error: BaseException, text: str) -> None:
    assert error_text(error) == text


@pytest.mark.parametrize("delay", [-1, math.nan, -math.inf])
def test_a_snooze_into_the_past_is_refused(delay: float) -> None:
    with pytest.raises(ValueError, match="0 or more seconds"):
        RetryLater(delay)


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 0}, {"priority": 100_001}, {"max_fails": 0}, {"max_concurrency": -1}, {"timeout": 0},
        {"timeout": math.nan}, {"retry": {ValueError: 0}}, {"retry": {"ValueError": 1}},
    ],
)  # fmt: skip
def test_options_that_cannot_work(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Options(**options)  # type: ignore[arg-type]


async def test_a_job_comes_back_until_its_attempts_are_used_up(app: App, books: Books) -> None:
    attempts: list[tuple[int, int, str]] = []

    @app.job(max_fails=3, backoff=lambda job: 0)
    async def tried(job: Job, n: int) -> None:
        attempts.append((job.attempt, job.fails, job.last_error))
        raise ValueError(f"failure {job.attempt}")

    async with app.worker(concurrency=1):
        await tried.enqueue_async(n=1)
        await eventually(books.dead)
    assert attempts == [(1, 0, ""), (2, 1, "ValueError: failure 1"), (3, 2, "ValueError: failure 2")]
    (dead,) = await books.dead()
    assert (dead["fails"], dead["err"], dead["args"]) == (3, "ValueError: failure 3", {"n": 1})
    assert abs(dead["failed_at"] - time.time()) < 60
    assert await books.at_rest("tried")


async def test_a_snooze_costs_no_attempt(app: App, books: Books) -> None:
    attempts: list[int] = []

    @app.job(max_fails=1)
    async def tried(job: Job) -> None:
        attempts.append(job.attempt)
        if len(attempts) < 2:
            raise RetryLater(0)

    async with app.worker(concurrency=1) as pool:
        await tried.enqueue_async()
        await eventually(lambda: pool.stats.done == 1)
    assert attempts == [1, 1]
    assert await books.places("tried") == {}
    assert await books.at_rest("tried")


async def test_a_job_that_is_not_kept_when_dead(app: App, books: Books) -> None:
    @app.job(max_fails=1, skip_dead=True)
    async def tried() -> None:
        raise ValueError("never mind")

    async with app.worker(concurrency=1) as pool:
        await tried.enqueue_async()
        await eventually(lambda: pool.stats.failed == 1)
    assert await books.places("tried") == {}
    assert await books.at_rest("tried")


async def test_a_job_that_is_too_late_does_not_run(app: App, books: Books, raw: redis.asyncio.Redis) -> None:
    ran: list[str] = []

    @app.job
    async def tried(job: Job) -> None:
        ran.append(job.id)

    await tried.options(id="early", expires_in=600).enqueue_async()
    (payload,) = await books.queue("tried")
    late = payload.replace(b"early", b"late").split(b'"deadline":')[0] + b'"deadline":1000}'
    await raw.lpush(f"{books.prefix}jobs:tried", late)
    async with app.worker(concurrency=1) as pool:
        await all_settled(pool, books)
    assert ran == ["early"]
    (dead,) = await books.dead()
    assert (dead["id"], dead["err"]) == ("late", "expired: not started by 1000")


async def test_what_cannot_run_is_kept_and_stops_nobody(app: App, books: Books, raw: redis.asyncio.Redis) -> None:
    """Bad input never disappears: each goes to the dead set with a reason, and the good one behind it runs."""
    ran: list[int] = []

    @app.job
    async def tried(n: int) -> None:
        ran.append(n)

    bad = {
        b"not json": "undecodable payload: JSON is malformed",
        b"[]": "undecodable payload: Expected `object`",
        b'{"name":"tried","id":"a","t":1,"args":[1]}': "undecodable payload: args must be an object or null",
        b'{"name":"somebody else","id":"b","t":1,"args":null}': "stray job: no handler",
        b'{"name":"tried","id":"c","t":1,"args":{"n":1},"deadline":1}': "expired: not started by 1",
    }
    await raw.lpush(f"{books.prefix}jobs:tried", *bad)
    await tried.enqueue_async(n=5)
    async with app.worker(concurrency=1) as pool:
        await all_settled(pool, books)
    assert ran == [5]
    errors = [job["err"] for job in await books.dead()]
    assert len(errors) == len(bad)
    for reason in bad.values():
        assert [reason in error for error in errors].count(True) == 1, reason


async def all_settled(pool: WorkerPool, books: Books) -> None:
    await pool.drain()
    assert await books.at_rest("tried")
    assert not await books.queue("tried")
