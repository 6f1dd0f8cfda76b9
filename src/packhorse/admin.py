"""Admin: what the CLI and the web may ask of a store or change in it, for every protocol alike.

Async; one per event loop, made by `App.admin`. Bulk changes go page by page and touch only entries that are still what
they were when they were listed.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Collection

from packhorse.protocols.base import WireProtocol
from packhorse.protocols.inspect import EVERYTHING, BusyRow, Filter, JobRow, Page, PoolRow, QueueRow, State

PAGE = 200


class Admin:
    """Errors of all methods: StoreError. Use as `async with app.admin() as admin`."""

    def __init__(self, protocol: WireProtocol) -> None:
        self._inspector = protocol.inspector()

    async def __aenter__(self) -> Admin:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ping(self) -> float:
        """Seconds that one round trip to the store takes."""
        return await self._inspector.ping()

    async def queues(self) -> list[QueueRow]:
        return await self._inspector.queues()

    async def counts(self) -> dict[State, int]:
        return await self._inspector.counts()

    async def pools(self) -> list[PoolRow]:
        return await self._inspector.pools()

    async def busy(self) -> list[BusyRow]:
        return await self._inspector.busy()

    async def jobs(
        self, state: State, where: Filter = EVERYTHING, *, queue: str | None = None, offset: int = 0, limit: int = 20
    ) -> Page:
        """One page of jobs; `queue` is needed for `State.QUEUED`."""
        return await self._inspector.jobs(state, where, queue=queue, offset=offset, limit=limit)

    async def find(self, id: str) -> list[JobRow]:
        return await self._inspector.find(id)

    async def retry(self, rows: Collection[JobRow]) -> int:
        """Run these again now; gives how many were still there."""
        return await self._inspector.retry(list(rows))

    async def delete(self, rows: Collection[JobRow]) -> int:
        """Delete these; gives how many were still there."""
        return await self._inspector.delete(list(rows))

    async def retry_all(self, state: State, where: Filter = EVERYTHING) -> int:
        """Run everything that matches again now."""
        return sum([await self.retry(rows) async for rows in self._matching(state, where, None)])

    async def delete_all(self, state: State, where: Filter = EVERYTHING, *, queue: str | None = None) -> int:
        """Delete everything that matches."""
        return sum([await self.delete(rows) async for rows in self._matching(state, where, queue)])

    async def count(self, state: State, where: Filter = EVERYTHING, *, queue: str | None = None) -> int:
        """How many match: what a bulk change would touch."""
        return sum([len(rows) async for rows in self._matching(state, where, queue)])

    async def pause(self, *names: str) -> None:
        await self._inspector.pause(names)

    async def resume(self, *names: str) -> None:
        await self._inspector.resume(names)

    async def purge(self, name: str) -> int:
        """Delete every waiting job of a queue; gives how many."""
        return await self._inspector.purge(name)

    async def close(self) -> None:
        await self._inspector.close()

    async def _matching(self, state: State, where: Filter, queue: str | None) -> AsyncIterator[tuple[JobRow, ...]]:
        """Everything that matches, listed whole before anything changes, so that no page shifts meanwhile."""
        # One call: a filter makes each page a scan from the start. The inspector itself reads in batches.
        page = await self._inspector.jobs(state, where, queue=queue, offset=0, limit=sys.maxsize)
        for first in range(0, len(page.rows), PAGE):
            yield page.rows[first : first + PAGE]
