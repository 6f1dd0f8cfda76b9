"""Golden data captured from the real Go library, for all tests of the gocraft protocol.

`data/vectors.json` explains itself under `meta`. Nothing here changes what was captured.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, TypedDict

DATA = Path(__file__).parent / "data" / "vectors.json"


class Rejected(TypedDict):
    """A spec that Go refuses, and how."""

    spec: str
    error: str


class Cron(TypedDict):
    """What robfig/cron v3 made of specs; rows of `next` have spec, tz, from, next, next_local."""

    note: str
    next: list[dict[str, Any]]
    rejected: list[Rejected]


class Vector(TypedDict, total=False):
    """One scenario: the Go call, its result, the Redis commands and the state afterwards."""

    group: str
    name: str
    go_call: str
    note: str
    error: str | None
    returned: str
    raw_returned: str
    commands: list[dict[str, Any]]
    states: list[dict[str, Any]]
    raw_states: list[dict[str, Any]]
    facts: dict[str, Any]


def table(name: str) -> Any:
    """A table under `tables`, in its own shape: mostly `columns` and `rows`."""
    return _data()["tables"][name]


def rows(name: str) -> list[list[Any]]:
    """The rows of a table that has columns."""
    found: list[list[Any]] = table(name)["rows"]
    return found


def cron() -> Cron:
    """The fire times and the rejected specs."""
    found: Cron = _data()["cron"]
    return found


def vectors(group: str | None = None) -> list[Vector]:
    """All scenarios, or those of a group such as "enqueue" or "requeuer"."""
    return [v for v in _data()["vectors"] if group in (None, v["group"])]


@functools.cache
def _data() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return found
