"""What goes wrong, told to people: one line, an exit code, and a hint where there is a remedy.

`explain` turns every error into a `Fault`; `root` shows it. Code 1: run-time or store, 2: what was asked.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import click
from click.core import ParameterSource

from packhorse.errors import (
    ArgumentsError,
    ConfigError,
    EncodeError,
    PackhorseError,
    StoreRefused,
    StoreUnavailable,
)

FAILED = 1
WRONG = 2
#: What a shell reports for a program that Ctrl-C ended, and for one whose reader went away.
INTERRUPTED = 130
READER_GONE = 141

_SOURCES = {
    ParameterSource.ENVIRONMENT: "from the environment",
    ParameterSource.DEFAULT_MAP: "from the settings file",
}


class Fault(click.ClickException):
    """An error that is ready to be shown."""

    def __init__(self, message: str, hint: str = "", code: int = WRONG) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


class ReaderGone(Exception):
    """Nobody reads our output any more, as with `| head -1`."""


def explain(error: Exception) -> Fault:
    """The fault to show for any error."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, click.UsageError):
        return _usage(error)
    if isinstance(error, click.ClickException):
        return Fault(error.format_message(), code=WRONG)
    if isinstance(error, ConfigError | ArgumentsError | EncodeError):
        return Fault(str(error))
    if isinstance(error, PackhorseError):
        return Fault(str(error), _remedy(error), FAILED)
    if isinstance(error, OSError):
        return Fault(str(error), code=FAILED)
    return Fault(
        f"unexpected {type(error).__name__}: {error}",
        "this is a mistake in packhorse; the same command with -v shows where",
        FAILED,
    )


def nearest(name: str, names: Iterable[str], form: str = "{}") -> str:
    """`did you mean ...?` for a mistyped name, or nothing."""
    close = difflib.get_close_matches(name, sorted(names), n=2, cutoff=0.6)
    return f"did you mean {' or '.join(form.format(match) for match in close)}?" if close else ""


def _usage(error: click.UsageError) -> Fault:
    message = error.format_message().rstrip(".")
    if isinstance(error, click.BadParameter) and error.ctx is not None and error.param is not None:
        source = error.ctx.get_parameter_source(error.param.name or "")
        if source in _SOURCES:
            message += f" ({_SOURCES[source]})"
    path = error.ctx.command_path if error.ctx is not None else "packhorse"
    return Fault(message, f"{path} --help")


def _remedy(error: PackhorseError) -> str:
    text = str(error)
    if isinstance(error, StoreUnavailable) and "DB index" in text:
        return "the server has fewer databases; unless told otherwise they are 0 to 15"
    if isinstance(error, StoreUnavailable) and "refuses the login" in text:
        return "a password stands in the URL: redis://:PASSWORD@host; PACKHORSE_URL hides it from others here"
    if isinstance(error, StoreUnavailable) and "cannot be reached" in text:
        return "is a server there? --url names another, --app that of an App; `packhorse demo` brings its own"
    if isinstance(error, StoreRefused) and error.code == "NOPERM":
        return "the server's user lacks this right: give it, or log in as another user"
    return ""
