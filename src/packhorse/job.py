"""Job: one unit of work as handlers and middleware see it.

Made by a protocol's decoder, handed to middleware and handler, thrown away after the settle. The wire bytes stay
with the delivery; changing a Job never changes what is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

_decode_args = msgspec.json.Decoder(dict[str, Any])


class Job:
    """A job in the hands of a worker.

    `name`, `id`, `queue`; `enqueued_at` in epoch seconds; `fails` = failed attempts so far; `last_error` and
    `failed_at` of the latest failure; `unique` and `unique_key` as on the wire; `deadline` = epoch second by which
    the job must have started, or None. `context` is a dict of this run that middleware may fill for the handler.
    """

    __slots__ = (
        "_context",
        "_on_checkin",
        "deadline",
        "enqueued_at",
        "failed_at",
        "fails",
        "id",
        "last_error",
        "name",
        "queue",
        "raw_args",
        "unique",
        "unique_key",
    )

    def __init__(
        self,
        name: str,
        id: str,
        queue: str,
        raw_args: bytes,
        enqueued_at: int = 0,
        fails: int = 0,
        last_error: str = "",
        failed_at: int = 0,
        unique: bool = False,
        unique_key: str = "",
        deadline: float | None = None,
    ) -> None:
        self.name = name
        self.id = id
        self.queue = queue
        self.raw_args = raw_args
        self.enqueued_at = enqueued_at
        self.fails = fails
        self.last_error = last_error
        self.failed_at = failed_at
        self.unique = unique
        self.unique_key = unique_key
        self.deadline = deadline
        self._context: dict[str, Any] | None = None
        self._on_checkin: Callable[[str], None] | None = None

    def __repr__(self) -> str:
        return f"<Job {self.name} {self.id} attempt {self.attempt}>"

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self.fails + 1

    @property
    def args(self) -> dict[str, Any]:
        """The arguments as plain values, decoded anew at each call; absent and null are `{}`."""
        if self.raw_args in (b"null", b""):
            return {}
        return _decode_args.decode(self.raw_args)

    @property
    def context(self) -> dict[str, Any]:
        """Values that middleware and handler share during this run."""
        if self._context is None:
            self._context = {}
        return self._context

    def checkin(self, message: str) -> None:
        """Say how far the job is; shown by `packhorse workers`, by Go's client and in web pages.

        Cheap (the latest text is written at most once a second), and safe from any thread of this process. In a
        process-kind handler it does nothing: the handler runs elsewhere.
        """
        if self._on_checkin is not None:
            self._on_checkin(message)
