"""Board: a few bytes per slot, shared with the supervisor, that say which job runs there.

When a worker process dies, its supervisor reads which jobs were running, and so tells the job that kills processes from
those that merely waited beside it.
"""

from __future__ import annotations

import mmap
import os

CELL = 128


class Board:
    """`slots` cells on an open file descriptor; the worker writes, the supervisor reads."""

    __slots__ = ("_map", "fd", "slots")

    def __init__(self, fd: int, slots: int) -> None:
        self.fd = fd
        self.slots = slots
        self._map = mmap.mmap(fd, slots * CELL)

    @classmethod
    def create(cls, slots: int) -> Board:
        """A new board on an anonymous file."""
        fd = os.memfd_create("packhorse-board") if hasattr(os, "memfd_create") else _unlinked_file()
        os.ftruncate(fd, slots * CELL)
        return cls(fd, slots)

    def start(self, slot: int, job_id: str) -> None:
        text = job_id.encode()[: CELL - 1]
        at = slot * CELL
        self._map[at : at + len(text) + 1] = b"%c%b" % (len(text), text)

    def end(self, slot: int) -> None:
        self._map[slot * CELL] = 0

    def running(self) -> frozenset[str]:
        """Ids of the jobs that have started and not ended."""
        found = set()
        for at in range(0, self.slots * CELL, CELL):
            length = self._map[at]
            if length:
                found.add(self._map[at + 1 : at + 1 + length].decode("utf-8", "replace"))
        return frozenset(found)

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)


def _unlinked_file() -> int:
    import tempfile  # only on systems without memfd

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
