"""`packhorse queues`: list, pause, resume and purge queues."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click

from packhorse.app import App
from packhorse.cli.confirm import confirm, confirm_options
from packhorse.cli.faults import FAILED, Fault, nearest
from packhorse.cli.options import Given, connection_options, json_option
from packhorse.cli.output import document, plain, plural, span, table, write
from packhorse.cli.place import nothing, place
from packhorse.cli.target import open_app
from packhorse.protocols.inspect import QueueRow

HELP = """See and steer queues; alone it lists them.

\b
  packhorse queues --app my_app:app
  packhorse queues pause send_email
  packhorse queues purge send_email --dry-run
"""
PAUSE = """Stop taking jobs from these queues; running ones go on.

Example: packhorse queues pause send_email
"""
RESUME = """Take jobs from these queues again.

Example: packhorse queues resume send_email
"""
PURGE = """Delete every waiting job of a queue. Asks first.

Example: packhorse queues purge send_email --dry-run
"""


@click.group("queues", help=HELP, invoke_without_command=True, no_args_is_help=False)
@connection_options
@json_option
@click.pass_context
def queues(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        show(ctx.ensure_object(Given))


@queues.command("list", help="How full each queue is, how long its oldest job waits, and what runs.")
@connection_options
@json_option
@click.pass_obj
def list_queues(given: Given) -> None:
    show(given)


def show(given: Given) -> None:
    app = open_app(given)
    rows = asyncio.run(_queues(app))
    if given.json:
        document(rows)
    elif not rows:
        nothing(app, "queues")
    else:
        table(
            ("queue", "waiting", "oldest", "running", "limit", "state"),
            [
                (row.name, row.depth, span(row.latency) if row.depth else "", row.running,
                 row.max_concurrency or "", "paused" if row.paused else "")
                for row in rows
            ],
        )  # fmt: skip


@queues.command(
    "pause",
    help=PAUSE,
)
@click.argument("names", nargs=-1, required=True, metavar="QUEUE...")
@connection_options
@json_option
@click.pass_obj
def pause(given: Given, names: tuple[str, ...]) -> None:
    _steer(given, names, pause=True)


@queues.command("resume", help=RESUME)
@click.argument("names", nargs=-1, required=True, metavar="QUEUE...")
@connection_options
@json_option
@click.pass_obj
def resume(given: Given, names: tuple[str, ...]) -> None:
    _steer(given, names, pause=False)


@queues.command(
    "purge",
    help=PURGE,
)
@click.argument("name", metavar="QUEUE")
@confirm_options
@connection_options
@json_option
@click.pass_obj
def purge(given: Given, name: str, yes: bool, dry_run: bool) -> None:
    app = open_app(given)
    (row,) = _known(app, asyncio.run(_queues(app)), (name,))
    what = f"delete {plural(row.depth, 'waiting job')} in queue {name!r}"
    if not dry_run:
        confirm(app, what, yes)
    deleted = 0 if dry_run else asyncio.run(_purge(app, name))
    if given.json:
        document({"queue": name, "waiting": row.depth, "deleted": deleted, "dry_run": dry_run})
    elif dry_run:
        write(f"would {plain(what)} of {place(app)}")
    else:
        write(f"deleted {plural(deleted, 'job')} from {plain(name)}")


def _steer(given: Given, names: Sequence[str], pause: bool) -> None:
    app = open_app(given)
    asyncio.run(_pause_or_resume(app, names, pause))
    word = "paused" if pause else "resumed"
    if given.json:
        document({word: list(names)})
    else:
        write(f"{word} {plain(', '.join(names))}")


def _known(app: App, rows: Sequence[QueueRow], names: Sequence[str]) -> list[QueueRow]:
    """The rows of these names. Errors: Fault when one is no queue: it is mistyped more often than new."""
    by_name = {row.name: row for row in rows}
    for name in names:
        if name not in by_name:
            raise Fault(f"there is no queue {name!r} in {place(app)}", nearest(name, by_name), FAILED)
    return [by_name[name] for name in names]


async def _queues(app: App) -> list[QueueRow]:
    async with app.admin() as admin:
        return await admin.queues()


async def _purge(app: App, name: str) -> int:
    async with app.admin() as admin:
        return await admin.purge(name)


async def _pause_or_resume(app: App, names: Sequence[str], pause: bool) -> None:
    async with app.admin() as admin:
        _known(app, await admin.queues(), names)
        await (admin.pause(*names) if pause else admin.resume(*names))
