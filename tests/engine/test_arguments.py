"""Handler parameters: what is converted, what is refused and where, and what Go's movers do to values on the way."""

from __future__ import annotations

import datetime as dt
import functools
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
import redis.asyncio
from tests.support import Books, eventually

from packhorse import App, ArgumentsError, ConfigError, EncodeError, Job


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: float = 0.5


class Tagged(TypedDict, total=False):
    tags: list[str]
    size: int


class Order(msgspec.Struct):
    id: uuid.UUID
    lines: list[Point] = []


WHEN = dt.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=dt.UTC)
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


def an_int(value: int) -> None: ...
def a_float(value: float) -> None: ...
def a_text(value: str) -> None: ...
def a_bool(value: bool) -> None: ...
def ints(value: list[int]) -> None: ...
def lists(value: list[list[int]]) -> None: ...
def a_tuple(value: tuple[int, str]) -> None: ...
def a_set(value: set[int]) -> None: ...
def a_dict(value: dict[str, int]) -> None: ...
def dict_of_lists(value: dict[str, list[int]]) -> None: ...
def by_number(value: dict[int, str]) -> None: ...
def a_time(value: dt.datetime) -> None: ...
def a_date(value: dt.date) -> None: ...
def a_uuid(value: uuid.UUID) -> None: ...
def an_enum(value: Color) -> None: ...
def a_point(value: Point) -> None: ...
def points(value: list[Point]) -> None: ...
def an_order(value: Order) -> None: ...
def maybe_int(value: int | None) -> None: ...
def maybe_ints(value: list[int] | None) -> None: ...
def maybe_lists(value: list[list[int]] | None) -> None: ...
def a_typed_dict(value: Tagged) -> None: ...
def tuples(value: list[tuple[int, list[int]]]) -> None: ...
def numbered_lists(value: dict[int, list[int]]) -> None: ...
def a_sequence(value: Sequence[int]) -> None: ...
def int_or_text(value: int | str) -> None: ...
def literal(value: Literal["a", "b"]) -> None: ...
def some_bytes(value: bytes) -> None: ...
def at_least_one(value: Annotated[int, msgspec.Meta(ge=1)]) -> None: ...
def anything(value: Any) -> None: ...
def untyped(value) -> None: ...  # type: ignore[no-untyped-def]


Handler = Callable[..., None]

GOOD: list[tuple[Handler, Any]] = [
    (an_int, 5), (an_int, -(2**63)), (an_int, 2**63 - 1), (a_float, 1.5), (a_float, 2), (a_float, 1e300),
    (a_text, ""), (a_text, "ünïcödé \U0001f40e \n\x00 <&>\u2028"), (a_bool, True), (ints, []), (ints, [1, 2]),
    (lists, [[], [1]]), (a_tuple, (1, "a")), (a_set, {1, 2}), (a_dict, {}), (a_dict, {"a": 1}),
    (dict_of_lists, {"a": [], "b": [1]}), (by_number, {5: "five"}), (a_time, WHEN),
    (a_time, WHEN.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30)))),
    (a_time, WHEN.replace(tzinfo=None)), (a_date, dt.date(2024, 2, 29)), (a_uuid, ID), (an_enum, Color.BLUE),
    (a_point, Point(1)), (points, [Point(1), Point(2, 3.0)]), (an_order, Order(ID, [Point(7)])), (maybe_int, None),
    (maybe_int, 5), (maybe_ints, None), (maybe_ints, []), (int_or_text, "5"), (int_or_text, 5), (literal, "b"),
    (some_bytes, b"\x00\xff"), (at_least_one, 1), (anything, {"a": [1, None, "x"]}), (untyped, [1.5]),
]  # fmt: skip

BAD: list[tuple[Handler, Any, str]] = [
    (an_int, "5", "Expected `int`, got `str`"),
    (an_int, 1.5, "Expected `int`, got `float`"),
    (an_int, True, "Expected `int`, got `bool`"),
    (an_int, None, "Expected `int`, got `null`"),
    (a_float, "1.5", "Expected `float`, got `str`"),
    (a_text, 5, "Expected `str`, got `int`"),
    (a_bool, 1, "Expected `bool`, got `int`"),
    (ints, ["a"], "Expected `int`, got `str`"),
    (ints, {"a": 1}, "Expected `array`, got `object`"),
    (a_tuple, (1,), "Expected `array` of length 2"),
    (a_dict, {"a": "b"}, "Expected `int`, got `str`"),
    (a_time, "yesterday", "Invalid RFC3339 encoded datetime"),
    (a_uuid, "12345", "Invalid UUID"),
    (an_enum, "green", "Invalid enum value 'green'"),
    (a_point, {"y": 1}, "missing required field `x`"),
    (maybe_int, "x", "Expected `int | null`, got `str`"),
    (literal, "c", "Invalid enum value 'c'"),
    (at_least_one, 0, "Expected `int` >= 1"),
]


def registered(fn: Handler) -> Any:
    return App(namespace="never-connected").job(name="tried")(fn)


def name_of(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize(("fn", "value"), GOOD, ids=name_of)
def test_values_arrive_as_they_were_sent(fn: Handler, value: Any) -> None:
    job = registered(fn)
    for prepared in (job.prepare(value=value), job.prepare(value)):
        assert job.handler.bind_raw(prepared.args) == ((value,), {})
        assert job.handler.bind_raw(prepared.args)[0][0].__class__ is value.__class__ or fn is a_float


@pytest.mark.parametrize(("fn", "value", "reason"), BAD, ids=name_of)
def test_values_of_the_wrong_type_are_refused_before_anything_is_sent(fn: Handler, value: Any, reason: str) -> None:
    job = registered(fn)
    with pytest.raises(ArgumentsError) as caught:
        job.prepare(value=value)
    assert reason in str(caught.value)
    assert "arguments of job 'tried' do not fit its handler" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "$.value is NaN"),
        (2**64, "$.value is an integer of 65 bits"),
        ("\ud800", "lone surrogate"),
        (object(), "has no JSON form"),
        (functools.reduce(lambda inner, _: [inner], range(101), []), "nested deeper than 100"),
        ("x" * (1 << 20), "more than 1048576"),
    ],
    ids=str,
)  # fmt: skip
def test_values_that_the_wire_cannot_carry(value: Any, reason: str) -> None:
    with pytest.raises(EncodeError, match="job 'tried' cannot be sent") as caught:
        registered(anything).prepare(value=value)
    assert reason in str(caught.value)


# What Go's movers make of a value (as JSON) -> what the handler gets all the same.
MANGLED: list[tuple[Handler, str, Any]] = [
    (ints, "{}", []),
    (lists, "[{},[1]]", [[], [1]]),
    (lists, "{}", []),
    (a_set, "{}", set()),
    (dict_of_lists, '{"a":{}}', {"a": []}),
    (maybe_ints, "{}", []),
    (an_int, "1e+14", 10**14),
    (an_int, "1.0", 1),
    (ints, "[1e+14,2]", [10**14, 2]),
    (a_dict, '{"a":1e+15}', {"a": 10**15}),
    (maybe_int, "1e+14", 10**14),
    (a_dict, "{}", {}),
    (a_float, "1e+14", 1e14),
    (anything, "{}", {}),
    (untyped, "1e+14", 1e14),
    (an_order, f'{{"id":"{ID}","lines":{{}}}}', Order(ID, [])),
    (a_point, '{"x":1e+14,"y":1}', Point(10**14, 1.0)),
    (maybe_lists, "[{}]", [[]]),
    (a_typed_dict, '{"tags":{},"size":1e+14}', {"tags": [], "size": 10**14}),
    (a_tuple, '[1e+14,"a"]', (10**14, "a")),
    (tuples, "[[1.0,{}]]", [(1, [])]),
    (at_least_one, "1e+14", 10**14),
    (numbered_lists, '{"5":{}}', {5: []}),
    (a_sequence, "{}", []),
]


@pytest.mark.parametrize(("fn", "text", "value"), MANGLED, ids=name_of)
def test_what_gos_movers_damage_is_mended(fn: Handler, text: str, value: Any) -> None:
    job = registered(fn)
    assert job.handler.bind_raw(f'{{"value":{text}}}'.encode()) == ((value,), {})


@pytest.mark.parametrize(
    ("fn", "text"), [(ints, '{"a":1}'), (an_int, "1.5"), (an_int, "1e400"), (a_text, "{}"), (a_bool, "1.0")]
)
def test_what_is_really_wrong_is_not_mended(fn: Handler, text: str) -> None:
    with pytest.raises(ArgumentsError):
        registered(fn).handler.bind_raw(f'{{"value":{text}}}'.encode())


def defaults(a: int, b: str = "bee", *, c: list[int] | None = None, d: int = 4) -> None: ...
def rest(a: int, b: int = 2, **others: Any) -> None: ...
def numbered_rest(a: dict[int, str], **others: Any) -> None: ...
def none_at_all() -> None: ...
def job_first(job: Job, a: int) -> None: ...
def odd_names(self: int, raw: int, f0: str, name: str) -> None: ...


@pytest.mark.parametrize(
    ("fn", "args", "kwargs", "sent", "call"),
    [
        (defaults, (1,), {}, {"a": 1}, ((1, "bee"), {"c": None, "d": 4})),
        (defaults, (1, "x"), {"d": 5}, {"a": 1, "b": "x", "d": 5}, ((1, "x"), {"c": None, "d": 5})),
        (defaults, (), {"c": [1], "a": 1}, {"a": 1, "c": [1]}, ((1, "bee"), {"c": [1], "d": 4})),
        (rest, (1,), {"z": 5}, {"a": 1, "z": 5}, ((), {"a": 1, "b": 2, "z": 5})),
        (rest, (), {"a": 1, "others": 5}, {"a": 1, "others": 5}, ((), {"a": 1, "b": 2, "others": 5})),
        (numbered_rest, (), {"a": {5: "five"}, "z": 1}, {"a": {"5": "five"}, "z": 1}, ((), {"a": {5: "five"}, "z": 1})),
        (rest, (1, 3), {}, {"a": 1, "b": 3}, ((), {"a": 1, "b": 3})),
        (none_at_all, (), {}, None, ((), {})),
        (job_first, (1,), {}, {"a": 1}, ((1,), {})),
        (odd_names, (1, 2, "x", "n"), {}, {"self": 1, "raw": 2, "f0": "x", "name": "n"}, ((1, 2, "x", "n"), {})),
    ],
)  # fmt: skip
def test_calls(
    fn: Handler, args: tuple[Any, ...], kwargs: dict[str, Any], sent: dict[str, Any] | None, call: object
) -> None:
    job = registered(fn)
    prepared = job.prepare(*args, **kwargs)
    assert json.loads(prepared.args) == sent
    assert job.handler.bind_raw(prepared.args) == call


@pytest.mark.parametrize(
    ("fn", "args", "kwargs", "reason"),
    [
        (defaults, (), {}, "missing a required argument: 'a'"),
        (defaults, (1,), {"a": 1}, "multiple values for argument 'a'"),
        (defaults, (1, "x", [1]), {}, "too many positional arguments"),
        (defaults, (1,), {"e": 1}, "got an unexpected keyword argument 'e'"),
        (none_at_all, (), {"a": 1}, "got an unexpected keyword argument 'a'"),
        (job_first, (), {}, "missing a required argument: 'a'"),
        (job_first, (), {"a": 1, "job": 2}, "got an unexpected keyword argument 'job'"),
        (rest, (), {"z": 1}, "missing a required argument: 'a'"),
        (rest, (), {"a": "x"}, "Expected `int`, got `str`"),
    ],
)
def test_calls_that_do_not_fit(fn: Handler, args: tuple[Any, ...], kwargs: dict[str, Any], reason: str) -> None:
    with pytest.raises(ArgumentsError) as caught:
        registered(fn).prepare(*args, **kwargs)
    assert reason in str(caught.value)


def test_arguments_that_are_absent_null_or_empty_are_the_same() -> None:
    job = registered(none_at_all)
    assert [job.handler.bind_raw(raw) for raw in (b"null", b"{}")] == [((), {})] * 2
    assert registered(defaults).handler.bind_raw(b'{"a":1}') == ((1, "bee"), {"c": None, "d": 4})
    with pytest.raises(ArgumentsError, match="unknown field `x`"):
        job.handler.bind_raw(b'{"x":1}')


class Callee:
    """Its instances and methods can be called."""

    async def method(self, a: int) -> None: ...
    async def __call__(self, a: int) -> None: ...


def positional_only(a: int, /) -> None: ...
def star(*a: int) -> None: ...
def unreadable(a: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def unspeakable(a: Point | Order) -> None: ...
def generator(a: int) -> Any:
    yield a


async def async_generator(a: int) -> Any:
    yield a


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (positional_only, "positional_only cannot have the parameter"),
        (star, "star cannot have the parameter"),
        (unreadable, "an annotation of unreadable cannot be read"),
        (unspeakable, "a parameter's annotation cannot travel as JSON"),
        (generator, "is a generator"),
        (async_generator, "is a generator"),
        (Callee, "must be a function"),
        (Callee(), "must be a function"),
        (functools.partial(an_int, value=1), "must be a function"),
        (5, "must be a function"),
    ],
    ids=str,
)
def test_functions_that_cannot_be_handlers(fn: Any, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registered(fn)
    assert reason in str(caught.value)


def test_a_bound_method_is_a_function() -> None:
    assert registered(Callee().method).prepare(5).args == b'{"a":5}'


@pytest.mark.parametrize(
    ("fn", "kind", "reason"),
    [
        (Callee.method, "thread", "needs a plain function, not an async one"),
        (an_int, "coroutine", "needs an async function"),
        (an_int, "fibre", "'fibre' is not one of 'coroutine', 'thread', 'process'"),
    ],
)
def test_kinds_that_do_not_fit(fn: Handler, kind: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        App(namespace="never-connected").job(name="tried", kind=kind)(fn)
    assert reason in str(caught.value)


def test_a_process_cannot_import_what_is_inside_a_function() -> None:
    def inner() -> None: ...

    with pytest.raises(ConfigError, match="must be a module-level function"):
        App(namespace="never-connected").job(kind="process")(inner)


def test_two_handlers_cannot_have_one_name() -> None:
    app = App(namespace="never-connected")
    app.job(name="tried")(an_int)
    with pytest.raises(ConfigError, match=r"registered twice: .*an_int and .*a_text; give one of them another name="):
        app.job(name="tried")(a_text)


def test_a_job_function_can_still_be_called() -> None:
    app = App(namespace="never-connected")

    @app.job
    def add(a: int, b: int = 1) -> int:
        """Adds."""
        return a + b

    @app.job
    def which(job: Job, a: int) -> str:
        return f"{job.name} {a}"

    assert add(2) == 3
    assert which(5) == "which 5"
    assert (add.__doc__, add.__name__) == ("Adds.", "add")


async def test_wrong_arguments_write_nothing(app: App, books: Books, raw: redis.asyncio.Redis) -> None:
    job = app.job(name="tried")(an_int)
    for enqueue in (job.enqueue_async, job.enqueue_unique_async, functools.partial(job.enqueue_in_async, 5)):
        with pytest.raises(ArgumentsError):
            await enqueue("five")  # type: ignore[arg-type]
    assert not await raw.keys(f"{books.prefix}*")


async def test_wrong_arguments_in_a_queue_are_a_failure_that_says_why(
    app: App, books: Books, raw: redis.asyncio.Redis
) -> None:
    ran: list[int] = []

    @app.job(max_fails=1)
    async def in_coroutine(n: int) -> None:
        ran.append(n)

    @app.job(max_fails=1)
    def in_thread(n: int) -> None:
        ran.append(n)

    for job in (in_coroutine, in_thread):
        await app.client.enqueue_async(job.name, {"n": "five"})  # by name: nobody knows the signature
        await app.client.enqueue_async(job.name, {"m": 5, "n": 1})
        await app.client.enqueue_async(job.name)
        await job.enqueue_async(n=7)
    async with app.worker(concurrency=2) as pool:
        await pool.drain()
    assert ran == [7, 7]
    errors = [job["err"] for job in await books.dead() if job["name"] == "in_thread"]
    assert sorted(errors) == [
        "ArgumentsError: arguments of job 'in_thread' do not fit its handler: " + reason
        for reason in (
            "Expected `int`, got `str` - at `$.n`",
            "Object contains unknown field `m`",
            "Object missing required field `n`",
        )
    ]
    assert await books.at_rest("in_coroutine", "in_thread")


async def test_mangled_arguments_run(app: App, raw: redis.asyncio.Redis, books: Books) -> None:
    ran: list[tuple[int, list[int]]] = []

    @app.job
    async def tried(big: int, many: list[int]) -> None:
        ran.append((big, many))

    payload = b'{"name":"tried","id":"1","t":1,"args":{"big":1e+14,"many":{}}}'
    await raw.lpush(f"{books.prefix}jobs:tried", payload)
    async with app.worker(concurrency=1):
        await eventually(lambda: ran)
    assert ran == [(10**14, [])]
