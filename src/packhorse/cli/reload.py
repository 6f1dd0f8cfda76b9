"""`packhorse worker --reload`: a process that watches the source files and runs the worker as its child.

The child is the same command line once more; a variable in its environment tells it that it is watched.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from types import FrameType

from packhorse.cli.faults import Fault

log = logging.getLogger(__name__)

MARK = "PACKHORSE_RELOADED"


def under_reloader() -> bool:
    return os.environ.get(MARK) == "1"


def run_reloading() -> int:
    """Run the command of argv as a child, anew after each change, until a signal. Gives the exit code."""
    try:
        from watchfiles import PythonFilter, watch
    except ImportError:
        raise Fault("--reload needs watchfiles", "pip install 'packhorse[reload]'") from None
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it would count the changes that we name
    ending = threading.Event()
    child = _Child()

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()
        child.ask()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    child.start()
    for changes in watch(".", watch_filter=PythonFilter(), stop_event=ending, raise_interrupt=False):
        log.info("%s changed: starting again", ", ".join(sorted(os.path.relpath(path) for _, path in changes)[:3]))
        child.stop()
        if ending.is_set():
            break
        child.start()
    return child.stop()


class _Child:
    """The worker process; `start` and `stop` in turns."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False

    def start(self) -> None:
        self._asked = False
        # A session of its own: Ctrl-C comes from us, once.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "packhorse", *sys.argv[1:]],
            env=os.environ | {MARK: "1"},
            start_new_session=True,
        )

    def ask(self) -> None:
        """To end; the second time: at once."""
        self._asked = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> int:
        """Its exit code once it has ended in good order."""
        if not self._asked:
            self.ask()
        return self._process.wait() if self._process is not None else 0
