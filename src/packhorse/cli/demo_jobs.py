"""The job of `packhorse demo`: one Python source file is tokenised, counted and hashed.

The worker processes of the demo load `packhorse.cli.demo_jobs:app`. Importing it connects to nothing. The
variable PACKHORSE_DEMO_RESULTS says where results go.
"""

from __future__ import annotations

import hashlib
import io
import keyword
import os
import tokenize
from collections import Counter
from pathlib import Path

import msgspec

from packhorse import App, Job

RESULTS_VARIABLE = "PACKHORSE_DEMO_RESULTS"
ATTEMPTS = 3

app = App(namespace="demo")


class FileResult(msgspec.Struct, frozen=True):
    """What is known of one file. `attempt` = the one that succeeded, from 1; `names` leaves keywords out."""

    path: str
    attempt: int
    size: int
    sha256: str
    tokens: int
    names: dict[str, int]


def _soon(job: Job) -> float:
    """A second between attempts: long enough to see, short enough to wait for."""
    return 1.0


# In a thread of a worker process. Tokenising holds the GIL: what makes it faster is more worker processes.
@app.job(max_fails=ATTEMPTS, backoff=_soon, kind="thread")
def count_tokens(job: Job, path: str) -> None:
    """Count and hash one file.

    Errors, for files that are no Python: OSError, SyntaxError, UnicodeDecodeError, tokenize.TokenError.
    """
    source = Path(path).read_bytes()
    names: Counter[str] = Counter()
    tokens = 0
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        tokens += 1
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
            names[token.string] += 1
    digest = hashlib.sha256(source).hexdigest()
    _store(FileResult(path, job.attempt, len(source), digest, tokens, dict(names)))


def _store(result: FileResult) -> None:
    """Append to this process's file, in one write, before the job is acknowledged.

    Delivery is at least once: a process that dies between here and the acknowledgement leaves a second line
    for the same file. That does no harm, because readers keep one result per path. The newline in front ends
    what a full disk may have left of the line before.
    """
    line = b"\n" + msgspec.json.encode(result) + b"\n"
    target = Path(os.environ[RESULTS_VARIABLE]) / f"{os.getpid()}.jsonl"
    fd = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(fd, line) < len(line):
            raise OSError(f"{target.name}: no room for the result")
    finally:
        os.close(fd)


def read_results(folder: Path) -> dict[str, FileResult]:
    """Every result by path: of several for one path any, as they are equal. Lines cut short are skipped."""
    decode = msgspec.json.Decoder(FileResult).decode
    found: dict[str, FileResult] = {}
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_bytes().splitlines():
            try:
                result = decode(line)
            except msgspec.DecodeError:
                continue
            found[result.path] = result
    return found
