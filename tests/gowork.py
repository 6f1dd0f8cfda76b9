"""The real Go gocraft/work as a peer: builds interop/go and drives its commands.

Interoperability tests and benchmarks call require_go() for the binary and put GoEnqueuer, GoClient
and GoWorker beside packhorse on one server, whose address they give as host:port. Every process
started here has ended when its context manager is left.
"""

from __future__ import annotations

import functools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self

import pytest

GO_DIR = Path(__file__).resolve().parent.parent / "interop" / "go"
BINARY = GO_DIR / "bin" / "gowork"


def require_go() -> Path:
    """The path of the built binary; without one the test is skipped, or fails where CI=true.

    PACKHORSE_NO_GO_MODULE says why the module cannot be had at all; `.ci/run` sets it when the module proxy refuses
    it by name, which no build step can mend.
    """
    built = _build()
    if isinstance(built, Path):
        return built
    refusal = os.environ.get("PACKHORSE_NO_GO_MODULE")
    reason = f"no Go peer: {refusal or built}"
    if os.environ.get("CI") == "true" and not refusal:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@functools.cache
def _build() -> Path | str:
    # A reason is returned, not raised: cache would forget an exception and each test would build again.
    sources = [*GO_DIR.glob("*.go"), GO_DIR / "go.mod", GO_DIR / "go.sum"]
    newest = max(source.stat().st_mtime for source in sources)
    if BINARY.exists() and BINARY.stat().st_mtime >= newest:
        return BINARY
    go = shutil.which("go")
    if go is None:
        return "no `go` on the PATH"
    done = subprocess.run(
        [go, "build", "-mod=mod", "-o", str(BINARY), "."], cwd=GO_DIR, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return f"go build failed: {done.stderr.strip()[-800:]}"
    # go leaves an unchanged binary untouched, which would look out of date in every later session.
    BINARY.touch()
    return BINARY


class _Process:
    """One running command; stderr goes to a file, since nobody reads a pipe that could fill up."""

    def __init__(self, command: str, address: str, namespace: str, *flags: str) -> None:
        self._argv = [str(require_go()), command, "-redis", address, "-ns", namespace, *flags]
        self._popen: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._stderr = tempfile.TemporaryFile()
        # Unbuffered, so that select() sees whatever has not been read.
        self._popen = subprocess.Popen(
            self._argv, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None, "use it as a context manager"
        return self._popen

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """kill -9: no acknowledgement, no goodbye to the server."""
        self.process.kill()
        self.process.wait()

    def stderr(self) -> str:
        """What the command and the library have logged so far."""
        size = os.fstat(self._stderr.fileno()).st_size
        # pread leaves the offset alone, which this file shares with the process that writes it.
        return os.pread(self._stderr.fileno(), size, 0).decode(errors="replace")

    def _read_line(self, timeout: float) -> str:
        stdout = self.process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], timeout)[0]:
            self._fail(f"no answer in {timeout} s")
        line = stdout.readline()
        if not line.endswith(b"\n"):
            self._fail("ended without an answer")
        return line.decode().rstrip("\n")

    def _fail(self, what: str) -> NoReturn:
        raise RuntimeError(f"gowork {self._argv[1]}: {what}; stderr: {self.stderr()[-2000:]}")

    def _end(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._stderr.close()


class _Lines(_Process):
    """A command that answers each JSON line with one JSON line."""

    def call(self, **op: Any) -> dict[str, Any]:
        """Send one operation and wait for its answer, whose `error` is "" on success."""
        stdin = self.process.stdin
        assert stdin is not None
        try:
            _write_all(stdin, json.dumps(op, allow_nan=False).encode() + b"\n")
        except BrokenPipeError:
            self._fail("ended before the call")
        answer: dict[str, Any] = json.loads(self._read_line(30))
        return answer


class GoEnqueuer(_Lines):
    """A work.Enqueuer: call(op="enqueue_unique_in", name="mail", secs=60, args={"to": 1})."""

    def __init__(self, address: str, namespace: str) -> None:
        super().__init__("enqueue", address, namespace)


class GoClient(_Lines):
    """A work.Client: call(op="dead_jobs", page=1) answers {"result": {"count", "jobs"}, "error"}."""

    def __init__(self, address: str, namespace: str) -> None:
        super().__init__("client", address, namespace)


class GoWorker(_Process):
    """A work.WorkerPool, started and `ready` on entry, stopped cleanly on exit (killed after an exception).

    Flags are those of `gowork work` with underscores: GoWorker(address, ns, "mail:10,slow::1",
    concurrency=5, ledger=path, skip_dead=True).
    """

    def __init__(self, address: str, namespace: str, jobs: str, **flags: str | int | Path) -> None:
        options = [f"-{name.replace('_', '-')}={_flag(value)}" for name, value in flags.items()]
        super().__init__("work", address, namespace, "-jobs", jobs, *options)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._expect("ready", 30)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            code = self.process.poll()
            if kind is None and code is None:
                self.stop()
            elif kind is None and code not in (0, -signal.SIGKILL):
                self._fail(f"ended by itself with exit code {code}")
        finally:
            self._end()

    def stop(self, timeout: float = 30) -> None:
        """SIGTERM, then wait until the pool has stopped: its running jobs finish, however long they take."""
        self.process.send_signal(signal.SIGTERM)
        self.wait(timeout)

    def wait(self, timeout: float = 30) -> None:
        """Wait for a clean end, as drain_exit brings about by itself."""
        self._expect("stopped", timeout)
        code = self.process.wait(timeout)
        if code != 0:
            self._fail(f"exit code {code}")

    def _expect(self, word: str, timeout: float) -> None:
        line = self._read_line(timeout)
        if line != word:
            self._fail(f"said {line!r} instead of {word!r}")


def _write_all(pipe: IO[bytes], data: bytes) -> None:
    # An unbuffered pipe may take only a part of a long line.
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) :]


def _flag(value: str | int | Path) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
