"""Chain: a job's way through middleware to its handler, wherever that runs. Composed once per pool, not per job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from packhorse.engine.processes import ProcessLane
from packhorse.engine.threads import ThreadLane
from packhorse.job import Job
from packhorse.registry import Kind, Registry

CallNext = Callable[[Job], Awaitable[Any]]
Middleware = Callable[[Job, CallNext], Awaitable[Any]]


class Chain:
    """Calling it runs a job; without middleware that is the handler alone."""

    def __init__(
        self, middleware: Sequence[Middleware], registry: Registry, threads: ThreadLane, processes: ProcessLane
    ) -> None:
        self._registry = registry
        self._threads = threads
        self._processes = processes
        self.run: CallNext = self._handle
        for step in reversed(middleware):
            self.run = _Step(step, self.run).__call__

    async def _handle(self, job: Job) -> Any:
        """The innermost step: the handler itself."""
        handler = self._registry.get(job.name)
        assert handler is not None
        if handler.kind is Kind.PROCESS:
            return await self._processes.run(handler, job)
        args, kwargs = handler.bind(job)
        if handler.kind is Kind.THREAD:
            return await self._threads.call(handler, args, kwargs)
        return await handler.fn(*args, **kwargs)


class _Step:
    __slots__ = ("_call_next", "_step")

    def __init__(self, step: Middleware, call_next: CallNext) -> None:
        self._step, self._call_next = step, call_next

    def __call__(self, job: Job) -> Awaitable[Any]:
        return self._step(job, self._call_next)
