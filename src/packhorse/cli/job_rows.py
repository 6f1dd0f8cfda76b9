"""How a job looks in a table, as a page of its own, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from packhorse.cli.output import Row, moment, relative, shortened
from packhorse.protocols.inspect import JobRow, State

_WHEN = {State.QUEUED: "enqueued", State.SCHEDULED: "runs", State.RETRY: "next attempt", State.DEAD: "died"}


def as_table(rows: Sequence[JobRow]) -> tuple[tuple[str, ...], list[Row]]:
    """(headings, cells); columns that would be empty are left out."""
    cells: list[Row] = [
        (
            row.state.value,
            row.id,
            row.name if row.readable else f"(unreadable) {row.name}",
            shortened(row.args if row.readable else repr(row.raw)),
            relative(_when(row)),
            row.fails or "",
            shortened(row.error),
        )
        for row in rows
    ]
    headings = ("state", "id", "name", "arguments", "when", "fails", "error")
    kept = [i for i in range(len(headings)) if i < 4 or any(row[i] not in ("", None) for row in cells)]
    return tuple(headings[i] for i in kept), [tuple(row[i] for i in kept) for row in cells]


def as_fields(row: JobRow) -> list[tuple[str, object]]:
    """(name, value) pairs of everything that is known."""
    pairs: list[tuple[str, object]] = [
        ("state", row.state.value),
        ("id", row.id),
        ("name", row.name),
        ("queue", row.queue),
    ]
    if row.readable:
        pairs.append(("arguments", _pretty(row.args)))
    pairs.append(("enqueued", _moment(row.enqueued_at)))
    if row.at is not None:
        pairs.append((_WHEN[row.state], _moment(row.at)))
    if row.fails:
        pairs += [("fails", row.fails), ("failed", _moment(row.failed_at)), ("error", row.error)]
    if row.unique:
        pairs.append(("unique", "yes"))
    if not row.readable:
        pairs += [("error", row.error or "the payload cannot be read"), ("payload", repr(row.raw))]
    return [(name, value) for name, value in pairs if value not in ("", None)]


def as_document(row: JobRow) -> dict[str, Any]:
    """For --json: arguments as JSON when they are that, digit for digit, and the payload as it is stored."""
    return {
        "state": row.state.value,
        "queue": row.queue,
        "id": row.id,
        "name": row.name,
        "readable": row.readable,
        "args": _raw_json(row.args),
        "enqueued_at": row.enqueued_at,
        "at": row.at,
        "fails": row.fails,
        "error": row.error,
        "failed_at": row.failed_at,
        "unique": row.unique,
        "payload": row.raw.decode("utf-8", "backslashreplace"),
    }


def _when(row: JobRow) -> float | None:
    return row.at if row.at is not None else row.enqueued_at


def _moment(at: float | None) -> str:
    return f"{moment(at)} ({relative(at)})" if at else ""


def _pretty(args: str) -> str:
    try:
        return msgspec.json.format(args.encode(), indent=2).decode() if args else ""
    except (msgspec.MsgspecError, ValueError):
        return args


def _raw_json(args: str) -> Any:
    try:
        msgspec.json.decode(args)
    except (msgspec.MsgspecError, ValueError):
        return args
    return msgspec.Raw(args.encode())
