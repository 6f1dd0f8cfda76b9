"""The codec reads what Go reads, refuses what Go refuses, and changes nothing that it was not asked to."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import rows, vectors

from packhorse.errors import DecodeError
from packhorse.job import Job
from packhorse.protocols.base import NewJob
from packhorse.protocols.gocraft import codec

NOW = 2_000_000_000
few = settings(max_examples=80, deadline=None)

raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def fields(payload: bytes) -> dict[str, bytes]:
    return {name: bytes(text) for name, text in raw_fields(payload).items()}


# Payloads as any producer may write them: odd numbers, escapes, spaces, order, letter case, unknown fields.

numbers = st.sampled_from(
    ["0", "-0", "1.0", "1E5", "1e-7", "9007199254740993", "12345678901234567890", "0.30000000000000004"]
)
strings = st.sampled_from([r'"a\/b"', r'"\u00e9\u2028"', '"é"', r'"\ud83d\ude00"', '"<&>"', '"{\\"t\\":1}"', '""'])
scalars = st.one_of(numbers, strings, st.sampled_from(["null", "true", "false", "[]", "{}"]))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(strings, inner), max_size=3).map(
            lambda items: "{ " + " , ".join(f"{key} : {value}" for key, value in items) + " }"
        ),
    ),
    max_leaves=6,
)
objects = st.lists(st.tuples(strings, values), max_size=3).map(
    lambda items: "{" + ",".join(f"{key}: {value}" for key, value in items) + "}"
)
integers = st.integers(0, 2**63 - 1).map(str)
texts = st.text(max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False))
known = st.fixed_dictionaries(
    {"name": texts, "id": texts, "t": integers, "args": st.one_of(objects, st.just("null"))},
    optional={
        "unique": st.sampled_from(["true", "false"]), "unique_key": texts, "err": texts,
        "failed_at": integers, "fails": st.integers(0, 50).map(str),
    },
)  # fmt: skip
unknown = st.dictionaries(st.sampled_from(["extra", "trace-id", "x"]), values, max_size=2)


def spell(given: dict[str, str], order: list[int] | None = None, space: str = "") -> bytes:
    items = [f'"{name}"{space}:{space}{text}' for name, text in given.items()]
    if order is not None:
        items = [items[i % len(items)] for i in sorted(range(len(items)), key=lambda i: order[i % len(order)])]
    return f"{space}{{{','.join(items)}{space}}}{space}".encode("utf-8", "replace")


@st.composite
def payloads(draw: st.DrawFn) -> tuple[bytes, dict[str, str], dict[str, str]]:
    """(payload, its known fields, its unknown fields)"""
    ours, theirs = draw(known), draw(unknown)
    order = draw(st.lists(st.integers(0, 99), min_size=1, max_size=12))
    return spell(ours | theirs, order, draw(st.sampled_from(["", " ", "\n\t"]))), ours, theirs


def meaning(job: Job) -> tuple[Any, ...]:
    return (
        job.name, job.id, job.enqueued_at, job.args_json, job.unique, job.unique_key,
        job.fails, job.last_error, job.failed_at,
    )  # fmt: skip


@given(payloads(), st.text(max_size=20))
@few
def test_a_failure_changes_three_fields(payload: tuple[bytes, dict[str, str], dict[str, str]], error: str) -> None:
    raw, ours, theirs = payload
    before = codec.decode(raw, "q")
    failed = codec.failed(raw, error, NOW)
    after = codec.decode(failed, "q")
    assert (after.fails, after.failed_at) == (before.fails + 1, NOW)
    assert after.last_error == error.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    untouched = {**ours, **theirs}
    for name in ("fails", "err", "failed_at"):
        untouched.pop(name, None)
    assert fields(failed).items() >= {name: text.encode() for name, text in untouched.items()}.items()
    assert codec.dangerous(failed) is None


@given(payloads())
@few
def test_a_move_changes_the_second_only(payload: tuple[bytes, dict[str, str], dict[str, str]]) -> None:
    raw, ours, theirs = payload
    wanted = {**ours, **theirs, "t": str(NOW)}
    assert fields(codec.stamped(raw, NOW)) == {name: text.encode() for name, text in wanted.items()}


@given(payloads(), st.booleans())
@few
def test_a_job_back_from_the_dead_has_no_error(
    payload: tuple[bytes, dict[str, str], dict[str, str]], keep_fails: bool
) -> None:
    raw, ours, theirs = payload
    wanted = {**ours, **theirs, "t": str(NOW)}
    for name in ("err", "failed_at") if keep_fails else ("err", "failed_at", "fails"):
        wanted.pop(name, None)
    back = codec.unfailed(raw, NOW, keep_fails=keep_fails)
    assert fields(back) == {name: text.encode() for name, text in wanted.items()}


@given(known, unknown, st.data())
@few
def test_field_names_count_in_any_letter_case(
    ours: dict[str, str], theirs: dict[str, str], data: st.DataObject
) -> None:
    cases = st.sampled_from([str.upper, str.title, str.swapcase, str.lower])
    odd = {data.draw(cases)(name): text for name, text in ours.items()}
    job, plain = codec.decode(spell(odd | theirs), "q"), codec.decode(spell(ours), "q")
    assert meaning(job) == meaning(plain)
    moved = codec.decode(codec.stamped(spell(odd | theirs), NOW), "q")
    assert (moved.enqueued_at, moved.args_json) == (NOW, plain.args_json)


@given(known, st.data())
@few
def test_null_is_as_if_the_field_were_absent(ours: dict[str, str], data: st.DataObject) -> None:
    absent = data.draw(st.sets(st.sampled_from(sorted(ours))))
    nulled = {name: "null" if name in absent else text for name, text in ours.items()}
    left = {name: text for name, text in ours.items() if name not in absent}
    assert meaning(codec.decode(spell(nulled), "q")) == meaning(codec.decode(spell(left), "q"))


ODD = {v["name"]: v for v in vectors("worker") if v["name"].startswith("odd_payload")}


@pytest.mark.parametrize("name", sorted(ODD.keys() - {"odd_payload_9"}))
def test_odd_payloads_of_the_vectors(name: str) -> None:
    """odd_payload_9, a number beyond float64 in args, is found when the arguments are read."""
    sent = ODD[name]["go_call"].removeprefix("LPUSH ns:jobs:wat ").encode()
    if ODD[name].get("error") is None:
        assert codec.decode(sent, "wat").name == "wat"
    else:
        with pytest.raises(DecodeError):
            codec.decode(sent, "wat")


@pytest.mark.parametrize(
    "change",
    [
        {"t": "1.0"}, {"t": '"1"'}, {"t": "true"}, {"t": str(2**63)}, {"t": str(-(2**63) - 1)}, {"T": "1.0"},
        {"fails": "1.5"}, {"failed_at": "1e9"}, {"id": "7"}, {"name": "[]"}, {"err": "false"},
        {"unique": "1"}, {"unique_key": "{}"}, {"args": "[]"}, {"args": '"text"'}, {"args": "1"},
        {"args": "true"}, {"ARGS": "[]"},
        {"args": "{a:1}"}, {"args": '{"a":"\t"}'}, {"args": '{"a":1} x'}, {"args": "{} // no"}, {"args": ""},
    ],
    ids=str,
)  # fmt: skip
def test_what_go_refuses_is_refused(change: dict[str, str]) -> None:
    raw = spell({"name": '"wat"', "id": '"x"', "t": "1", "args": "null"} | change)
    with pytest.raises(DecodeError) as refused:
        codec.decode(raw, "wat")
    assert refused.value.raw == raw


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (rb'"\ud800"', "\ufffd"),
        (rb'"\udc00\ud800x"', "\ufffd\ufffdx"),
        (rb'"\\ud800 \ud83d\ude00"', r"\ud800 😀"),
        (rb'"\ud800\u0041"', "\ufffdA"),
    ],
)
def test_halves_of_surrogate_pairs_are_read_as_go_reads_them(text: bytes, read: str) -> None:
    raw = b'{"name":"wat","id":"x","t":1,"args":{"a":%b},"err":%b}' % (text, text)
    job = codec.decode(raw, "wat")
    assert (job.args, job.last_error) == ({"a": read}, read)
    # Redis' cjson would stop at the half pair: it does not get into retry.
    assert codec.dangerous(codec.failed(raw, "oops", NOW)) is None


def test_bad_bytes_in_texts_are_read_as_go_reads_them() -> None:
    raw = b'{"name":"wat","id":"\xff\xfe","t":1,"args":null,"\xff":1}'
    assert codec.decode(raw, "wat").id == "\ufffd\ufffd"
    assert codec.decode(codec.failed(raw, "oops", NOW), "wat").fails == 1


# Anything at all.

good = b'{"name":"wat","id":"x","t":1,"args":{"a":[1,"\\u00e9"]},"unique":true,"unique_key":"k","fails":2}'
broken = st.builds(
    lambda at, cut, put: good[:at] + put + good[at + cut :],
    st.integers(0, len(good)), st.integers(0, 4), st.binary(max_size=4),
)  # fmt: skip


@given(st.one_of(st.binary(max_size=60), broken, values.map(str.encode)))
@settings(max_examples=300, deadline=None)
def test_whatever_can_be_read_can_be_moved_and_can_fail(raw: bytes) -> None:
    try:
        job = codec.decode(raw, "q")
    except DecodeError:
        kept = codec.wrapped(raw, "q", "why", NOW)
        assert codec.unwrapped(kept) == raw
        assert codec.is_wrapped(codec.decode(kept, "q"))
        json.loads(kept)
        return
    for changed in (
        codec.failed(raw, "oops", NOW),
        codec.stamped(raw, NOW),
        codec.unfailed(raw, NOW, keep_fails=False),
    ):
        assert codec.decode(changed, "q").id == job.id
        codec.dangerous(changed)


def as_floats(value: Any) -> Any:
    """Every number a float64, as in a Go handler."""
    return json.loads(json.dumps(value), parse_int=float)


@pytest.mark.parametrize(("stored", "by_go", "_by_cjson"), rows("reencode"))
def test_args_are_read_as_by_go_and_never_written_anew(
    stored: str | dict[str, str], by_go: str, _by_cjson: object
) -> None:
    """The inputs of quirk 2, which Go or cjson refuse or change in passing."""
    args = stored.encode() if isinstance(stored, str) else base64.b64decode(stored["b64"])
    raw = b'{"name":"wat","id":"x","t":1,"args":%b}' % args
    if by_go.startswith("ERROR") and by_go.endswith("of type float64"):
        assert codec.dangerous(raw) is not None
        return
    if by_go.startswith("ERROR"):
        with pytest.raises(DecodeError):
            codec.decode(raw, "wat")
        return
    if isinstance(stored, str):
        assert as_floats(codec.decode(raw, "wat").args) == as_floats(json.loads(by_go) or {})
    if "\ufffd" in by_go:
        return  # no Unicode text, so it cannot stay
    for changed in (codec.failed(raw, "oops", NOW), codec.stamped(raw, NOW)):
        assert fields(changed)["args"] == args


@pytest.mark.parametrize(
    ("args", "danger"),
    [
        ("{}", None), (f'{{"a":{"9" * 308}}}', None), ('{"a":1e308}', None), (f'{{"a":"{"9" * 400}"}}', None),
        (f'{{"a":{"9" * 310}}}', "too large"), ('{"a":1e400}', "range"), ('{"a":-1e999}', "range"),
        (f'{{"a":{"[" * 900}{"]" * 900}}}', None), (f'{{"a":{"[" * 999}{"]" * 999}}}', "nested"),
    ],
)  # fmt: skip
def test_dangers_for_gos_movers(args: str, danger: str | None) -> None:
    raw = f'{{"name":"wat","id":"x","t":1,"args":{args}}}'.encode()
    found = codec.dangerous(raw)
    assert found is None if danger is None else danger in (found or "")
    if danger is not None:
        assert codec.may_be_dangerous(raw)


def test_a_job_reads_back_as_it_was_sent() -> None:
    job = NewJob("a<b>", "id-é", b'{"a":1}', unique_key=b"{}\n")
    read = codec.decode(codec.encode_job(job, NOW, b"ns:unique:a<b>:{}\n"), "a<b>")
    assert meaning(read) == (
        "a<b>", "id-é", NOW, b'{"a":1}', True, "ns:unique:a<b>:{}\n", 0, "", 0,
    )  # fmt: skip
