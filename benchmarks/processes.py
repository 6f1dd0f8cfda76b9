"""Worker and producer processes of the measured systems: started, paused, watched and always stopped.

Each process leads its own session, so that everything it forks can be paused and stopped by id. Output goes
to a log file whose last line explains a failure.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.driver import BenchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS = 3.0


class Crew:
    """The processes of one measurement; leaving the context stops them all, whatever happened."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._members: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        with self._log.open("ab") as log:
            self._members.append(
                subprocess.Popen(
                    command,
                    env=dict(env),
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def check(self) -> None:
        """Raise when a process has ended by itself: workers are meant to stay."""
        for member in self._members:
            if (code := member.poll()) is not None:
                raise BenchError(f"worker exited with code {code}: {last_line(self._log)}")

    def stop(self) -> None:
        """TERM, then KILL after three seconds, to every process of the sessions started here."""
        self.resume()
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for member in self._members:
            with contextlib.suppress(subprocess.TimeoutExpired):
                member.wait(timeout=max(0.0, deadline - time.monotonic()))
        self._signal(signal.SIGKILL)
        for member in self._members:
            member.wait()
        self._members.clear()

    def _signal(self, number: signal.Signals) -> None:
        for member in self._members:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(member.pid, number)
            for pid in session_members(member.pid):
                with contextlib.suppress(ProcessLookupError):
                    if os.getpgid(pid) != member.pid:
                        os.kill(pid, number)


def session_members(session: int) -> list[int]:
    """The processes of a session, from /proc: a worker's children may have left its process group."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                members.append(int(stat.parent.name))
    return members


def run(command: Sequence[str], env: Mapping[str, str] | None = None, *, seconds: float, cwd: Path = ROOT) -> str:
    """Run a command to its end and return what it printed; `BenchError` when it fails or takes too long."""
    process = subprocess.Popen(
        command,
        env=None if env is None else dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise BenchError(f"{Path(command[0]).name} took more than {seconds:.0f} s") from None
        raise
    if process.returncode:
        lines = errors.strip().splitlines() or ["no message"]
        raise BenchError(f"{Path(command[0]).name} failed with code {process.returncode}: {lines[-1]}")
    return output


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "no output"
