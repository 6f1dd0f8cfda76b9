"""The `packhorse` group: finds commands when they are asked for, and shows what went wrong.

Commands are imported by name only, so that a worker never loads what draws tables.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

import packhorse
from packhorse.cli.faults import INTERRUPTED, READER_GONE, Fault, ReaderGone, explain, nearest
from packhorse.cli.options import Given, connection_options, json_option, keep
from packhorse.cli.output import note, plain

HELP = """Background jobs out of Redis or Valkey.

\b
  packhorse demo                               see it work, nothing to install beside it
  packhorse worker my_app:app                  run the jobs of `app` in my_app.py
  packhorse enqueue send_email address=a@b.c   give it one
  packhorse stats                              how things stand

Settings come from flags, then the environment (PACKHORSE_URL, ...), then ./packhorse.toml or [tool.packhorse]
in ./pyproject.toml, then the App itself.
"""

#: In the order of the help page.
COMMANDS = {
    "demo": "packhorse.cli.demo:demo",
    "worker": "packhorse.cli.worker:worker",
    "enqueue": "packhorse.cli.enqueue:enqueue",
    "stats": "packhorse.cli.stats:stats",
    "queues": "packhorse.cli.queues:queues",
    "jobs": "packhorse.cli.jobs:jobs",
    "workers": "packhorse.cli.pools:workers",
    "cron": "packhorse.cli.pools:cron",
    "bench": "packhorse.cli.bench:bench",
    "completion": "packhorse.cli.completion:completion",
}


class Root(click.Group):
    """Imports commands late, and ends every run with one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            meant = f"packhorse worker {name}" if ":" in name else nearest(name, COMMANDS)
            raise Fault(f"there is no command {name!r}", meant or "packhorse --help")
        return super().resolve_command(ctx, args)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> None:
        arguments = [_as_utf8(argument) for argument in (sys.argv[1:] if args is None else args)]
        extra["standalone_mode"] = False
        try:
            answer = super().main(arguments, prog_name or "packhorse", **extra)
            code = answer if isinstance(answer, int) else 0
        except (click.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        except ReaderGone:
            code = READER_GONE
        except Exception as exc:  # noqa: BLE001 - the last one to see it  # noqa: BLE001 - the last one to see it
            code = _tell(exc, any(argument in {"-v", "-vv", "--verbose"} for argument in arguments))
        if code == READER_GONE:
            _let_go(sys.stdout)
        sys.exit(code)


def _as_utf8(argument: str) -> str:
    """What was typed, also where the locale took it for something else."""
    try:
        return argument if argument.isascii() else os.fsencode(argument).decode()
    except UnicodeError:
        return argument


def _tell(error: Exception, verbose: bool) -> int:
    fault = explain(error)
    if verbose and not isinstance(error, click.UsageError):
        traceback.print_exception(error)
    try:
        note(f"error: {plain(fault.message)}")
        if fault.hint:
            note(f"hint: {plain(fault.hint)}")
    except (ReaderGone, OSError, ValueError):
        return fault.code
    return fault.code


def _let_go(stream: Any) -> None:
    """Point a broken pipe elsewhere, or the interpreter complains about it when it ends."""
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@click.group(
    cls=Root,
    help=HELP,
    invoke_without_command=True,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@connection_options
@json_option
@click.option("--child-of-supervisor", hidden=True, expose_value=False, callback=keep)
@click.version_option(packhorse.__version__, message="packhorse %(version)s")
@click.pass_context
def root(ctx: click.Context) -> None:
    ctx.ensure_object(Given)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
