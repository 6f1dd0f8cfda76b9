"""Settings of stores and workers, checked when they are made. Files and the environment are read by the CLI."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from packhorse.errors import ConfigError


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How one pool runs.

    `concurrency`: jobs at a time (default 20). `stop_timeout`: seconds that running jobs have when the pool stops
    (25). `store_patience`: seconds to wait at the end for a store that does not answer (10). `pool_id`: identity of
    the pool (random). `pulse`: keep the heartbeat going from a thread of this process (True; False under a
    supervisor, which does it from outside).
    """

    concurrency: int = 20
    stop_timeout: float = 25.0
    store_patience: float = 10.0
    pool_id: str | None = None
    pulse: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= 10_000:
            raise ConfigError(f"concurrency: must be 1 to 10000, not {self.concurrency!r}")
        if self.stop_timeout < 0:
            raise ConfigError(f"stop_timeout: must be 0 or more seconds, not {self.stop_timeout!r}")
        if self.pool_id is not None and ("," in self.pool_id or not self.pool_id):
            raise ConfigError(f"pool_id: must be a text without commas, not {self.pool_id!r}")


def masked(url: str) -> str:
    """The URL without its passwords, for messages and logs. Hides more rather than less when it is malformed."""
    start = r"(//[^:@/]*)" if "//" in url else r"^([^:@/]*)"
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1***", re.sub(start + ":.*@", r"\1:***@", url))


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the store is. `options` go to redis-py's connection (ssl_ca_certs, username, ...)."""

    url: str
    timeout: float = 5.0
    connect_timeout: float = 5.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            _ = parts.port
        except ValueError:
            # The reason that urlsplit gives can be a piece of the password.
            raise ConfigError(
                f"url: {masked(self.url)!r} has no host or port that can be read; use redis://host:6379/0, and "
                "percent-encode what is special in a password (@ is %40, / is %2F, # is %23)"
            ) from None
        if parts.scheme not in {"redis", "rediss", "unix"}:
            raise ConfigError(
                f"url: {masked(self.url)!r} does not begin with redis://, rediss:// or unix://; "
                "an example: redis://localhost:6379/0"
            )
        if parts.scheme == "unix" and not parts.path:
            raise ConfigError(f"url: {masked(self.url)!r} names no socket; an example: unix:///run/redis.sock")
        database = parts.path.strip("/")
        if parts.scheme != "unix" and database and not database.isdecimal():
            raise ConfigError(
                f"url: {masked(self.url)!r}: the database must be a number, as in redis://localhost:6379/0"
            )
        if self.timeout <= 0 or self.connect_timeout <= 0:
            raise ConfigError(f"timeout: must be more than 0 seconds, not {self.timeout!r}")
