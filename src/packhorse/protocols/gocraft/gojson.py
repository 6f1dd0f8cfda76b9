"""Go's encoding/json, byte for byte as gocraft/work writes it; called for every job and unique key.

msgspec writes the text; a few cheap searches find places where Go's text could differ; only then the exact
encoder below writes it again. Invariant: `encode(x)` and `encode_exact(x)` are the same bytes or the same
refusal, except for `msgspec.Raw`, whose bytes msgspec passes on unseen.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import accumulate
from typing import Final

import msgspec

#: Levels of lists and dicts in args. Redis' cjson gives up at 1000 for a whole job and so blocks its set.
MAX_DEPTH: Final = 100

_encode_sorted = msgspec.json.Encoder(order="sorted").encode

# What msgspec writes otherwise than Go, at the place of a value: NaN and the infinities (as null), integers
# that may leave 64 bits (19 digits and more), `1.0` for `1`, and exponents (`1e16`, `1e-6`, `1e21`).
_ODD_VALUE = rb"(?:null|-?\d++(?:(?<=\d{19})|\.0(?!\d)|(?:\.\d++)?e))"
# Patterns that begin with one literal byte are searched by memchr, so members and list items are asked apart.
_odd_member = re.compile(rb":" + _ODD_VALUE).search
_odd_item = re.compile(rb"[,\[]" + _ODD_VALUE).search
_short_control = re.compile(rb"\\[bf]").search
_line_separator = re.compile(rb"\xe2\x80[\xa8\xa9]").search

_NEEDS_ESCAPE = re.compile('["\\\\<>&\\x00-\\x1f\u2028\u2029\ud800-\udfff]')
# Go 1.19, the Go of the golden vectors: U+0008 and U+000C in the long form (\b and \f began with Go 1.22).
_ESCAPES: Final = {chr(c): f"\\u{c:04x}" for c in (*range(0x20), *b"<>&", 0x2028, 0x2029)}
_ESCAPES.update({'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})

_BRACKETS: Final = b"[]{}"
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(_BRACKETS))
_STEP: Final = {0x5B: 1, 0x5D: -1, 0x7B: 1, 0x7D: -1}
# The closing quote is optional and everything is possessive: linear time on bytes that are no JSON, too.
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)

_SAFE_DIGITS: Final = 14  # cjson writes numbers with %.14g
_long_member = re.compile(rb":-?[\d.]{15}").search
_long_or_empty_item = re.compile(rb"[,\[](?:\]|-?[\d.]{15})").search


class NotEncodable(ValueError):
    """A value that no Go program could read back; nothing has been sent.

    `path` is where it stands (`$.items[3].price`), `reason` what is wrong with it and what to send instead.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both in args, so that it survives pickling
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"args cannot be sent: {self.path} {self.reason}"


def encode(value: object) -> bytes:
    """The JSON text that Go 1.19's encoder gives for the value, keys sorted by their UTF-8 bytes, no newline.

    Takes what msgspec takes: besides the JSON types datetimes (ISO 8601), UUIDs, enums (their value),
    dataclasses, attrs classes and Structs, bytes (base64), sets (sorted), Decimals (text); integer keys
    become text. `msgspec.Raw` is at its user's own risk.
    Errors: NotEncodable, for everything that Go or Redis' cjson could not read.

    >>> encode({"b": 1.0, "a": "x < y"})
    b'{"a":"x \\\\u003c y","b":1}'
    """
    try:
        text = _encode_sorted(value)
    except (TypeError, ValueError, RecursionError):
        return encode_exact(value)  # an integer key, or a refusal that should name the place
    # Written out instead of a helper or one big regex: those cost 60 ns and 200 ns of about 500.
    if (
        0x3C in text  # <
        or 0x3E in text  # >
        or 0x26 in text  # &
        or _odd_member(text) is not None
        or (0x5B in text and _odd_item(text) is not None)
        or (0x5C in text and _short_control(text) is not None)
        or not (text.isascii() or _line_separator(text) is None)
        or text[0] not in (0x7B, 0x5B, 0x22)  # a lone number or null, which the patterns do not see
        or (len(text) > 2 * MAX_DEPTH and depth_exceeds(text, MAX_DEPTH))
    ):
        return encode_exact(value)
    return text


def encode_exact(value: object) -> bytes:
    """`encode` without its fast path: ten times slower on small args, and the authority on what is right."""
    parts: list[str] = []
    try:
        _write(value, parts, 0)
    except _Refused as refusal:
        raise NotEncodable(_path(refusal.steps[::-1]), refusal.reason) from None
    return "".join(parts).encode()


def fragile(value_json: bytes) -> str | None:
    """Names the first value that Go's own movers would damage, such as "$.id is an integer of 19 digits".

    A Go pool that schedules or retries a job sends its args through cjson, which keeps 14 digits of a number
    and makes `{}` of `[]`. Takes the encoded args, a JSON object, list or null; None means that they survive.
    """
    if _long_member(value_json) is None and (0x5B not in value_json or _long_or_empty_item(value_json) is None):
        return None
    root = json.loads(value_json, parse_int=_damage_to_integer, parse_float=_damage_to_float)
    pending: list[tuple[tuple[str | int, ...], object]] = [((), root)]
    while pending:
        steps, value = pending.pop()
        if isinstance(value, _Damaged):
            return f"{_path(steps)} is {value.what}"
        if value == []:
            return f"{_path(steps)} is an empty list"
        if isinstance(value, dict):
            pending.extend(((*steps, key), item) for key, item in reversed(value.items()))
        elif isinstance(value, list):
            pending.extend(((*steps, index), value[index]) for index in range(len(value) - 1, -1, -1))
    return None


def depth_exceeds(raw: bytes, limit: int) -> bool:
    """Whether lists and dicts nest deeper than the limit, without parsing: any bytes, in linear time."""
    if len(raw) <= limit or raw.count(b"[") + raw.count(b"{") <= limit:
        return False
    brackets = _STRINGS.sub(b"", raw).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > limit


class _Refused(Exception):
    """Travels up through the containers, each of which adds its step; `steps` is thus innermost first."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[str | int] = []


def _write(value: object, parts: list[str], depth: int) -> None:
    kind = type(value)
    if kind is str:
        parts.append(_quote(value))  # type: ignore[arg-type]
    elif value is None:
        parts.append("null")
    elif kind is bool:
        parts.append("true" if value else "false")
    elif kind is int:
        parts.append(_integer(value))  # type: ignore[arg-type]
    elif kind is float:
        parts.append(_float(value))  # type: ignore[arg-type]
    elif isinstance(value, Enum):
        _write(_builtin(value), parts, depth)
    elif isinstance(value, dict):
        _write_object(value, parts, depth + 1)
    elif isinstance(value, list | tuple):
        _write_array(value, parts, depth + 1)
    elif isinstance(value, set | frozenset):
        _write_array(_ordered(value), parts, depth + 1)
    else:
        _write(_builtin(value), parts, depth)


def _write_object(value: dict[object, object], parts: list[str], depth: int) -> None:
    _check_depth(depth)
    members: dict[str, object] = {}
    for key, item in value.items():
        text = _key(key)
        if text in members:
            raise _Refused(f"has two keys that both become the text {text!r}; give each its own text")
        members[text] = item
    separator = "{"
    for text in sorted(members):  # code points sort as their UTF-8 bytes do
        parts.append(separator)
        separator = ","
        try:
            parts.append(_quote(text))
            parts.append(":")
            _write(members[text], parts, depth)
        except _Refused as refusal:
            refusal.steps.append(text)
            raise
    parts.append("}" if members else "{}")


def _write_array(value: Sequence[object], parts: list[str], depth: int) -> None:
    _check_depth(depth)
    separator = "["
    for index, item in enumerate(value):
        parts.append(separator)
        separator = ","
        try:
            _write(item, parts, depth)
        except _Refused as refusal:
            refusal.steps.append(index)
            raise
    parts.append("]" if value else "[]")


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _too_deep()


def _too_deep() -> _Refused:
    return _Refused(f"is nested deeper than {MAX_DEPTH} levels; send flatter data or one JSON text")


def _ordered(value: Iterable[object]) -> list[object]:
    """A set in msgspec's order: its own differs between processes and would change unique keys."""
    try:
        return sorted(value)  # type: ignore[type-var]
    except TypeError:
        raise _Refused("is a set whose items cannot be ordered; send a list instead") from None


def _builtin(value: object) -> object:
    """The builtin value that msgspec makes of a datetime, Struct, enum and so on."""
    try:
        # Sorted also inside, for sets; keys stay as they are, so that `_key` sees them.
        builtin: object = msgspec.to_builtins(value, order="sorted")
    except RecursionError:
        raise _too_deep() from None
    except (TypeError, ValueError) as error:
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        advice = "convert it to text, a number, a list or a dict first"
        raise _Refused(f"is of type {kind}, which has no JSON form ({error}); {advice}") from None
    return builtin


def _key(key: object) -> str:
    if isinstance(key, str) and not isinstance(key, Enum):
        return str.__str__(key)
    text = key if type(key) in (int, float, bool, type(None), tuple) else _builtin(key)
    if type(text) is int:
        return _integer(text)
    if type(text) is str:
        return text
    raise _Refused(f"has the key {reprlib.repr(key)} of type {type(key).__name__}; keys must be text or integers")


def _quote(text: str) -> str:
    return f'"{_NEEDS_ESCAPE.sub(_escape, text)}"' if _NEEDS_ESCAPE.search(text) else f'"{text}"'


def _escape(match: re.Match[str]) -> str:
    escaped = _ESCAPES.get(match[0])
    if escaped is None:
        raise _Refused(
            f"has the lone surrogate U+{ord(match[0]):04X} in its text, which UTF-8 cannot carry; "
            "decode it with errors='replace', or send the bytes"
        )
    return escaped


def _integer(value: int) -> str:
    if -(2**63) <= value < 2**64:
        return str(value)
    raise _Refused(f"is an integer of {value.bit_length()} bits, and Go reads -2**63 to 2**64-1; send text instead")


def _float(value: float) -> str:
    if not math.isfinite(value):
        name = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        raise _Refused(f"is {name}, which JSON cannot carry; send text or None instead")
    text = repr(value)  # the same shortest digits as Go's, in another form
    mantissa, has_exponent, exponent_text = text.partition("e")
    if not has_exponent:
        return mantissa.removesuffix(".0")
    exponent = int(exponent_text)
    if not -7 < exponent < 21:
        return f"{mantissa}e{exponent:+d}"
    sign = "-" if value < 0 else ""
    digits = mantissa.lstrip("-").replace(".", "")
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    return f"{sign}{digits.ljust(exponent + 1, '0')}"


def _path(steps: Sequence[str | int]) -> str:
    texts = [_step(step) for step in steps]
    if len(texts) > 20:  # deep nesting: the two ends say where
        texts[10:-5] = ["…"]
    return "$" + "".join(texts)


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if step.isidentifier() else f"[{json.dumps(step)}]"


class _Damaged:
    """Stands in the parsed args for a number that cjson would change."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what


def _damage_to_integer(text: str) -> _Damaged | None:
    digits = len(text.removeprefix("-"))
    return _Damaged(f"an integer of {digits} digits") if digits > _SAFE_DIGITS else None


def _damage_to_float(text: str) -> _Damaged | None:
    mantissa = text.lower().partition("e")[0].removeprefix("-")
    digits = len(mantissa.replace(".", "").strip("0"))
    return _Damaged(f"a float of {digits} significant digits") if digits > _SAFE_DIGITS else None
