"""Drives the command line as a user does: a folder with an App in it, real processes, and what they say.

`Cli` runs a command to its end; `Running` is one that goes on, whose lines can be waited for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 20.0

MY_APP = """
import asyncio

from packhorse import App

app = App("redis://localhost:1/0", namespace="unset")


@app.job(max_fails=2, backoff=lambda job: 600)
async def send_email(address: str, subject: str = "hello") -> None:
    print("sent", address, subject, flush=True)


@app.job
async def slow(seconds: float) -> None:
    print("slow begins", flush=True)
    await asyncio.sleep(seconds)
    print("slow ends", flush=True)


@app.job(max_fails=1)
async def broken(n: int = 0) -> None:
    raise ValueError(f"broken {n}")


@app.job
async def tidy() -> None:
    print("tidied", flush=True)


app.periodic("0 30 4 * * *", tidy)
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


@dataclass(frozen=True, slots=True)
class Cli:
    """Commands in one folder with one environment."""

    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *args: str, stdin: str | bytes = b"", python: tuple[str, ...] = (), **env: str) -> Answer:
        done = subprocess.run(
            self._command(args, python),
            cwd=self.folder,
            env=self._environment(env),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())

    def shell(self, line: str, **env: str) -> Answer:
        """A line for bash in which `packhorse` is this one."""
        prelude = f'packhorse() {{ "{sys.executable}" -m packhorse "$@"; }}\n'
        done = subprocess.run(
            ["bash", "-c", prelude + line],
            cwd=self.folder,
            env=self._environment(env),
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *args: str, python: tuple[str, ...] = (), **env: str) -> Running:
        return Running(
            subprocess.Popen(
                self._command(args, python),
                cwd=self.folder,
                env=self._environment(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )

    @staticmethod
    def _command(args: tuple[str, ...], python: tuple[str, ...]) -> list[str]:
        return [sys.executable, *python, "-m", "packhorse", *args]

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PACKHORSE_")}
        return {**kept, "COLUMNS": "100", "TERM": "xterm-256color", **self.env, **more}


class Running:
    """A command that goes on. As a context manager it is killed at the end if it still runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def said(self) -> str:
        with self._news:
            return "".join(self._lines)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Return when it has said this so often."""
        end = time.monotonic() + PATIENCE
        with self._news:
            while "".join(self._lines).count(text) < times:
                left = end - time.monotonic()
                gone = self.process.poll() is not None and not self._reader.is_alive()
                if left <= 0 or gone:
                    raise AssertionError(f"{text!r} was not said {times} times:\n{''.join(self._lines)}")
                self._news.wait(min(left, 0.2))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self._lines.append(line.decode(errors="replace"))
                self._news.notify_all()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
