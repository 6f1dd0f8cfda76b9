"""gojson against the golden tables, against itself (fast path and exact path), and against plain models."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import doctest
import enum
import json
import math
import pickle
import re
import time
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import rows, vectors

from packhorse.protocols.gocraft import gojson
from packhorse.protocols.gocraft.gojson import NotEncodable, depth_exceeds, encode, encode_exact, fragile

ORDINARY = {"address": "a@example.com", "subject": "hello", "customer_id": 4}
#: (as stored, as Go writes it again, as cjson does), of the args that both can read.
REENCODED = [row for row in rows("reencode") if "ERROR" not in f"{row[1]} {row[2]}" and "\ufffd" not in row[1]]


def as_go_decodes(text: str | bytes) -> Any:
    """Go reads every number of args into a float64."""
    return json.loads(text, parse_int=float)


@pytest.mark.parametrize(("hex_float", "text"), rows("go_float_to_json"))
def test_floats_as_go_writes_them(hex_float: str, text: str) -> None:
    value = float.fromhex(hex_float)
    assert encode(value) == text.encode()
    assert encode({"a": [value]}) == f'{{"a":[{text}]}}'.encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (bytes.fromhex(hex_bytes).decode(), text)
        for hex_bytes, text in rows("go_string_to_json")
        if "\\ufffd" not in text  # what Go writes for bytes that are no text in Python
    ],
)
def test_strings_as_go_writes_them(value: str, text: str) -> None:
    assert encode(value) == text.encode()
    assert encode({value: [value]}) == f"{{{text}:[{text}]}}".encode()


@pytest.mark.parametrize(("args", "key", "_error"), rows("unique_keys"))
def test_unique_keys_as_go_computes_them(args: str, key: str, _error: None) -> None:
    text = b"" if args == "null" else encode(as_go_decodes(args)) + b"\n"
    assert b"ns:unique:wat:" + text == key.encode()


@pytest.mark.parametrize(("stored", "by_go", "_by_cjson"), REENCODED)
def test_args_as_go_writes_them_after_a_failure(stored: str, by_go: str, _by_cjson: str) -> None:
    assert encode(as_go_decodes(stored)) == by_go.encode()


@pytest.mark.parametrize(
    "job",
    [
        pytest.param(vector["raw_returned"], id=vector["name"])
        for vector in vectors()
        if isinstance(vector.get("raw_returned"), str)
        and '"args":' in vector["raw_returned"]
        and vector["name"] not in ("invalid_utf8", "go_types")  # not to be had from Python values
    ],
)
def test_args_of_jobs_that_go_wrote(job: str) -> None:
    args = re.search(r'"args":(null|\{.*?\})(?=\}$|,"unique":)', job)
    assert args is not None

    def integer(text: str) -> int | float:
        """Go wrote these from its integer types or from floats: `-0` and 21 digits are floats."""
        return float(text) if text == "-0" or not -(2**63) <= int(text) < 2**64 else int(text)

    assert encode(json.loads(args[1], parse_int=integer)) == args[1].encode()


CHARACTERS = '<>&\\"/\b\f\n\r\t\0\x1f\x7f{}[]:,é\u2027\u2028\u2029\U0001f600'
FRAGMENTS = ["null", ":null,", "1.0", ":1.0,", "1e5", "[]", "\\b", "\\\\b", ".0}", ":12345678901234567890,"]
awkward = st.sampled_from([*CHARACTERS, *FRAGMENTS])
texts = st.text(max_size=8) | st.lists(awkward, max_size=4).map("".join)
integers = st.integers(-(2**63), 2**64 - 1) | st.integers(-1000, 1000)
floats = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-1000, 1000).map(float)
    | st.decimals(-1000, 1000, places=2).map(float)
    | st.builds(lambda digits, power: digits * 10.0**power, st.integers(-99, 99), st.integers(-9, 23))
)
scalars = st.none() | st.booleans() | integers | floats | texts
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@dataclasses.dataclass(frozen=True)
class Point:
    y: object
    x: object


class Order(msgspec.Struct, rename="camel", frozen=True):
    order_total: object
    a_note: object = None


class Colour(enum.Enum):
    RED = "<red>"
    HALF = 0.5


rich_keys = texts | st.integers() | st.uuids() | st.dates() | st.none() | st.booleans() | st.floats()
rich_scalars = st.one_of(
    scalars, st.datetimes(), st.datetimes(timezones=st.just(datetime.UTC)), st.dates(), st.timedeltas(),
    st.uuids(), st.binary(max_size=6), st.decimals(), st.sampled_from(Colour), st.floats(), st.integers(),
    st.sets(st.integers(), max_size=4), st.frozensets(texts, max_size=4),
    st.text(st.characters(), max_size=4), st.just(object()),
)  # fmt: skip
rich_values = st.recursive(
    rich_scalars,
    lambda inner: st.one_of(
        st.dictionaries(texts, inner, max_size=3), st.dictionaries(rich_keys, inner, max_size=3),
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.builds(Point, inner, inner),
        st.builds(Order, inner),
    ),
    max_leaves=8,
)  # fmt: skip


def outcome(encoder: Any, value: object) -> bytes | str:
    try:
        result: bytes = encoder(value)
    except NotEncodable as refusal:
        return str(refusal)
    return result


@given(json_values)
def test_fast_and_exact_encoder_agree(value: object) -> None:
    assert encode(value) == encode_exact(value)


@given(rich_values)
def test_fast_and_exact_encoder_agree_on_all_that_python_has(value: object) -> None:
    assert outcome(encode, value) == outcome(encode_exact, value)


def same(read: object, sent: object) -> bool:
    """Equal as JSON: 1 for 1.0, and the shortest digits of a large float rather than all of them."""
    if isinstance(sent, float):
        return isinstance(read, int | float) and float(read) == sent
    if isinstance(sent, list):
        return isinstance(read, list) and len(read) == len(sent) and all(map(same, read, sent))
    if isinstance(sent, dict):
        assert isinstance(read, dict)
        return read.keys() == sent.keys() and all(same(read[key], sent[key]) for key in sent)
    return type(read) is type(sent) and read == sent


@given(json_values)
def test_what_is_written_reads_back(value: object) -> None:
    assert same(json.loads(encode(value)), value)


@given(json_values)
def test_the_text_has_no_spaces_no_html_and_sorted_keys(value: object) -> None:
    text = encode(value)

    def check(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key.encode() for key, _ in pairs]
        assert keys == sorted(set(keys))
        return dict(pairs)

    json.loads(text, object_pairs_hook=check)
    outside = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", text)
    assert not set(outside) & set(b" \n.E+") - set(b".+")
    assert not set(text) & {*b"<>&", *range(0x20)}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_keep_their_value_and_take_go_form(value: float) -> None:
    text = encode(value).decode()
    assert float(text) == value
    assert math.copysign(1, float(text)) == math.copysign(1, value)
    plain = value == 0 or 1e-6 <= abs(value) < 1e21
    form = r"-?(0|[1-9]\d*)(\.\d*[1-9])?" if plain else r"-?[1-9](\.\d*[1-9])?e(\+[1-9]\d+|-[1-9]\d*)"
    assert re.fullmatch(form, text)


@pytest.mark.parametrize(
    "value",
    [
        ORDINARY,
        {"price": 19.99, "n": -4, "flag": True, "big": 10**17, "small": 0.00001},
        {"body": 'He said "hi",\nthen left.\tC:\\temp', "tags": ["a", "b"], "name": "日本語 – ünï"},
        {
            "when": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
            "id": uuid.UUID(int=7),
            "ids": [1, 2, 3],
        },
        "send_email",
    ],
)
def test_ordinary_values_stay_on_the_fast_path(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encode_exact(value)
    monkeypatch.setattr(gojson, "encode_exact", lambda value: pytest.fail("the exact encoder was asked"))
    assert encode(value) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({10: "a", 9: "b"}, '{"10":"a","9":"b"}'),
        ({uuid.UUID(int=1): 1.0, "a": 2}, '{"00000000-0000-0000-0000-000000000001":1,"a":2}'),
        (datetime.datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC), '"2020-01-02T03:04:05.000006Z"'),
        ({"at": datetime.date(2020, 1, 2), "none": None}, '{"at":"2020-01-02","none":null}'),
        (decimal.Decimal("1.50"), '"1.50"'),
        ({"raw": b"\xff\xfe", "f": 1.0}, '{"f":1,"raw":"//4="}'),
        ([Colour.RED, Colour.HALF], '["\\u003cred\\u003e",0.5]'),
        (Point(1.0, Order(2.0)), '{"x":{"aNote":null,"orderTotal":2},"y":1}'),
        ({"s": {3, 20, 1}}, '{"s":[1,3,20]}'),
        ((1, (2.0,)), "[1,[2]]"),
        (None, "null"),
        ({"a": {}, "b": []}, '{"a":{},"b":[]}'),
    ],
)
def test_python_values(value: object, text: str) -> None:
    assert encode(value) == text.encode()
    assert encode_exact(value) == text.encode()


def nested(levels: int) -> object:
    value: object = 1
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"price": math.nan}, "$.price", "is NaN, which JSON cannot carry"),
        ({"a": [0, {"b c": -math.inf}]}, '$.a[1]["b c"]', "is -Infinity, "),
        (math.inf, "$", "is Infinity, "),
        (Point(1, {"q": math.nan}), "$.x.q", "is NaN"),
        ({"id": 2**64}, "$.id", "is an integer of 65 bits"),
        ([-(2**63) - 1], "$[0]", "is an integer of 64 bits"),
        ([10**5000], "$[0]", "is an integer of 16610 bits"),
        ({2**64: 1}, "$", "is an integer of 65 bits"),
        ({"t": "a\ud800"}, "$.t", "has the lone surrogate U+D800"),
        ({"\udfff": 1}, r'$["\udfff"]', "has the lone surrogate U+DFFF"),
        ({"o": [object()]}, "$.o[0]", "is of type object, which has no JSON form"),
        ({"o": Point(1, 1j)}, "$.o", "Encoding objects of type complex is unsupported"),
        ({1.5: 1}, "$", "has the key 1.5 of type float"),
        ({"k": {None: 1}}, "$.k", "has the key None of type NoneType"),
        ({True: 1}, "$", "has the key True of type bool"),
        ({(1, 2): 1}, "$", "has the key (1, 2) of type tuple"),
        ({Colour.HALF: 1}, "$", "of type Colour"),
        ({9: 1, "9": 2}, "$", "has two keys that both become the text '9'"),
        ({"s": {1, "a"}}, "$.s", "is a set whose items cannot be ordered"),
        (
            {"deep": nested(100)},
            "$.deep[0].k[0].k[0].k[0].k[0]…[0].k[0].k[0]",
            "is nested deeper than 100 levels",
        ),
    ],
)
def test_refusals_name_the_place_and_the_remedy(value: object, path: str, reason: str) -> None:
    with pytest.raises(NotEncodable) as caught:
        encode(value)
    assert caught.value.path == path
    assert reason in caught.value.reason
    assert str(caught.value) == f"args cannot be sent: {path} {caught.value.reason}"


def test_a_refusal_survives_pickling() -> None:
    with pytest.raises(NotEncodable) as caught:
        encode({"price": math.nan})
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, ValueError)
    assert str(copy) == ("args cannot be sent: $.price is NaN, which JSON cannot carry; send text or None instead")


def test_a_hundred_levels_pass_and_cycles_do_not() -> None:
    assert json.loads(encode(nested(100))) == nested(100)
    cycle: list[object] = []
    cycle.append({"again": cycle})
    with pytest.raises(NotEncodable, match="nested deeper"):
        encode(cycle)
    point = Point(1, cycle)
    with pytest.raises(NotEncodable, match="nested deeper"):
        encode({"point": point})


@pytest.mark.parametrize(
    ("args", "verdict"),
    [
        (ORDINARY, None),
        (None, None),
        ({"id": 1234567890123456789}, "$.id is an integer of 19 digits"),
        ({"a": [1, {"n": -123456789012345}]}, "$.a[1].n is an integer of 15 digits"),
        ({"ok": 99999999999999, "ms": 1700000000123, "pi": 3.1415926535897}, None),
        ({"pi": 3.14159265358979}, "$.pi is a float of 15 significant digits"),
        ({"tiny": 1.2345678901234e-10, "wide": 1.5e300, "small": 0.000012345678901234}, None),
        ({"tiny": 1.23456789012345e-10}, "$.tiny is a float of 15 significant digits"),
        ({"tags": []}, "$.tags is an empty list"),
        ({"a": {"b c": [[1], []]}}, '$.a["b c"][1] is an empty list'),
        ([], "$ is an empty list"),
        ({"text": "[], :123456789012345678,[1234567890123456", "empty": {}}, None),
        ({"a": [], "b": 10**15}, "$.a is an empty list"),
    ],
)
def test_fragile_names_what_go_would_damage(args: object, verdict: str | None) -> None:
    assert fragile(encode(args)) == verdict


def damaged_by_cjson(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(damaged_by_cjson, value.values()))
    if isinstance(value, list):
        return not value or any(map(damaged_by_cjson, value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return float(f"{value:.14g}") != value


@given(json_values)
def test_what_is_not_fragile_survives_cjson(value: object) -> None:
    if damaged_by_cjson(value):
        assert fragile(encode({"value": value})) is not None


@pytest.mark.parametrize(("stored", "_by_go", "by_cjson"), REENCODED)
def test_fragile_knows_every_damage_of_the_golden_table(stored: str, _by_go: str, by_cjson: str) -> None:
    if as_go_decodes(stored) != as_go_decodes(by_cjson):
        assert fragile(stored.encode()) is not None


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@given(json_values, st.integers(0, 8))
def test_depth_is_that_of_the_value(value: object, limit: int) -> None:
    assert depth_exceeds(encode(value), limit) == (depth_of(value) > limit)


@pytest.mark.parametrize(
    ("raw", "exceeds"),
    [
        (b"[" * 101, True), (b"[" * 100 + b"]" * 100, False), (b"[[]," * 50 + b"[]" + b"]" * 50, False),
        (b'{"k":' * 101 + b"1" + b"}" * 101, True), (b"[" + b",".join([b"[]"] * 1000) + b"]", False),
        (b'{"a":"' + b"[" * 500 + b'"}', False), (b'{"a":"\\"' + b"[" * 500 + b'"}', False),
        (b'{"a":"\\\\"' + b"[" * 500, True), (b"]" * 5 + b"[" * 500, True), (b'"' + b"[" * 500, False),
        (b'"\\', False), (b"", False),
    ],
)  # fmt: skip
def test_depth_of_raw_bytes(raw: bytes, exceeds: bool) -> None:
    assert depth_exceeds(raw, 100) is exceeds


@given(st.binary(max_size=200), st.integers(0, 3))
def test_depth_of_any_bytes_is_an_answer(raw: bytes, limit: int) -> None:
    assert depth_exceeds(raw, limit) in (True, False)


@pytest.mark.parametrize(
    "tail",
    [b'"' + b"\\" * 300_000, b'"\\' * 150_000, b'"' * 300_000, b"[]" * 150_000],
    ids=["backslashes", "escapes", "quotes", "brackets"],
)
def test_depth_takes_linear_time(tail: bytes) -> None:
    start = time.process_time()
    assert depth_exceeds(b"[" * 200 + tail, 100)
    assert time.process_time() - start < 5  # some ten milliseconds; quadratic time would be minutes


def test_the_examples_in_docstrings() -> None:
    assert doctest.testmod(gojson).attempted > 0
    assert doctest.testmod(gojson).failed == 0
