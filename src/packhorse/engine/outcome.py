"""Decides what becomes of a job when its handler has ended. Writing it down is the protocol's work.

Called once per job by the executor; pure but for the jitter.
"""

from __future__ import annotations

import logging
import math
import random

from packhorse.errors import GiveUp, RetryLater
from packhorse.job import Job
from packhorse.protocols.base import DONE, Again, Dead, Dropped, Outcome
from packhorse.registry import Handler

log = logging.getLogger(__name__)

NO_HANDLER = Dead("stray job: no handler")
MAX_BACKOFF = 86_400.0
#: Ten years: a stamp that every reader of the set can hold.
LONGEST_DELAY = 315_360_000.0


def decide(handler: Handler, job: Job, error: BaseException | None, now: float) -> Outcome:
    """`now` in epoch seconds. A failure counts as an attempt, a snooze does not."""
    if error is None:
        return DONE
    if isinstance(error, RetryLater):
        return Again(now + _bounded(error.delay), None)
    text = error_text(error)
    if isinstance(error, GiveUp):
        return Dead(text)
    job.fails += 1
    options = handler.options
    if job.fails < options.attempts(error):
        return Again(int(now) + _backoff(handler, job), text)
    return Dropped(text) if options.skip_dead else Dead(text)


def default_backoff(fails: int) -> float:
    """gocraft/work's formula, never more than a day: fails^4 + 15 + 0..29 * (fails + 1) seconds."""
    return float(min(fails**4 + 15 + random.randrange(30) * (fails + 1), MAX_BACKOFF))


def error_text(error: BaseException) -> str:
    """The text that the store keeps: short, no traceback; the class is named unless it is plain Exception."""
    try:
        text = str(error)
    except Exception:
        log.exception("an error of class %s cannot say what it is", type(error).__name__)
        text = ""
    if type(error) in (Exception, GiveUp) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _backoff(handler: Handler, job: Job) -> float:
    if handler.options.backoff is None:
        return default_backoff(job.fails)
    try:
        return _bounded(float(handler.options.backoff(job)))
    except BaseException:
        log.exception("backoff of job %r failed; using the default", handler.name)
        return default_backoff(job.fails)


def _bounded(delay: float) -> float:
    """A delay that can be written down: no NaN, not before now, at most `LONGEST_DELAY`."""
    if math.isnan(delay):
        raise ValueError("a delay must be a number of seconds, not NaN")
    return min(max(delay, 0.0), LONGEST_DELAY)
