"""Job: one unit of work as handlers and middleware see it.

Made by a protocol's decoder, handed to middleware and handler, thrown away after the settle. The wire bytes stay
with the delivery; changing a Job never changes what is stored.
"""

from __future__ import annotations

from typing import Any

import msgspec

_decode_args = msgspec.json.Decoder(dict[str, Any] | None).decode
_NULL = msgspec.Raw(b"null")


class Job(msgspec.Struct, eq=False, gc=True):
    """A job in the hands of a worker.

    `name`, `id`, `queue`; `enqueued_at` in epoch seconds; `fails` = failed attempts so far; `last_error` and
    `failed_at` of the latest failure; `unique` and `unique_key` as on the wire; `deadline` = epoch second by which
    the job must have started, or None. `context` is a dict of this run that middleware may fill for the handler.

    A msgspec struct, because a codec's subclass then decodes payloads straight into it (benchmark: work).
    """

    name: str = ""
    id: str = ""
    queue: str = ""
    raw_args: msgspec.Raw = _NULL
    enqueued_at: int = 0
    fails: int = 0
    last_error: str = ""
    failed_at: int = 0
    unique: bool = False
    unique_key: str = ""
    deadline: float | None = None
    context_: Any = None
    on_checkin_: Any = None

    def __repr__(self) -> str:
        return f"<Job {self.name} {self.id} attempt {self.attempt}>"

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self.fails + 1

    @property
    def args(self) -> dict[str, Any]:
        """The arguments as plain values, decoded anew at each call; absent and null are `{}`."""
        return _decode_args(self.raw_args) or {}

    @property
    def args_json(self) -> bytes:
        """The arguments as they are stored."""
        return bytes(self.raw_args)

    @property
    def context(self) -> dict[str, Any]:
        """Values that middleware and handler share during this run."""
        if self.context_ is None:
            self.context_ = {}
        context: dict[str, Any] = self.context_
        return context

    def checkin(self, message: str) -> None:
        """Say how far the job is; shown by `packhorse workers`, by Go's client and in web pages.

        Cheap (the latest text is written at most once a second), and safe from any thread of this process. In a
        process-kind handler it does nothing: the handler runs elsewhere.
        """
        if self.on_checkin_ is not None:
            self.on_checkin_(message)
