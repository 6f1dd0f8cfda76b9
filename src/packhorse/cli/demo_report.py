"""What `packhorse demo` shows: progress while it runs, the tables at the end.

Progress is what the store says. On a terminal it is a set of bars; anywhere else it is a line a second.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from packhorse.admin import PAGE, Admin
from packhorse.cli.demo_jobs import FileResult
from packhorse.cli.output import fields_text, table, write
from packhorse.clock import tick
from packhorse.protocols.inspect import JobRow, State

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY = 1.0
TOP_NAMES = 10


@dataclass(frozen=True, slots=True)
class Progressed:
    """How far the run is. What lies nowhere in the store is done, because everything was enqueued."""

    total: int
    queued: int
    running: int
    retrying: int
    dead: int

    @property
    def done(self) -> int:
        return max(self.total - self.queued - self.running - self.retrying - self.dead, 0)

    @property
    def ended(self) -> int:
        return self.done + self.dead

    @property
    def settled(self) -> bool:
        return not self.queued and not self.running and not self.retrying


async def look(admin: Admin, total: int) -> Progressed:
    """Read the store. Its two answers are a moment apart: a job on its way may be seen twice, or missed."""
    queues = await admin.queues()
    counts = await admin.counts()
    return Progressed(
        total,
        queued=sum(queue.depth for queue in queues),
        running=sum(queue.running for queue in queues),
        retrying=counts.get(State.RETRY, 0),
        dead=counts.get(State.DEAD, 0),
    )


class Display:
    """Shows a Progressed whenever it is told to. Use as a context manager."""

    def __init__(self, begin: Progressed) -> None:
        self._begin = begin
        self._started = tick()
        self._next_line = LINE_EVERY
        self._bars = _bars(begin) if sys.stdout.isatty() else None

    def __enter__(self) -> Display:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, now: Progressed) -> None:
        seconds = tick() - self._started
        rate = f"{max(now.ended - self._begin.ended, 0) / seconds:,.0f} jobs/s"
        if self._bars is not None:
            for bar in self._bars.tasks:
                count = getattr(now, bar.description)
                self._bars.update(bar.id, completed=count, rate=rate if bar.description == "done" else "")
        elif seconds >= self._next_line:
            self._next_line += LINE_EVERY
            write(
                f"{seconds:4.0f} s: {now.done:,} of {now.total:,} done, {now.queued:,} queued, "
                f"{now.running} running, {now.retrying} retrying, {now.dead} dead, {rate}"
            )


def _bars(begin: Progressed) -> Progress:
    """One bar for each place where a job may be, all of the same scale."""
    from rich.progress import BarColumn, Progress, TextColumn  # only for a terminal

    bars = Progress(
        TextColumn("{task.description:>9}"),
        BarColumn(bar_width=None, complete_style="cyan", finished_style="green"),
        TextColumn("{task.completed:>6,.0f} of {task.total:,.0f}"),
        TextColumn("{task.fields[rate]:>13}"),
    )
    for place in ("queued", "running", "retrying", "dead", "done"):
        bars.add_task(place, total=begin.total, completed=getattr(begin, place), rate="")
    return bars


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished run: a result or a dead job for each of `total` files."""

    total: int
    results: Mapping[str, FileResult]
    dead: Sequence[JobRow]
    seconds: float

    @property
    def missing(self) -> int:
        """Files that are neither done nor dead: there should be none."""
        return self.total - len(self.results.keys() | {_path_of(row) for row in self.dead})

    @property
    def retries(self) -> int:
        """Attempts after the first, counted per job, so that a job delivered twice counts once."""
        done = sum(result.attempt - 1 for result in self.results.values())
        return done + sum(max(row.fails - 1, 0) for row in self.dead)

    def names(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for result in self.results.values():
            found.update(result.names)
        return found


async def dead_jobs(admin: Admin) -> list[JobRow]:
    """The whole dead set."""
    rows: list[JobRow] = []
    while page := (await admin.jobs(State.DEAD, offset=len(rows), limit=PAGE)).rows:
        rows += page
    return rows


def show_summary(summary: Summary, source: Path) -> None:
    """The tables: what was read, the names met most often, and the dead with their errors."""
    results = summary.results.values()
    facts = [
        ("files", f"{summary.total:,}"),
        ("done", f"{len(results):,}"),
        ("dead", f"{len(summary.dead):,}"),
        ("retries", f"{summary.retries:,}"),
        ("tokens", f"{sum(result.tokens for result in results):,}"),
        ("bytes", f"{sum(result.size for result in results):,}"),
        ("distinct contents", f"{len({result.sha256 for result in results}):,}"),
        ("seconds", f"{summary.seconds:,.1f}"),
        ("jobs/s", f"{summary.total / summary.seconds:,.1f}" if summary.seconds else "-"),
    ]
    write("\n" + fields_text(facts) + "\n")
    table(("top names", "times"), summary.names().most_common(TOP_NAMES))
    if summary.dead:
        write("")
        table(
            ("dead", "attempts", "error"),
            [
                (os.path.relpath(_path_of(row), source), row.fails, row.error)
                for row in sorted(summary.dead, key=_path_of)
            ],
        )
    if summary.missing:
        write(f"\n{summary.missing:,} files are neither done nor dead: this is a mistake in packhorse")


def _path_of(row: JobRow) -> str:
    """The file of a dead job; its raw arguments when they are no longer what the demo enqueued."""
    try:
        return msgspec.json.decode(row.args, type=dict[str, str])["path"]
    except (msgspec.DecodeError, KeyError):
        return row.args
