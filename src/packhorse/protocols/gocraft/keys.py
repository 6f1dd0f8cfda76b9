"""Every key of the gocraft layout, each from one function.

The names and types are those of gocraft/work; keys that only packhorse uses begin with `NS:packhorse:`, where the Go
library never looks.
"""

from __future__ import annotations

from packhorse.errors import ConfigError

#: A queue name that ends so would be another queue's lock or list, and would stop every name of a pool.
RESERVED_ENDINGS = (":lock", ":lock_info", ":paused", ":max_concurrency", ":inprogress")


class Keys:
    """Key names of one namespace. `{app}` as a namespace puts all of them in one Cluster slot."""

    def __init__(self, namespace: str) -> None:
        if any(ord(c) < 32 or ord(c) == 127 for c in namespace) or len(namespace) > 200:
            raise ConfigError(
                f"namespace: {namespace!r} has control characters or more than 200 characters; use a short word"
            )
        self.prefix = namespace if not namespace or namespace.endswith(":") else f"{namespace}:"
        p = self.prefix
        self.jobs = f"{p}jobs:"
        self.known_jobs = f"{p}known_jobs"
        self.retry = f"{p}retry"
        self.scheduled = f"{p}scheduled"
        self.dead = f"{p}dead"
        self.worker_pools = f"{p}worker_pools"
        self.last_periodic = f"{p}last_periodic_enqueue"
        self.periodic_marks = f"{p}packhorse:periodic"

    def queue(self, name: str) -> str:
        return f"{self.jobs}{name}"

    def inprogress(self, name: str, pool: str) -> str:
        return f"{self.jobs}{name}:{pool}:inprogress"

    def paused(self, name: str) -> str:
        return f"{self.jobs}{name}:paused"

    def lock(self, name: str) -> str:
        return f"{self.jobs}{name}:lock"

    def lock_info(self, name: str) -> str:
        return f"{self.jobs}{name}:lock_info"

    def max_concurrency(self, name: str) -> str:
        return f"{self.jobs}{name}:max_concurrency"

    def unique(self, name: str, key_json: bytes) -> bytes:
        """The key of a unique job; `key_json` ends with Go's newline, or is empty for no arguments at all."""
        return f"{self.prefix}unique:{name}:".encode() + key_json

    @property
    def unique_prefix(self) -> str:
        return f"{self.prefix}unique:"

    def pool(self, pool: str) -> str:
        return f"{self.prefix}worker_pools:{pool}"

    def worker(self, worker: str) -> str:
        return f"{self.prefix}worker:{worker}"

    @property
    def claimed(self) -> str:
        """Hash of sha1 of a unique job's payload: it has started once, so its key is somebody else's by now."""
        return f"{self.prefix}packhorse:claimed"

    def crashes(self, job_id: str) -> str:
        """How often this job ran while its process died."""
        return f"{self.prefix}packhorse:crashes:{job_id}"

    def purged(self, mark: str) -> str:
        """Jobs of a purged queue, for as long as their unique keys are being freed."""
        return f"{self.prefix}packhorse:purged:{mark}"


def check_name(name: str) -> None:
    """Errors: ConfigError for names that gocraft/work could not carry without harm."""
    problem = None
    if not name:
        problem = "it is empty"
    elif "," in name:
        problem = "a comma splits it in two in the heartbeat"
    elif any(ord(c) < 32 or ord(c) == 127 for c in name):
        problem = "it has control characters"
    elif len(name.encode()) > 256:
        problem = "it is longer than 256 bytes"
    elif name.endswith(RESERVED_ENDINGS):
        problem = f"its queue would be another job's {name.rsplit(':', 1)[1]} key"
    if problem is not None:
        raise ConfigError(f"job name {name!r} cannot be used: {problem}; choose another name=")
