"""`packhorse worker`: runs the jobs of one or more Apps.

Loads the Apps before anything else, so that a mistake shows at once and not in a child; then hands over to
`run_supervised`, or with --reload to the process that watches the source files.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

import packhorse
from packhorse.app import App
from packhorse.cli.child import ChildPlace, listening, run_child
from packhorse.cli.config import settings
from packhorse.cli.logs import FORMATS, LEVELS, log_to_stderr
from packhorse.cli.loop import run_fast
from packhorse.cli.options import Duration, Given, connection_options_with
from packhorse.cli.reload import run_reloading, under_reloader
from packhorse.cli.target import open_apps
from packhorse.engine.supervisor import Supervisor
from packhorse.settings import WorkerSettings, masked

log = logging.getLogger(__name__)

HELP = """Run jobs until stopped.

\b
  packhorse worker my_app:app --concurrency 50
  packhorse worker mail.jobs:app reports:app --processes 2
  packhorse worker my_app:app --drain            run what is there, then end

MODULE:APP is a module that can be imported from here, and the name of the App in it (`my_app` alone means
my_app:app). Several Apps share the processes, each with slots of its own. Without one, --app, PACKHORSE_APP
or the settings file names it.

Ctrl-C or SIGTERM: take no more jobs, let the running ones end within --stop-timeout, hand the rest back. Once
more: now. SIGUSR1 or Ctrl-Z: take no more jobs, stay alive.
"""

DEFAULTS = WorkerSettings()


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """All that the line, the environment and the settings file say about a worker. `max_memory` in MB."""

    targets: tuple[str, ...]
    apps: tuple[App, ...]
    settings: WorkerSettings
    processes: int
    max_jobs: int | None
    max_memory: int | None
    drain: bool
    log_level: str
    log_format: str


def _settings_file(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Before any other option is read: what the file says about workers is their default."""
    given = ctx.ensure_object(Given)
    if value is not None:
        given.config = value
    if not ctx.resilient_parsing:
        ctx.default_map = dict(settings(given).worker)


@click.command("worker", help=HELP)
@click.argument("targets", nargs=-1, metavar="[MODULE:APP]...")
@click.option(
    "-c", "--concurrency", metavar="N", type=click.IntRange(1, 10_000),
    default=DEFAULTS.concurrency, show_default=True,
    envvar="PACKHORSE_CONCURRENCY", show_envvar=True, help="Jobs at a time, per process and App.",
)  # fmt: skip
@click.option(
    "-p", "--processes", metavar="N", type=click.IntRange(1, 512), default=1, show_default=True,
    envvar="PACKHORSE_PROCESSES", show_envvar=True, help="Worker processes.",
)  # fmt: skip
@click.option(
    "--stop-timeout", type=Duration(), default=DEFAULTS.stop_timeout, show_default=True,
    envvar="PACKHORSE_STOP_TIMEOUT", show_envvar=True, help="How long running jobs may go on after a stop.",
)  # fmt: skip
@click.option(
    "--max-jobs", metavar="N", type=click.IntRange(1), envvar="PACKHORSE_MAX_JOBS", show_envvar=True,
    help="End a process after about so many jobs.",
)  # fmt: skip
@click.option(
    "--max-memory", type=click.IntRange(16), metavar="MB", envvar="PACKHORSE_MAX_MEMORY", show_envvar=True,
    help="Replace a process that has grown larger.",
)  # fmt: skip
@click.option("--reload", is_flag=True, help="Start again when a Python file here changes. For development.")
@click.option("--drain", is_flag=True, help="End when no job is left to run now.")
@click.option(
    "--log-level", type=click.Choice(LEVELS, case_sensitive=False), default="info", show_default=True,
    envvar="PACKHORSE_LOG_LEVEL", show_envvar=True, help="What to log.",
)  # fmt: skip
@click.option(
    "--log-format", type=click.Choice(FORMATS, case_sensitive=False), default="text", show_default=True,
    envvar="PACKHORSE_LOG_FORMAT", show_envvar=True, help="How to log it, to stderr.",
)  # fmt: skip
@connection_options_with(_settings_file)
@click.pass_obj
def worker(given: Given, /, targets: tuple[str, ...], reload: bool, log_level: str, **options: Any) -> int:
    level = "debug" if given.verbose else log_level
    log_to_stderr(level, options["log_format"])
    if reload and not under_reloader():
        return run_reloading()
    wanted = _options(given, targets, log_level=level, **options)
    if given.child_of_supervisor is not None:
        place = ChildPlace.read(given.child_of_supervisor)
        return run_fast(run_child(wanted.apps, wanted.settings, place, wanted.max_jobs, wanted.drain))
    return run_supervised(wanted)


def run_supervised(options: WorkerOptions) -> int:
    """Start the worker processes and watch over them until told to stop; gives the exit code."""
    _greet(options)
    return run_fast(_supervise(options))


async def _supervise(options: WorkerOptions) -> int:
    for app in options.apps:
        async with app.admin() as admin:
            await admin.ping()  # a wrong address or password is told here, once, and not by every child
    supervisor = Supervisor(
        _command_line,
        [app.protocol for app in options.apps],
        processes=options.processes,
        slots=options.settings.concurrency,
        stop_timeout=options.settings.stop_timeout,
        max_memory=options.max_memory << 20 if options.max_memory else None,
        until_done=options.drain,
    )
    with listening(supervisor.stop, supervisor.quiet):
        return await supervisor.run()


def _command_line(pool_ids: Sequence[str], board: int, lifeline: int) -> list[str]:
    """The line of this process again, as it was given, with the child's place in the family."""
    place = ChildPlace(tuple(pool_ids), board, lifeline)
    # In front: behind a `--` on the line it would be the name of an App.
    return [sys.executable, "-m", "packhorse", "--child-of-supervisor", place.written(), *sys.argv[1:]]


def _options(
    given: Given, targets: tuple[str, ...], concurrency: int, stop_timeout: float, **options: Any
) -> WorkerOptions:
    apps = open_apps(targets, given)
    wanted = WorkerSettings(concurrency=concurrency, stop_timeout=stop_timeout)
    return WorkerOptions(targets, tuple(apps), wanted, **options)


def _greet(options: WorkerOptions) -> None:
    for app in options.apps:
        names = sorted(handler.name for handler in app.registry)
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        log.info(
            "packhorse %s: %s at %s, namespace %r; %d at a time in %d process%s; jobs: %s",
            packhorse.__version__, app.protocol.name, masked(app.url), app.namespace,
            options.settings.concurrency, options.processes, "" if options.processes == 1 else "es", shown,
        )  # fmt: skip
