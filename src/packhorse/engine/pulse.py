"""Pulse: keeps a pool alive from a thread of its own, for Apps that run inside another program.

A worker started by `packhorse worker` needs none: its supervisor beats for it from outside. A handler that holds the
GIL stops a thread as well, so such handlers belong in a process or under the supervisor.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from packhorse.errors import StoreError
from packhorse.protocols.base import WireProtocol

log = logging.getLogger(__name__)

BEAT_EVERY = 3.0


class Pulse:
    """One thread with its own event loop and connection."""

    def __init__(self, protocol: WireProtocol, pool_id: str) -> None:
        self._protocol = protocol
        self._pool_id = pool_id
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="packhorse-pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        self._stopped = True
        if self._loop is not None and self._ending is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
        await asyncio.to_thread(self._thread.join, 5.0)

    def _run(self) -> None:
        asyncio.run(self._beat())

    async def _beat(self) -> None:
        self._ending = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        guardian = self._protocol.guardian()
        try:
            while not self._stopped:
                try:
                    await guardian.beat([self._pool_id])
                except StoreError as exc:
                    log.debug("heartbeat of pool %s: %s", self._pool_id, exc)
                except Exception:
                    log.exception("heartbeat of pool %s failed", self._pool_id)
                try:
                    await asyncio.wait_for(self._ending.wait(), BEAT_EVERY)
                except TimeoutError:
                    continue
        finally:
            await guardian.close()
