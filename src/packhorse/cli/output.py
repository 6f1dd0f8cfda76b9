"""How answers look: tables for people, JSON for machines. Every command writes through here.

stdout is data, stderr is for people. Whatever comes from the store is escaped, so that a job's name cannot
drive the terminal. rich is loaded only for a table on a terminal: workers and pipes stay small.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TextIO

import msgspec

from packhorse.cli.faults import ReaderGone
from packhorse.clock import SYSTEM_CLOCK

#: Longest cell in a table on a terminal; pipes, `show` and --json get everything.
LONGEST_CELL = 80

#: On a narrow terminal: an id that is broken over two lines cannot be copied.
NARROWEST = {"id": 24, "pool": 24}

PIECE = 16_384

Row = Sequence[object]


def plain(value: object, keep: str = "") -> str:
    """Text that is safe to show: invisible characters become escapes, but for those in `keep`."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


def write(text: str) -> None:
    """A line, or lines, on stdout. Errors: ReaderGone."""
    _write(sys.stdout, text)


def note(text: str) -> None:
    """A line for people on stderr."""
    _write(sys.stderr, text)


def document(value: Any) -> None:
    """JSON on stdout: one document, ASCII only, indented on a terminal."""
    text = msgspec.json.encode(value)
    if sys.stdout.isatty():
        text = msgspec.json.format(text, indent=2)
    # Outside of strings JSON has only ASCII, so this escapes text only, DEL and C1 controls included.
    write(re.sub(r"[^\x20-\x7e\n]", _json_escape, text.decode()))


def table(columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Rows under headings; numbers go to the right. Aligned plain text when stdout is no terminal."""
    write(table_text(columns, rows))


def table_text(columns: Sequence[str], rows: Sequence[Row]) -> str:
    cells = [[plain("" if value is None else value) for value in row] for row in rows]
    right = [_numbers([row[i] for row in rows]) for i in range(len(columns))]
    if sys.stdout.isatty():
        return _rich_table(columns, cells, right)
    lines = [[heading.upper() for heading in columns], *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def fields(pairs: Sequence[tuple[str, object]]) -> None:
    """`name: value` lines, aligned; values may have several lines."""
    write(fields_text(pairs))


def fields_text(pairs: Sequence[tuple[str, object]]) -> str:
    width = max(len(name) for name, _ in pairs) + 2
    indent = "\n" + " " * width
    return "\n".join(
        f"{name + ':':<{width}}" + plain("" if value is None else value, keep="\n").replace("\n", indent)
        for name, value in pairs
    )


def moment(at: float | None) -> str:
    """Local date and time of an epoch second."""
    if not at:
        return ""
    try:
        return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{at:g}"


def relative(at: float | None) -> str:
    """`in 5m` or `2h ago`."""
    if not at:
        return ""
    left = at - SYSTEM_CLOCK.wall()
    return f"in {span(left)}" if left > 0 else f"{span(-left)} ago"


def span(seconds: float | None) -> str:
    """A duration in its two largest units: `1h30m`."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f}s".replace(".0s", "s")
    left, parts = int(min(seconds, 1e12)), []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    return "".join(parts[:2])


def shortened(text: str) -> str:
    """A long text for a table: cut on a terminal only."""
    if len(text) <= LONGEST_CELL or not sys.stdout.isatty():
        return text
    return f"{text[: LONGEST_CELL - 1]}…"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _numbers(values: Sequence[object]) -> bool:
    """True for a column of numbers, with gaps or without."""
    given = [value for value in values if value not in ("", None)]
    return bool(given) and all(isinstance(value, int | float) for value in given)


def _write(stream: TextIO, text: str) -> None:
    try:
        # In pieces: an unbuffered stream (PYTHONUNBUFFERED) says nothing when only half of a text was taken.
        for start in range(0, len(text), PIECE):
            stream.write(text[start : start + PIECE])
        stream.write("\n")
        stream.flush()
    except BrokenPipeError:
        raise ReaderGone from None


def _json_escape(match: re.Match[str]) -> str:
    units = match.group().encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for index, (heading, is_right) in enumerate(zip(columns, right, strict=True)):
        longest = max((len(row[index]) for row in cells), default=0)
        shown.add_column(
            heading,
            justify="right" if is_right else "left",
            overflow="fold",
            min_width=min(longest, NARROWEST.get(heading, 0)),
        )
    for row in cells:
        shown.add_row(*(Text(cell) for cell in row))
    styled = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    console = Console(highlight=False, markup=False, emoji=False, color_system="auto" if styled else None)
    with console.capture() as capture:
        console.print(shown)
    return capture.get().rstrip("\n")
