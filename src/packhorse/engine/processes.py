"""Processes for CPU-bound handlers, on pebble's pool: one worker per core, killed when its job runs too long.

The function travels by name and its arguments as the JSON of the payload; nothing that came from the store is ever
unpickled.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
from typing import Any

from packhorse.errors import ConfigError, JobTimeout, WorkerLost
from packhorse.job import Job
from packhorse.registry import Handler


class ProcessLane:
    """Started at the first process-kind job."""

    def __init__(self) -> None:
        self._pool: Any = None

    async def run(self, handler: Handler, job: Job) -> Any:
        """Errors: JobTimeout, WorkerLost, whatever the handler raises. Cancelling kills the process."""
        from pebble import ProcessExpired  # costs 5 MB that most workers never need

        future = self._started().schedule(_run, args=(handler.target, job.args_json), timeout=handler.timeout)
        try:
            return await asyncio.wrap_future(future)
        except ProcessExpired as exc:
            raise WorkerLost(handler.name, f"exit code {exc.exitcode}") from exc
        except TimeoutError as exc:
            if handler.timeout is None:
                raise
            raise JobTimeout(handler.name, handler.timeout) from exc
        except asyncio.CancelledError:
            future.cancel()
            raise

    async def close(self) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool.stop()
            await asyncio.to_thread(pool.join, 5)

    def _started(self) -> Any:
        if self._pool is None:
            from pebble import ProcessPool

            # Spawned, not forked: a fork would copy our connections and threads in the middle of their work.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPool(max_workers=os.cpu_count() or 1, context=context)
        return self._pool


def _run(target: str, raw_args: bytes) -> Any:
    """In the worker process: find the handler by its module and name, and run it."""
    module, _, qualname = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    handler = getattr(found, "handler", None)
    if not isinstance(handler, Handler):
        raise ConfigError(f"{target} is not a job in this process; is it registered at import time?")
    args, kwargs = handler.bind_raw(raw_args)
    return handler.fn(*args, **kwargs)
