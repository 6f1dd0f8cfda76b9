"""The data folder of `packhorse demo`: what lies in it, who may use it, and what of it a fresh run removes.

Only one demo uses a folder at a time, and only files that a demo makes are ever removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from pathlib import Path

import msgspec

from packhorse.errors import ConfigError

SHUTDOWN_SECONDS = 10.0


class Run(msgspec.Struct, frozen=True):
    """A run whose jobs are all enqueued. `seconds` = how long its workers have worked so far."""

    source: str
    total: int
    seconds: float = 0.0


class _Owner(msgspec.Struct, frozen=True):
    """Who has the folder, in the lock file: for people, and for the run after a demo that was killed."""

    pid: int
    socket: str
    workers: int = 0


class DemoFolder:
    """Use as a context manager: inside, the folder is ours. Errors: ConfigError when it cannot be."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.results = self.path / "results"
        self.worker_log = self.path / "worker.log"
        self.lock_fd = -1
        self._lock = self.path / "packhorse-demo.lock"
        self._run = self.path / "run.json"
        self._settings = self.path / "packhorse.toml"

    def __enter__(self) -> DemoFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._check_ours()
            self.lock_fd = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as exc:
            raise ConfigError(f"--data: {self.path}: {exc.strerror}; choose another folder") from None
        try:
            fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"--data: {self.path} is in use by {_who(self._owner())}"
            self.__exit__()
            raise ConfigError(f"{message}, or choose another folder") from None
        return self

    def __exit__(self, *_: object) -> None:
        fd, self.lock_fd = self.lock_fd, -1
        os.close(fd)

    def claim(self, server_socket: Path, workers: int = 0) -> None:
        """Write down who we are. `workers` = process id of the worker command, 0 when it does not run."""
        text = msgspec.json.encode(_Owner(os.getpid(), str(server_socket), workers))
        os.truncate(self.lock_fd, 0)
        os.pwrite(self.lock_fd, text, 0)

    def end_old_server(self) -> None:
        """A demo that was killed left its server behind: end it, as two would spoil one append-only file."""
        owner = self._owner()
        if owner is not None:
            _shut_down(owner.socket)

    def clear(self) -> None:
        """Remove what earlier runs left. The record goes first: without it nothing is gone on with."""
        self._run.unlink(missing_ok=True)
        for file in (self.worker_log, self.path / "valkey.log"):
            file.unlink(missing_ok=True)
        for folder in (self.path / "appendonlydir", self.results):
            if folder.exists():
                shutil.rmtree(folder)
        self.results.mkdir()

    def run(self) -> Run | None:
        """The latest run, finished or not; None when there is none whose jobs were all enqueued."""
        try:
            return msgspec.json.decode(self._run.read_bytes(), type=Run)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def save(self, run: Run) -> None:
        """Whole or not at all."""
        draft = self._run.with_suffix(".tmp")
        draft.write_bytes(msgspec.json.encode(run))
        draft.replace(self._run)

    def configure(self, url: str, namespace: str, processes: int) -> Path:
        """Write the settings file of the workers and give its path."""
        # A TOML text may be written as a JSON text. One slot each: a process tokenises one file at a time.
        self._settings.write_text(
            f"url = {json.dumps(url, ensure_ascii=False)}\nnamespace = {json.dumps(namespace)}\n\n"
            f"[worker]\nprocesses = {processes}\nconcurrency = 1\n",
            encoding="utf-8",
        )
        return self._settings

    def _check_ours(self) -> None:
        if not self._lock.exists() and any(self.path.iterdir()):
            raise ConfigError(
                f"--data: {self.path} has files that are not the demo's; name a new or empty folder, "
                "because each run begins by removing the one before"
            )

    def _owner(self) -> _Owner | None:
        try:
            return msgspec.json.decode(self._lock.read_bytes(), type=_Owner)
        except (OSError, msgspec.DecodeError):
            return None


def _who(owner: _Owner | None) -> str:
    """Who has the folder, and what to do about it."""
    if owner is None:
        return "another demo: end it"
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return f"the workers of a demo that was killed: end them with `kill {owner.workers}`"
    except PermissionError:
        pass
    return f"another demo: end process {owner.pid}"


def _shut_down(path: str) -> None:
    """End the server at this socket, if there is one."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(SHUTDOWN_SECONDS)
        try:
            link.connect(path)
        except OSError:
            return
        try:
            link.sendall(b"SHUTDOWN\r\n")
            while link.recv(1024):
                pass
        except ConnectionError:
            return
        except TimeoutError:
            raise ConfigError(f"a server of an earlier demo, at {path}, does not end; kill it") from None
