"""Logging of the commands: to stderr, as text or one JSON object a line.

The library itself configures nothing; only a command does. What packhorse logs is escaped, so that a job's
name cannot forge a line.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TextIO

from packhorse.cli.output import plain

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")


def log_to_stderr(level: str, form: str = "text") -> None:
    """Send every logger's records from this level on to stderr; a second call replaces the first."""
    handler = _Stderr()
    handler.setFormatter(_Json() if form == "json" else _Text("%(asctime)s %(levelname)-7s %(message)s"))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Stderr)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever sys.stderr is at the time."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)


class _Text(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        own = record.name.partition(".")[0] == "packhorse"
        record.message = plain(record.message, keep="" if own else "\n\t")
        return super().formatMessage(record)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)
