"""What is stored as what people see: functions from bytes to rows, and from rows to what a change writes.

Called by `admin` only. Nothing here raises for what it finds in the store: what cannot be read gets a row
that says so, or a default.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from packhorse.errors import DecodeError
from packhorse.protocols.gocraft import codec, gojson
from packhorse.protocols.gocraft.keys import Keys
from packhorse.protocols.inspect import BusyRow, JobRow, PoolRow, QueueRow, State


def wire(text: str) -> bytes:
    """A name as it is in a key, whatever bytes some other program has put into it."""
    return text.encode("utf-8", "surrogateescape")


def shown(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def number(data: bytes | None) -> int | None:
    """The whole number in a text, None if it is none. Fractions count (quirks 12), infinities do not."""
    if data is None:
        return None
    try:
        return int(data)
    except ValueError:
        pass
    try:
        return int(float(data))
    except (ValueError, OverflowError):
        return None


def queue_row(
    name: bytes, depth: int, tail: bytes | None, paused: bool, running: bytes | None, limit: bytes | None,
    now: float,
) -> QueueRow:  # fmt: skip
    """`tail` = its oldest payload. A limit of 0, which pools without one write, is None as well."""
    latency = 0.0
    if tail is not None:
        row = job_row(State.QUEUED, "", tail, None)
        latency = now - row.enqueued_at if row.readable else 0.0
    return QueueRow(shown(name), depth, latency, paused, number(running) or 0, number(limit) or None)


def job_row(state: State, queue: str | None, raw: bytes, at: float | None) -> JobRow:
    """`queue` None: the one that the payload names.

    Of an unreadable payload `error` says why; name and id are given where these can be made out.
    """
    try:
        job = codec.decode(raw, "")
    except DecodeError as exc:
        name, id = _legible(raw)
        return JobRow(state, name if queue is None else queue, raw, False, name=name, id=id, at=at, error=str(exc))
    return JobRow(
        state, job.name if queue is None else queue, raw, True, job.name, job.id, shown(job.args_json),
        job.enqueued_at, at, job.fails, job.last_error, job.failed_at, job.unique,
    )  # fmt: skip


def pool_row(id: bytes, fields: Mapping[bytes, bytes], now: float) -> PoolRow:
    """gocraft: hash `worker_pools:<id>`; a pool without one has defaults everywhere."""
    beat = number(fields.get(b"heartbeat_at"))
    return PoolRow(
        id=shown(id),
        host=shown(fields.get(b"host", b"")),
        pid=number(fields.get(b"pid")) or 0,
        concurrency=number(fields.get(b"concurrency")) or 0,
        job_names=tuple(shown(name) for name in split(fields.get(b"job_names"))),
        worker_ids=tuple(shown(worker) for worker in split(fields.get(b"worker_ids"))),
        started_at=number(fields.get(b"started_at")) or 0,
        heartbeat_at=beat or 0,
        age=None if beat is None else now - beat,
    )


def busy_row(worker: bytes, pool: bytes, fields: Mapping[bytes, bytes]) -> BusyRow:
    """gocraft: hash `worker:<id>`."""
    return BusyRow(
        worker_id=shown(worker),
        pool_id=shown(pool),
        job_name=shown(fields.get(b"job_name", b"")),
        job_id=shown(fields.get(b"job_id", b"")),
        started_at=number(fields.get(b"started_at")) or 0,
        args=shown(fields.get(b"args", b"")),
        checkin=shown(fields.get(b"checkin", b"")),
        checkin_at=number(fields.get(b"checkin_at")) or 0,
    )


def split(joined: bytes | None) -> list[bytes]:
    """The parts of a comma list in the heartbeat, sorted as Go's client does."""
    return sorted(part for part in (joined or b"").split(b",") if part)


def retried(row: JobRow, now: int) -> tuple[str, bytes] | None:
    """Queue and payload with which this job runs again; None if it cannot be told."""
    try:
        job = codec.decode(row.raw, "")
        if codec.is_wrapped(job):
            return _unwrapped(row.raw)
        match row.state:
            case State.DEAD:
                return job.name, codec.unfailed(row.raw, now, keep_fails=False)
            case State.RETRY:
                return job.name, codec.unfailed(row.raw, now, keep_fails=True)
            case State.SCHEDULED:
                return job.name, codec.stamped(row.raw, now)
            case State.QUEUED:
                return None
    except (ValueError, RecursionError):
        return None


def held_key(keys: Keys, raw: bytes) -> bytes | None:
    """The unique key that goes with this job when it is deleted.

    A job holds its key until it first starts: one that has failed has lost it, and the key that is there now
    belongs to a newer job (quirks 10).
    """
    try:
        job = codec.decode(raw, "")
        if not job.unique or job.fails:
            return None
        if job.unique_key.startswith(keys.unique_prefix):
            return job.unique_key.encode()
        text = b"" if job.args_json == b"null" else gojson.encode(job.args) + b"\n"
    except (ValueError, RecursionError):
        return None
    return keys.unique(job.name, text)


def _unwrapped(raw: bytes) -> tuple[str, bytes] | None:
    inner = codec.unwrapped(raw)
    if inner is None:
        return None
    args = msgspec.json.decode(codec.fields_of(raw)["args"], type=dict[str, object])
    # What was set aside on its way out of retry or scheduled had not come to a queue yet.
    return str(args.get("packhorse_queue") or "") or _legible(inner)[0], inner


def _legible(raw: bytes) -> tuple[str, str]:
    """Name and id of a payload that does not decode, where at least these can be read."""
    try:
        fields = codec.fields_of(raw)
    except (ValueError, RecursionError):
        return "", ""
    return _string(fields.get("name")), _string(fields.get("id"))


def _string(value: bytes | None) -> str:
    try:
        return msgspec.json.decode(value or b'""', type=str)
    except ValueError:
        return ""
