"""Wrong arguments are errors in the editor: what mypy and pyright say of `good.py` and `bad.py`, line by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import missing

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MARK = "# expect-error"

Errors = dict[str, dict[int, str]]


def mypy() -> Errors:
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary",
         "--hide-error-context", "--show-absolute-path", *FILES],
        cwd=ROOT, env={**os.environ, "MYPYPATH": str(ROOT / "src")}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert not run.stderr, run.stderr
    found: Errors = {}
    for line in run.stdout.splitlines():
        path, number, kind, text = line.split(":", 3)
        if kind.strip() == "error":
            found.setdefault(Path(path).name, {})[int(number)] = text
    return found


def pyright() -> Errors:
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *FILES],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    try:
        report = json.loads(run.stdout)
    except ValueError:
        missing(f"pyright cannot run here: {(run.stdout + run.stderr)[-200:]}")
    found: Errors = {}
    for each in report["generalDiagnostics"]:
        if each["severity"] == "error":
            line = each["range"]["start"]["line"] + 1
            found.setdefault(Path(each["file"]).name, {})[line] = each["message"]
    return found


FILES = [str(HERE / name) for name in ("good.py", "bad.py")]


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_what_a_checker_says(checker: Callable[[], Errors]) -> None:
    errors = checker()
    assert errors.get("good.py", {}) == {}
    lines = (HERE / "bad.py").read_text().splitlines()
    expected = {number for number, line in enumerate(lines, 1) if MARK in line}
    found = errors.get("bad.py", {})
    assert {n: lines[n - 1].strip() for n in expected - found.keys()} == {}, "these are no errors"
    assert {n: found[n] for n in found.keys() - expected} == {}, "these should be none"
    assert len(expected) > 20
