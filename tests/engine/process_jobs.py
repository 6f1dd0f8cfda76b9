"""Handlers for processes: a process imports them by module and name, so they cannot live inside a test."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

from packhorse import App, GiveUp, JobTimeout, RetryLater

app = App(namespace="never-connected")


class Particular(Exception):
    """Can be pickled, but not unpickled: its constructor wants more than its text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")


class Unpicklable(ValueError):
    """Cannot be pickled at all."""

    def __init__(self) -> None:
        super().__init__("holds a file")
        self.file = Path(os.devnull).open()  # noqa: SIM115


@app.job(kind="process", name="tried")
def end(how: str) -> object:
    """Ends in the way that is asked for."""
    match how:
        case "returns":
            return "a value"
        case "returns what cannot travel":
            return open(os.devnull)  # noqa: PTH123
        case "raises":
            raise ValueError("no such user")
        case "raises a class of its own":
            raise Particular(5, "no such user")
        case "raises what cannot be pickled":
            raise Unpicklable
        case "asks for later":
            raise RetryLater(60)
        case "gives up":
            raise GiveUp("not ours")
        case "times out by itself":
            raise TimeoutError("the other side is slow")
        case "raises an error of packhorse":
            raise JobTimeout("some other job", 5.0)
        case "exits":
            raise SystemExit(3)
        case "is interrupted":
            raise KeyboardInterrupt
        case "recurses for ever":
            return end.fn(how) if how else None
        case "has no memory":
            raise MemoryError
        case "ends its process":
            os._exit(7)
        case "ends its process with success":
            os._exit(0)
        case "aborts":
            os.abort()
        case "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "reads nowhere":
            ctypes.string_at(0)
        case "sleeps":
            time.sleep(60)
        case "sleeps and does not listen":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
    raise AssertionError(how)


@app.job(kind="process")
def next_one(path: str) -> None:
    """Says that it ran, and where."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
