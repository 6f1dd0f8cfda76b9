"""The Lua scripts of the gocraft layout, by name. One operation per file under `lua/`, each with its keys listed."""

from __future__ import annotations

from importlib import resources

from packhorse.store import Script


def _load(name: str) -> Script:
    return Script(name, (resources.files(__package__) / "lua" / f"{name}.lua").read_text())


AUDIT = _load("audit")
BEAT = _load("beat")
BURY = _load("bury")
CLAIM_UNIQUE = _load("claim_unique")
DELETE = _load("delete")
ENQUEUE_UNIQUE = _load("enqueue_unique")
FETCH = _load("fetch")
MOVE = _load("move")
ORPHANS = _load("orphans")
PERIODIC = _load("periodic")
PURGE = _load("purge")
REAP = _load("reap")
SETTLE = _load("settle")
SURVEY = _load("survey")
