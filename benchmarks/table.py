"""Collects the runs of all systems and shows them: medians and ratios as one text table, everything as JSON.

Filled by `__main__` run by run; a cell holds its rates or the error that ended it.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.driver import Rate
    from benchmarks.plan import Column

# A row is: name, jobs per run, one cell per column.
Row = list[str]


@dataclass(slots=True)
class System:
    """One row: what was measured, or in `absent` why nothing was."""

    name: str
    setup: str
    jobs: int
    version: str = ""
    absent: str | None = None
    rates: dict[str, list[Rate]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def median(self, column: Column) -> float | None:
        """Jobs per second, or None when the cell failed or was not measured."""
        if column.title in self.errors or not (rates := self.rates.get(column.title)):
            return None
        return statistics.median(rate.per_second for rate in rates)

    def spread(self) -> float:
        """The largest distance between two runs of one cell, as a part of its median."""
        cells = [[rate.per_second for rate in rates] for rates in self.rates.values()]
        return max(((max(cell) - min(cell)) / statistics.median(cell) for cell in cells), default=0.0)


def as_text(systems: Sequence[System], columns: Sequence[Column], baseline: str) -> str:
    """The table, the set-ups, and the errors in full."""
    base = next((system for system in systems if system.name == baseline and not system.absent), None)
    rows = [["system", "jobs", *(column.title for column in columns)]]
    for system in systems:
        cells = [_cell(system, column, base) for column in columns]
        rows.append([system.name, "" if system.absent else grouped(system.jobs), *cells])
    notes = [_ratio_note(base, baseline), "", *(_about(system) for system in systems)]
    errors = [f"{system.name}, {title}: {error}" for system in systems for title, error in system.errors.items()]
    return "\n".join([*_align(rows), "", *notes, *(["", "failed:", *errors] if errors else [])])


def as_json(systems: Sequence[System], columns: Sequence[Column]) -> list[dict[str, object]]:
    return [
        {
            "system": system.name,
            "version": system.version,
            "setup": system.setup,
            "absent": system.absent,
            "errors": system.errors,
            "columns": {
                column.title: {
                    "median": system.median(column),
                    "runs": [{"jobs": rate.jobs, "seconds": rate.seconds} for rate in rates],
                }
                for column in columns
                if (rates := system.rates.get(column.title))
            },
        }
        for system in systems
    ]


def grouped(number: float) -> str:
    return f"{number:,.0f}".replace(",", " ")


def _cell(system: System, column: Column, base: System | None) -> str:
    if system.absent:
        return "absent"
    if column.title in system.errors:
        return "failed"
    median = system.median(column)
    if median is None:
        return "-"
    against = base.median(column) if base else None
    return f"{grouped(median)} {median / against:6.2f}x" if against else grouped(median)


def _ratio_note(base: System | None, baseline: str) -> str:
    rates = "work PxC: P processes with concurrency C each; enqueue 1, 64: producers in one process"
    ratios = f"ratios against {baseline}" if base else f"no ratios, {baseline} is absent"
    return f"jobs per second, medians; {ratios}; {rates}"


def _about(system: System) -> str:
    if system.absent:
        return f"{system.name}: absent: {system.absent}"
    spread = system.spread()
    return f"{system.name} {system.version}: {system.setup}{f' (spread {spread:.0%})' if spread else ''}"


def _align(rows: Sequence[Row]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return lines
