"""Service: what runs every few seconds beside the slots.

A service says what one run does and when the next is due; starting, stopping and surviving errors is written once,
here. Protocols make services, the pool runs them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod

from packhorse.errors import StoreError

log = logging.getLogger(__name__)


class Service(ABC):
    """Subclasses write `run_once`; its result is the number of seconds until the next run."""

    #: Seconds to wait before the first run.
    delay: float = 0.0

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._poke = asyncio.Event()

    @abstractmethod
    async def run_once(self) -> float:
        """One run. A StoreError is logged and tried again; anything else too, as an error of ours."""

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._loop(), name=f"packhorse-{type(self).__name__.lower()}")

    async def stop(self) -> None:
        """Ends the service; a run under way is cancelled at its next await."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def poke(self) -> None:
        """Run now rather than when it is due."""
        self._poke.set()

    async def _loop(self) -> None:
        await self._pause(self.delay)
        failures = 0
        while True:
            self._poke.clear()
            try:
                wait = await self.run_once()
                failures = 0
            except StoreError as exc:
                failures += 1
                wait = min(0.1 * 2**failures, 5.0) * random.uniform(0.8, 1.2)
                log.log(
                    logging.WARNING if failures == 1 else logging.DEBUG,
                    "%s: %s; again in %.1f s", type(self).__name__, exc, wait,
                )  # fmt: skip
            except Exception:
                failures += 1
                wait = min(1.0 * 2**failures, 60.0)
                log.exception("%s failed; again in %.0f s", type(self).__name__, wait)
            await self._pause(wait)

    async def _pause(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        # A timer and an event instead of wait_for: no task per pause, and a poke ends it.
        handle = asyncio.get_running_loop().call_later(seconds, self._poke.set)
        try:
            await self._poke.wait()
        finally:
            handle.cancel()
