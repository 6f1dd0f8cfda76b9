"""Settings of a worker, checked when they are made. Reading them from files or the environment is the CLI's work."""

from __future__ import annotations

from dataclasses import dataclass

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
