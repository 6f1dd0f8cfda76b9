"""Processes for CPU-bound handlers, on pebble's pool: one worker per core, killed when its job runs too long.

The function travels by name and its arguments as the JSON of the payload; nothing that came from the store is ever
unpickled. What comes back from a process are bytes of ours, because an exception that cannot be unpickled would end
pebble's pool.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import importlib
import logging
import multiprocessing
import os
import pickle
import traceback
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NoReturn

from packhorse.engine.outcome import error_text
from packhorse.errors import ConfigError, JobTimeout, WorkerLost
from packhorse.job import Job
from packhorse.registry import Handler

log = logging.getLogger(__name__)

#: pebble never notices a process that ends itself with 0 in the middle of a job; it ends with this instead.
EXIT_ZERO = 99

#: (pickled value, pickled error, and where it cannot be pickled: module and name of its class, text), traceback
_Ended = tuple[bytes | None, bytes | None, tuple[str, str, str] | None, str]


class ProcessLane:
    """Started at the first process-kind job."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._broken: list[asyncio.Task[None]] = []

    async def run(self, handler: Handler, job: Job) -> Any:
        """Errors: JobTimeout, WorkerLost, whatever the handler raises. Cancelling kills the process."""
        from pebble import ProcessExpired  # here, because it costs 5 MB that most workers never need

        future = self._started().schedule(_run, args=(handler.target, job.args_json), timeout=handler.timeout)
        try:
            ended: _Ended = await asyncio.wrap_future(future)
        except ProcessExpired as exc:
            code = 0 if exc.exitcode == EXIT_ZERO else exc.exitcode
            raise WorkerLost(handler.name, f"exit code {code}") from exc
        except BrokenProcessPool as exc:
            raise WorkerLost(handler.name, str(exc) or "the pool of processes broke") from exc
        except TimeoutError as exc:
            raise JobTimeout(handler.name, handler.timeout or 0.0) from exc
        except asyncio.CancelledError:
            future.cancel()
            raise
        value, pickled, described, trace = ended
        if pickled is None and described is None:
            return None if value is None else _unpickled(value)
        error = _unpickled(pickled) if pickled is not None else None
        if not isinstance(error, BaseException):
            error = _likeness(*described) if described is not None else RuntimeError("an error that was lost")
        error.add_note(trace)
        raise error

    async def close(self) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool.stop()
            await asyncio.to_thread(pool.join, 5)
        await asyncio.gather(*self._broken, return_exceptions=True)

    def _started(self) -> Any:
        if self._pool is not None and not self._pool.active:
            # A process that dies without a job takes pebble's whole pool with it.
            log.warning("the pool of processes broke; it is replaced")
            broken, self._pool = self._pool, None
            broken.stop()
            self._broken.append(asyncio.create_task(asyncio.to_thread(broken.join, 5)))
        if self._pool is None:
            from pebble import ProcessPool

            # Spawned, not forked: a fork would copy our connections and threads in the middle of their work.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPool(max_workers=os.cpu_count() or 1, context=context)
        return self._pool


def _run(target: str, raw_args: bytes) -> _Ended:
    """In the worker process: find the handler by its module and name, and run it."""
    try:
        with _visible_exit():
            handler = _handler(target)
            args, kwargs = handler.bind_raw(raw_args)
            value = handler.fn(*args, **kwargs)
    except BaseException as exc:  # noqa: BLE001 - a handler may raise anything
        kind = type(exc)
        trace = "".join(traceback.format_exception(exc))
        pickled = _pickled(exc)
        if pickled is not None and isinstance(_unpickled(pickled), kind):
            return None, pickled, None, trace
        text = error_text(exc).removeprefix(kind.__name__).removeprefix(": ")
        return None, None, (kind.__module__, kind.__qualname__, text), trace
    return _pickled(value), None, None, ""


def _handler(target: str) -> Handler:
    module, _, qualname = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    handler = getattr(found, "handler", None)
    if not isinstance(handler, Handler):
        raise ConfigError(f"{target} is not a job in this process; is it registered at import time?")
    return handler


@contextlib.contextmanager
def _visible_exit() -> Iterator[None]:
    """`os._exit(0)` in a handler is a crash like any other."""
    leave = os._exit

    def leave_visibly(status: int) -> NoReturn:
        leave(status or EXIT_ZERO)

    os._exit = leave_visibly
    try:
        yield
    finally:
        os._exit = leave


def _pickled(value: Any) -> bytes | None:
    """None for what cannot travel (and for None)."""
    if value is None:
        return None
    try:
        return pickle.dumps(value)
    except Exception:  # noqa: BLE001 - whatever a class does when it is pickled
        return None


def _unpickled(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except Exception as exc:  # noqa: BLE001 - whatever a class does when it is unpickled
        log.debug("what a process returned cannot be read here: %s", exc)
        return None


def _likeness(module: str, qualname: str, text: str) -> BaseException:
    """An error of the same class, or of one with its name, that has this text and nothing else."""
    kind: Any = builtins
    try:
        kind = importlib.import_module(module)
        for part in qualname.split("."):
            kind = getattr(kind, part)
    except Exception:  # noqa: BLE001 - it may live where only the process could see it
        kind = Exception
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        kind = Exception
    like: Any = type(qualname.rpartition(".")[2], (kind,), {"__str__": lambda _: text, "__module__": module})
    error: BaseException = like.__new__(like)
    return error
