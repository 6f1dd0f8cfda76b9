"""Job JSON of gocraft/work: bytes to Job, and a Job's next bytes.

The args of a job that came from the wire are never decoded and encoded again: retries and moves splice the text as
it was, so numbers, empty lists and unknown fields survive (Go and its Lua scripts damage them: quirks 2).
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import secrets
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from packhorse.errors import DecodeError, EncodeError
from packhorse.job import Job
from packhorse.protocols.base import NewJob
from packhorse.protocols.gocraft import gojson

MAX_DEPTH = 100
#: Redis's own decoder, which Go's movers use, gives up at this depth.
MAX_READ_DEPTH = 1000
MAX_PAYLOAD = 1 << 20
MAX_ERROR_TEXT = 64 << 10
MAX_INT64 = 2**63 - 1
#: Undecodable payloads up to this size are kept whole inside the dead set.
MAX_RAW_KEPT = 1 << 20

#: What Go's movers write into a job whose name their pool does not know.
UNKNOWN_JOB = "unknown job when requeueing"
NO_HANDLER = "stray job: no handler"

_NULL = msgspec.Raw(b"null")
_ARGS = re.compile(rb"\{|null$")
#: Go refuses a payload whose integers do not fit.
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

#: Names that no payload can have, for fields that are not on the wire.
_PRIVATE = secrets.token_hex(16)


class _Wire(
    Job,
    forbid_unknown_fields=True,
    rename={
        "raw_args": "args", "enqueued_at": "t", "last_error": "err", "queue": f"q{_PRIVATE}",
        "context_": f"c{_PRIVATE}", "on_checkin_": f"o{_PRIVATE}",
    },
):  # fmt: skip
    """A Job with the field names of section 2 of the protocol (msgspec renames only a class's own fields).

    Unknown fields are refused because `Args` is one to msgspec and none to Go: they take the lenient way.
    """

    queue: str = ""
    raw_args: msgspec.Raw = _NULL
    enqueued_at: _Int64 = 0
    fails: _Int64 = 0
    last_error: str = ""
    failed_at: _Int64 = 0
    context_: Any = None
    on_checkin_: Any = None


_decode_wire = msgspec.json.Decoder(_Wire).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Encoder().encode
_FIELDS = ("name", "id", "t", "args", "unique", "unique_key", "fails", "err", "failed_at")
_lone_surrogate = re.compile("[\ud800-\udfff]")
# Escapes in JSON text; all but halves of surrogate pairs are good.
_escapes = re.compile(r"(?P<good>\\(?:[^u]|u(?![dD][89a-fA-F])|u[dD][89abAB]..\\u[dD][c-fC-F]..))|\\u[dD][89a-fA-F]..")
# A job as Go and packhorse write it: `t` is certain to be the top-level one, since all before it is matched.
_STAMP = re.compile(rb'(\{"name":"[^"\\]*","id":"[^"\\]*","t":)-?\d+([,}])')


def encode_args(name: str, args: object) -> bytes:
    """Arguments as Go would write them. Errors: EncodeError."""
    try:
        raw = gojson.encode(args)
    except gojson.NotEncodable as exc:
        raise EncodeError(name, str(exc)) from None
    if len(raw) > MAX_PAYLOAD:
        raise EncodeError(
            name,
            f"its arguments take {len(raw)} bytes, more than {MAX_PAYLOAD}; store the data elsewhere and send its key",
        )
    return raw


@lru_cache(maxsize=1024)
def _name_json(name: str) -> bytes:
    return gojson.encode(name)


def encode_job(job: NewJob, t: int, unique_key: bytes | None) -> bytes:
    """The job's JSON, field by field in Go's order. `unique_key` is the whole Redis key."""
    id = job.id
    id_json = b'"%b"' % id.encode() if id.isalnum() and id.isascii() else gojson.encode(id)
    head = b'{"name":%b,"id":%b,"t":%d,"args":%b' % (_name_json(job.name), id_json, t, job.args)
    if unique_key is None and job.deadline is None:
        return head + b"}"
    parts = [head]
    if unique_key is not None:
        parts += (b',"unique":true,"unique_key":', gojson.encode(unique_key.decode()))
    if job.deadline is not None:
        parts.append(b',"deadline":%d' % math.ceil(job.deadline))
    parts.append(b"}")
    return b"".join(parts)


def decode(raw: bytes, queue: str) -> Job:
    """Errors: DecodeError for what Go's decoder would refuse as well."""
    # How deep msgspec itself goes depends on the Python version.
    if len(raw) > 2 * MAX_READ_DEPTH and gojson.depth_exceeds(raw, MAX_READ_DEPTH):
        raise DecodeError("nested too deeply", raw)
    try:
        job = _decode_wire(raw)
    except (ValueError, RecursionError) as exc:
        try:
            job = _decode_leniently(raw)
        except (ValueError, RecursionError):
            raise DecodeError(_reason(exc), raw) from None
    job.queue = queue
    if not _ARGS.match(job.raw_args):
        raise DecodeError("args must be an object or null", raw)
    return job


def key_of_args(job: Job) -> bytes:
    """What makes a unique job unique by its arguments, with Go's newline; for payloads without a `unique_key`.

    Numbers as float64: so Go computes it from decoded arguments. Errors: ValueError.
    """
    try:
        args = json.loads(job.args_json, parse_int=float)
        return b"" if args is None else gojson.encode(args) + b"\n"
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _reason(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return "nested too deeply"
    return str(exc)


def _decode_leniently(raw: bytes) -> _Wire:
    """As Go reads: field names in any letter case, null for any field is as if it were absent."""
    fields = _fields(raw)
    known = [n for n in (*_FIELDS, "deadline") if fields.get(n, b"null") != b"null"]
    return _decode_wire(b"{" + b",".join(_text(n) + b":" + fields[n] for n in known) + b"}")


def failed(raw: bytes, error: str, now: int) -> bytes:
    """The payload after one more failure: fails + 1, err, failed_at; everything else as it was."""
    fields = _fields(raw)
    fails = msgspec.json.decode(fields.get("fails", b"0")) or 0
    return _join(fields, {
        "fails": b"%d" % min(fails + 1, MAX_INT64),
        "err": gojson.encode(_shortened(error)) if error else b"",
        "failed_at": b"%d" % now,
    })  # fmt: skip


def unfailed(raw: bytes, now: int, keep_fails: bool) -> bytes:
    """The payload of a dead job that shall run again: no err, no failed_at, `t` = now.

    Without `keep_fails` it starts afresh: no failures, and no deadline, which would only kill it again.
    """
    drop = {"err": b"", "failed_at": b"", "t": b"%d" % now}
    if not keep_fails:
        drop |= {"fails": b"", "deadline": b""}
    return _join(_fields(raw), drop)


def stamped(raw: bytes, now: int) -> bytes:
    """The payload with `t` = now, as every move into a queue writes it."""
    match = _STAMP.match(raw)
    if match is not None:
        return b"%b%d%b" % (match[1], now, raw[match.start(2) :])
    return _join(_fields(raw), {"t": b"%d" % now})


def dangerous(raw: bytes) -> str | None:
    """Why Go's movers would lose this payload or stop at it if it lay in retry or scheduled, or None (quirks 3)."""
    if gojson.depth_exceeds(raw, MAX_READ_DEPTH):
        return "nested too deeply"
    try:
        msgspec.json.decode(raw)
        if _SUSPICIOUS.search(raw) is not None:
            json.loads(raw, parse_int=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as exc:
        return _reason(exc)
    return None


def wrapped(raw: bytes, queue: str, reason: str, now: int) -> bytes:
    """An undecodable payload as a well-formed dead job, because one bad member blanks a page of Go's client."""
    digest = hashlib.sha256(raw).hexdigest()
    args: dict[str, object] = {"packhorse_queue": queue, "packhorse_reason": reason}
    if len(raw) <= MAX_RAW_KEPT:
        args["packhorse_raw_b64"] = base64.b64encode(raw).decode()
    else:
        args |= {
            "packhorse_raw_head_b64": base64.b64encode(raw[: 64 << 10]).decode(),
            "packhorse_raw_tail_b64": base64.b64encode(raw[-64 << 10 :]).decode(),
            "packhorse_raw_bytes": len(raw), "packhorse_raw_sha256": digest,
        }  # fmt: skip
    job = NewJob(queue, f"bad-{digest[:24]}", gojson.encode(args))
    error = gojson.encode(_shortened(f"undecodable payload: {reason}"))
    return encode_job(job, now, None)[:-1] + b',"fails":1,"err":%b,"failed_at":%d}' % (error, now)


def unwrapped(raw: bytes) -> bytes | None:
    """The bytes inside a `wrapped` payload, or None if it is an ordinary one (or they were too large to keep)."""
    if b"packhorse_raw_b64" not in raw:
        return None
    try:
        args = msgspec.json.decode(_decode_wire(raw).raw_args, type=dict[str, object])
        return base64.b64decode(str(args["packhorse_raw_b64"]), validate=True)
    except (ValueError, KeyError):
        return None


def is_wrapped(job: Job) -> bool:
    return job.id.startswith("bad-") and b'"packhorse_reason"' in job.args_json


def fields_of(raw: bytes) -> dict[str, bytes]:
    """The top-level fields of a payload as JSON text, names as Go matches them."""
    return _fields(raw)


def _fields(raw: bytes) -> dict[str, bytes]:
    """Known fields have their names in lower case; what is no Unicode becomes U+FFFD, as in a Go program."""
    try:
        plain = _decode_fields(raw)
    except ValueError:
        text = _lone_surrogate.sub("\ufffd", raw.decode("utf-8", "surrogateescape"))
        plain = _decode_fields(_escapes.sub(lambda m: m["good"] or "\\ufffd", text))
    return {(low if (low := name.lower()) in _FIELDS else name): bytes(plain[name]) for name in plain}


def _join(fields: dict[str, bytes], change: dict[str, bytes]) -> bytes:
    """Known fields in Go's order, then the others; a change to empty bytes drops the field."""
    fields = {**fields, **change}
    order = [name for name in _FIELDS if name in fields]
    order += [name for name in fields if name not in _FIELDS]
    return b"{" + b",".join(gojson.encode(n) + b":" + fields[n] for n in order if fields[n]) + b"}"


def _shortened(text: str) -> str:
    text = _lone_surrogate.sub("\ufffd", text)
    return text if len(text) <= MAX_ERROR_TEXT else text[: MAX_ERROR_TEXT - 20] + " ... (cut short)"


def may_be_dangerous(raw: bytes) -> bool:
    """Cheap first look for `dangerous`: long numbers, big exponents or many brackets."""
    return _SUSPICIOUS.search(raw) is not None or raw.count(b"[") + raw.count(b"{") > MAX_DEPTH


_SUSPICIOUS = re.compile(rb"\d[eE]\+?\d{3}|\d{300}")


def _finite(text: str) -> None:
    if math.isinf(float(text)):
        raise ValueError("a number is too large for a float64")
