"""No golden vector is forgotten: each is reproduced by a test, or listed here with the reason why not."""

from __future__ import annotations

import importlib

import pytest
from keyspace import EXERCISED
from vectors import vectors

GROUPS = {
    "enqueue": "enqueue",
    "enqueue_in": "enqueue",
    "unique": "enqueue",
    "worker": "worker",
    "requeuer": "requeuer",
    "periodic": "periodic",
    "reaper": "reaper",
    "fault": "trouble",
    "timeline": "trouble",
}

#: Vectors that show only what has no counterpart here.
NOT_OURS = {
    ("enqueue", "go_types"): (
        "types of Go: struct fields in their own order, json.Number, RawMessage; what gojson makes of"
        " Python's types is in test_gojson.py"
    ),
    ("periodic", "should_enqueue"): (
        "Go's guard against passes that follow each other closely; here every pass may be made, because it"
        " adds an entry once, and the key is only written for Go's pools"
    ),
    ("timeline", "idle_pool_13_s"): (
        "when an idle Go pool polls; ours is woken by the store. What it writes at its start is in pool_start_stop"
    ),
}


@pytest.mark.parametrize("group", GROUPS)
def test_every_vector_is_reproduced_or_explained(group: str) -> None:
    for module in set(GROUPS.values()):
        importlib.import_module(f"test_vectors_{module}")
    known = {(group, vector["name"]) for vector in vectors(group)}
    exercised = {key for key in EXERCISED if key[0] == group}
    explained = {key for key in NOT_OURS if key[0] == group}
    assert exercised | explained == known
    assert not exercised & explained
