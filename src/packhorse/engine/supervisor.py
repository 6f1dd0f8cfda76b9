"""Supervisor: the parent of the worker processes.

It keeps their heartbeats going while they live, however long a handler holds the GIL; it hands back at once what a dead
one held; it starts crashed ones again with a growing pause, and recycles those that have grown too large. It runs no
jobs and loads no handlers' work, so nothing in it can be stuck.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packhorse.clock import SYSTEM_CLOCK, Clock
from packhorse.engine.board import Board
from packhorse.errors import StoreError
from packhorse.protocols.base import Guardian, WireProtocol

log = logging.getLogger(__name__)

BEAT_EVERY = 3.0
LOOK_EVERY = 5.0
#: A process that dies sooner than this after its start is restarted later each time.
HEALTHY_AFTER = 10.0
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
#: Exit code of a child that cannot work as it is configured: starting it again would not help.
EXIT_CONFIG = 2
#: Added to the children's own stop time before they are killed.
STOP_MARGIN = 15.0
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")

#: Makes the command line of a child from its pool ids (one per App), board fd and lifeline fd.
CommandLine = Callable[[Sequence[str], int, int], Sequence[str]]


@dataclass(slots=True, eq=False)
class _Child:
    pool_ids: list[str]
    board: Board
    process: asyncio.subprocess.Process | None = None
    started: float = 0.0
    ending: bool = False


class Supervisor:
    """`run` returns the exit code when all children have ended after `stop`, or one of them cannot be started."""

    def __init__(
        self,
        command: CommandLine,
        protocols: Sequence[WireProtocol],
        *,
        processes: int = 1,
        slots: int = 20,
        stop_timeout: float = 25.0,
        max_memory: int | None = None,
        until_done: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._command = command
        self._protocols = protocols
        self._count = processes
        self._slots = slots
        self._stop_timeout = stop_timeout
        self._max_memory = max_memory
        self._until_done = until_done
        self._clock = clock
        self._children: set[_Child] = set()
        self._guardians: list[Guardian] = []
        self._stopping = asyncio.Event()
        self._lifeline: tuple[int, int] = (-1, -1)
        self._exit_code = 0

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that run."""
        return [c.process.pid for c in self._children if c.process is not None and c.process.returncode is None]

    async def run(self) -> int:
        self._guardians = [protocol.guardian() for protocol in self._protocols]
        # Children hold the reading end: it ends when this process does, however it ends.
        self._lifeline = os.pipe()
        watch = [asyncio.create_task(self._beat(index)) for index in range(len(self._guardians))]
        watch.append(asyncio.create_task(self._look_after()))
        try:
            await asyncio.gather(*(self._keep() for _ in range(self._count)))
        finally:
            for task in watch:
                task.cancel()
            await asyncio.gather(*watch, return_exceptions=True)
            for end in self._lifeline:
                os.close(end)
            for guardian in self._guardians:
                await guardian.close()
        return self._exit_code

    def stop(self) -> None:
        """Children finish what runs, within their stop time, and end. A second call ends them now."""
        if self._stopping.is_set():
            log.warning("stopping now")
            self._signal(signal.SIGKILL)
            return
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def quiet(self) -> None:
        """Children take no more jobs."""
        self._signal(signal.SIGUSR1)

    def restart(self) -> None:
        """Every child ends in good order and a new one takes its place."""
        self._signal(signal.SIGTERM)

    # -- one child after the other -----------------------------------------------------------------------------

    async def _keep(self) -> None:
        """One place among the processes: whoever dies in it is replaced."""
        quick_deaths = 0
        while not self._stopping.is_set():
            child = await self._spawn()
            code = await self._outlive(child)
            lived = self._clock.monotonic() - child.started
            started_work, moved = bool(child.board.running()), await self._clean_up(child)
            if code == EXIT_CONFIG and lived < HEALTHY_AFTER and not started_work:
                self._exit_code = EXIT_CONFIG
                if not self._stopping.is_set():
                    self.stop()
            if self._stopping.is_set() or (self._until_done and code == 0 and not moved):
                break
            if code == 0 or child.ending:
                quick_deaths = 0
                continue
            quick_deaths = quick_deaths + 1 if lived < HEALTHY_AFTER else 0
            pause = min(FIRST_PAUSE * 2 ** (quick_deaths - 2), LONGEST_PAUSE) if quick_deaths > 1 else 0.0
            log.error("worker process %s; the next one starts in %.1f s", _ending(code), pause)
            await _either(self._stopping.wait(), pause)

    async def _spawn(self) -> _Child:
        pool_ids = [os.urandom(12).hex() for _ in self._protocols]
        child = _Child(pool_ids, Board.create(self._slots * len(pool_ids)))
        command = self._command(child.pool_ids, child.board.fd, self._lifeline[0])
        child.started = self._clock.monotonic()
        child.process = await asyncio.create_subprocess_exec(
            *command,
            pass_fds=(child.board.fd, self._lifeline[0]),
            # A session of its own: Ctrl-C reaches this process only, which tells the children once.
            start_new_session=True,
        )
        self._children.add(child)
        log.info("worker process %d started", child.process.pid)
        if self._stopping.is_set():
            _kill(child.process.pid, signal.SIGTERM)  # the order to stop came while it was being made
        return child

    async def _outlive(self, child: _Child) -> int:
        """Wait for its end; once stopping, not longer than it was given."""
        assert child.process is not None
        exited = asyncio.ensure_future(child.process.wait())
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({exited, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not exited.done():
            await asyncio.wait({exited}, timeout=self._stop_timeout + STOP_MARGIN)
        if not exited.done():
            log.error("worker process %d did not end in time; killing it", child.process.pid)
            child.process.kill()
        return await exited

    async def _clean_up(self, child: _Child) -> int:
        """Hand back what the dead process held, for as long as it takes the store to answer; gives how many jobs.

        Also after exit code 0: a handler may have ended the process.
        """
        total = 0
        self._children.discard(child)
        crashed = child.board.running()
        child.board.close()
        pause = 0.05
        for guardian, pool in zip(self._guardians, child.pool_ids, strict=True):
            while True:
                try:
                    moved = await guardian.release(pool, crashed)
                    break
                except StoreError as exc:
                    log.warning("jobs of a dead process wait for the store: %s", exc)
                    if await _either(self._stopping.wait(), pause):
                        return total  # its heartbeat ends with us, so another pool will find its jobs
                    pause = min(pause * 2, 5.0)
            if moved > 0:
                total += moved
                log.warning("%d jobs of a dead process are back in their queues", moved)
        return total

    # -- all of them -------------------------------------------------------------------------------------------

    async def _beat(self, index: int) -> None:
        """For the pools on one store: another store that hangs must not keep these from being seen."""
        while True:
            pools = [child.pool_ids[index] for child in self._children if child.process is not None]
            try:
                if pools:
                    await self._guardians[index].beat(pools)
            except StoreError as exc:
                log.debug("heartbeat: %s", exc)
            except Exception:
                log.exception("heartbeat failed")
            await asyncio.sleep(BEAT_EVERY)

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            for child in list(self._children):
                pid = child.process.pid if child.process is not None else 0
                if self._max_memory is not None and not child.ending and _memory(pid) > self._max_memory:
                    log.info("worker process %d is larger than %d MB: it is replaced", pid, self._max_memory >> 20)
                    child.ending = True
                    _kill(pid, signal.SIGTERM)
            if os.getpid() == 1:
                _reap_strangers(set(self.pids))

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            _kill(pid, number)


async def _either(event: Awaitable[object], seconds: float) -> bool:
    """True if the event came within the time."""
    try:
        await asyncio.wait_for(event, seconds)
    except TimeoutError:
        return False
    return True


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        log.debug("process %d had ended already", pid)


def _memory(pid: int) -> int:
    """Resident bytes of a process; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_SIZE
    except (OSError, IndexError, ValueError):
        return 0


def _reap_strangers(own: set[int]) -> None:
    """As process 1 of a container: orphans of dead workers become our children and must be waited for."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        pid = int(entry.parent.name)
        if fields[0] == "Z" and fields[1] == "1" and pid not in own:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue
