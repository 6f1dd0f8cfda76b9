"""What every command may be given, wherever on the line it stands, and the kinds of values that options take.

The common flags are kept in a `Given` on the context: a flag behind the command wins over one before it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import click

from packhorse.cli.logs import log_to_stderr

F = TypeVar("F", bound=Callable[..., Any])

LONGEST_DURATION = 100 * 365 * 86_400.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")


@dataclass(slots=True)
class Given:
    """The common flags; None where there was none. Environment and settings file come after them.

    `child_of_supervisor` is set by the supervisor for the worker processes that it starts.
    """

    url: str | None = None
    namespace: str | None = None
    app: str | None = None
    config: str | None = None
    verbose: int = 0
    json: bool = False
    child_of_supervisor: str | None = None


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds, or words: 90, 1.5, 90s, 1h30m, 2d, 250ms."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        seconds = _seconds(text)
        if seconds is None:
            self.fail(f"{text!r} is no duration; write seconds (90) or 90s, 1h30m, 2d, 250ms", param, ctx)
        if not 0 <= seconds <= LONGEST_DURATION:
            self.fail(f"{text!r} is out of range; allowed: 0 seconds to 100 years", param, ctx)
        return seconds


class When(click.ParamType):  # type: ignore[type-arg]
    """A point in time: an epoch second, or ISO 8601 (local time unless it says otherwise)."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            at = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{text!r} is no time; write 2030-01-31T09:00, 2030-01-31T09:00:00+01:00 or an epoch second",
                param,
                ctx,
            )
        if not 0 <= at < 1e11:
            self.fail(f"{text!r} is too far away", param, ctx)
        return at


class JsonObject(click.ParamType):  # type: ignore[type-arg]
    """A JSON object on the command line."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        try:
            return read_object(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


def read_json(text: str) -> Any:
    """A JSON value as the standard has it: no NaN. Errors: ValueError, with line and column."""
    return json.loads(text, parse_constant=_no_constant)


def read_object(text: str) -> dict[str, Any]:
    """A JSON object. Errors: ValueError that shows the text."""
    try:
        value = read_json(text)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"{text[:60]!r} is no JSON: {exc}") from None
    if not isinstance(value, dict):
        raise ValueError(f'{text[:60]!r} is no JSON object; arguments have names: {{"address": "a@example.com"}}')
    return value


def connection_options(command: F) -> F:
    """Which store, which App, which settings, how talkative."""
    return connection_options_with(keep)(command)


def connection_options_with(
    on_config: Callable[[click.Context, click.Parameter, Any], None],
) -> Callable[[F], F]:
    """The same, with a callback of the command's own for --config; it runs before all others."""
    options = (
        click.option(
            "--app", metavar="MODULE:APP", expose_value=False, callback=keep,
            help="The App whose store, jobs and namespace to use.  [env: PACKHORSE_APP]",
        ),
        click.option(
            "--url", metavar="URL", expose_value=False, callback=keep,
            help="The store: redis://, rediss:// or unix://.  [env: PACKHORSE_URL]",
        ),
        click.option(
            "--namespace", metavar="NAME", expose_value=False, callback=keep,
            help="Prefix of every key, as in App(namespace=...).  [env: PACKHORSE_NAMESPACE]",
        ),
        click.option(
            "--config", metavar="FILE", expose_value=False, callback=on_config, is_eager=True,
            help="Settings file instead of ./packhorse.toml or ./pyproject.toml.  [env: PACKHORSE_CONFIG]",
        ),
        click.option(
            "-v", "--verbose", count=True, expose_value=False, callback=keep,
            help="Say more; -vv for everything.",
        ),
    )  # fmt: skip

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def json_option(command: F) -> F:
    """`--json` for commands that answer something."""
    return click.option(
        "--json", is_flag=True, expose_value=False, callback=keep, help="Answer in JSON, for programs."
    )(command)


def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Callback of an option whose value goes to `Given`, from any level of the line."""
    given = ctx.ensure_object(Given)
    if not value and value != "":
        return
    if param.name == "verbose":
        given.verbose += value
        log_to_stderr("info" if given.verbose == 1 else "debug")
    else:
        setattr(given, str(param.name), value)


def _seconds(text: str) -> float | None:
    if _PART.sub("", text) == "" and text:
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
