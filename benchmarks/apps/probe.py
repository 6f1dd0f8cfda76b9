"""Counts handler calls in each worker process and reports them to the harness through a file.

Runs inside every measured Python system, so it needs the standard library alone. A call costs one clock
reading and one list append; a thread writes the totals ten times a second, away from the handlers.
"""

from __future__ import annotations

import faulthandler
import json
import os
import threading
import time
from pathlib import Path

# The clock that all processes of a machine share.
_clock = time.monotonic
# Appending to a list is atomic also between the threads of a worker, counting is not.
_calls: list[float] = []
_lock = threading.Lock()
_reporter: threading.Thread | None = None

REPORT_SECONDS = 0.1


def hit() -> None:
    """Note one run of a handler: the whole body of every measured job."""
    if not _calls:
        _start_reporter()
    _calls.append(_clock())


def guard() -> None:
    """End this process at the harness's time limit, should the harness itself be gone by then."""
    if limit := os.environ.get("BENCH_LIMIT"):
        faulthandler.dump_traceback_later(float(limit), exit=True)


def _start_reporter() -> None:
    # Not before the first call: workers that fork would leave the thread behind in their parent.
    global _reporter
    with _lock:
        if _reporter is None:
            _reporter = threading.Thread(target=_report, daemon=True)
            _reporter.start()


def _report() -> None:
    target = Path(os.environ["BENCH_STATS"]) / f"{os.getpid()}.json"
    written = 0
    while True:
        time.sleep(REPORT_SECONDS)
        if (jobs := len(_calls)) == written:
            continue
        # Threads may append out of order by microseconds; looking at every call would cost handlers time.
        report = {"jobs": jobs, "first": _calls[0], "last": _calls[jobs - 1]}
        draft = target.with_suffix(".tmp")
        draft.write_text(json.dumps(report))
        draft.replace(target)
        written = jobs
