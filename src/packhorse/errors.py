"""Every error that packhorse raises, and the signals that a handler may raise.

PackhorseError
├── ConfigError(ValueError)       a setting, name, spec or signature that cannot work
├── ArgumentsError(TypeError)     arguments that do not fit the handler's signature
├── EncodeError(ValueError)       a value that the wire cannot carry
├── DecodeError(ValueError)       bytes that are no job; keeps them
├── UnknownJob(LookupError)       a job id or name that is not there
├── JobTimeout(TimeoutError)      a handler ran past its limit
├── WorkerLost                    the process that ran a handler is gone
└── StoreError                    Redis said no, or said nothing
    ├── StoreUnavailable          nothing was sent: trying again is safe
    ├── ReplyLost                 sent, but the answer never came: it may have happened
    │   └── EnqueueUnknown        the same for an enqueue; carries the job ids
    ├── StoreRefused              the server answered with an error
    └── StoreUnfit                the server cannot run packhorse (version, rights)

Verdict                           raised by handlers, no failure of packhorse
├── RetryLater                    run again later, costs no attempt
└── GiveUp                        no further attempt: straight to the dead set
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = [
    "ArgumentsError",
    "ConfigError",
    "DecodeError",
    "EncodeError",
    "EnqueueUnknown",
    "GiveUp",
    "JobTimeout",
    "PackhorseError",
    "ReplyLost",
    "RetryLater",
    "StoreError",
    "StoreRefused",
    "StoreUnavailable",
    "StoreUnfit",
    "UnknownJob",
    "Verdict",
    "WorkerLost",
]


class _ByState(Exception):
    """Pickled by its state and not by its constructor's arguments, so that it survives the way from a process."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[_ByState], args: tuple[Any, ...]) -> _ByState:
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class PackhorseError(_ByState):
    """Base of every error that packhorse itself raises."""


class ConfigError(PackhorseError, ValueError):
    """A setting that cannot work. The message names the setting, the value and the remedy."""


class ArgumentsError(PackhorseError, TypeError):
    """Arguments do not fit the handler's parameters.

    At enqueue time nothing was written. In a worker it goes the way of any failure.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"arguments of job {name!r} do not fit its handler: {reason}")
        self.name = name
        self.reason = reason


class EncodeError(PackhorseError, ValueError):
    """The arguments of a job cannot be sent; nothing was written."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"job {name!r} cannot be sent: {reason}")
        self.name = name
        self.reason = reason


class DecodeError(PackhorseError, ValueError):
    """Bytes from a queue that are no job. `raw` keeps them whole."""

    def __init__(self, reason: str, raw: bytes) -> None:
        super().__init__(f"undecodable payload: {reason}")
        self.reason = reason
        self.raw = raw


class UnknownJob(PackhorseError, LookupError):
    """Nothing is known under this name or id."""


class JobTimeout(PackhorseError, TimeoutError):
    """A handler ran longer than its `timeout`."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(f"job {name!r} ran longer than its timeout of {seconds:g} s")
        self.name = name
        self.seconds = seconds


class WorkerLost(PackhorseError):
    """The process that ran a process-kind handler ended before the handler did."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"the process running job {name!r} was lost: {detail}")
        self.name = name
        self.detail = detail


class StoreError(PackhorseError):
    """Redis or Valkey could not do what was asked."""


class StoreUnavailable(StoreError):
    """No connection: nothing was sent, so trying again cannot double anything."""


class ReplyLost(StoreError):
    """The command was sent and the connection ended before the answer: it may have happened."""


class EnqueueUnknown(ReplyLost):
    """The answer to an enqueue was lost: the jobs with these ids may or may not be queued."""

    def __init__(self, ids: Sequence[str], cause: BaseException) -> None:
        shown = ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
        super().__init__(
            f"the answer to the enqueue of {shown} was lost ({cause}); it may or may not be queued: "
            "look for the id before enqueueing again, or use a unique job"
        )
        self.ids = tuple(ids)


class StoreRefused(StoreError):
    """The server answered with an error. `code` is its first word, e.g. `OOM` or `NOPERM`."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message.split(" ", 1)[0]


class StoreUnfit(StoreError):
    """The server can never run this program; the message says what to change."""


class Verdict(_ByState):
    """Base of what a handler raises to say what becomes of its job."""


class RetryLater(Verdict):
    """Run this job again after `delay` seconds. Costs no attempt (a snooze)."""

    def __init__(self, delay: float = 0.0) -> None:
        if not delay >= 0:
            raise ValueError(f"RetryLater: delay must be 0 or more seconds, not {delay!r}")
        super().__init__(f"again in {delay:g} s")
        self.delay = delay


class GiveUp(Verdict):
    """No further attempt: the job goes to the dead set with this reason."""

    def __init__(self, reason: str = "given up by its handler") -> None:
        super().__init__(reason)
