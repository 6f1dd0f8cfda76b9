"""`packhorse jobs`: list, show, retry and delete jobs that wait or have failed.

Bulk changes name a state and a filter, or --all, and ask first. Ids name jobs one by one; all must be there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from packhorse.admin import Admin
from packhorse.app import App
from packhorse.cli.confirm import confirm, confirm_options
from packhorse.cli.faults import FAILED, Fault
from packhorse.cli.job_rows import as_document, as_fields, as_table
from packhorse.cli.options import Given, connection_options, json_option
from packhorse.cli.output import document, fields_text, moment, note, plural, relative, table, write
from packhorse.cli.place import nothing, place
from packhorse.cli.target import open_app
from packhorse.protocols.inspect import BusyRow, Filter, JobRow, State

F = TypeVar("F", bound=Callable[..., Any])

HELP = """See jobs that wait or have failed, run them again, delete them; alone it lists them.

\b
  packhorse jobs list --state dead --error timeout
  packhorse jobs show 5f1e8c0a9b7d6e4f3a2b1c0d
  packhorse jobs retry --state dead --name send_email
  packhorse jobs delete --state dead --all --dry-run
"""
LIST = """Jobs by state, the first ones first; without --state some of each.

\b
  packhorse jobs list --state retry --name send_email
  packhorse jobs list --state queued --queue send_email --limit 50 --page 2
"""
SHOW = """Everything about one job, wherever it is.

Example: packhorse jobs show 5f1e8c0a9b7d6e4f3a2b1c0d
"""
RETRY = """Run failed or scheduled jobs now.

\b
  packhorse jobs retry 5f1e8c0a9b7d6e4f3a2b1c0d
  packhorse jobs retry --state dead --error "connection reset"
  packhorse jobs retry --state retry --all --yes
"""
DELETE = """Delete jobs.

\b
  packhorse jobs delete 5f1e8c0a9b7d6e4f3a2b1c0d
  packhorse jobs delete --state dead --name send_email --dry-run
"""

STATES = [state.value for state in State]
#: Shown first when no state was asked for: what needs a person.
ORDER = (State.DEAD, State.RETRY, State.SCHEDULED, State.QUEUED)


def filter_options(command: F) -> F:
    """`--name`, `--error`, `--text`."""
    options = (
        click.option("--name", metavar="NAME", help="Only jobs of this name."),
        click.option("--error", metavar="TEXT", help="Only those whose error contains this."),
        click.option("--text", metavar="TEXT", help="Only those whose arguments contain this."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group("jobs", help=HELP, invoke_without_command=True, no_args_is_help=False)
@connection_options
@json_option
@click.pass_context
def jobs(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        _list(ctx.ensure_object(Given), None, None, Filter(), 20, 1)


@jobs.command("list", help=LIST)
@click.option("--state", type=click.Choice(STATES), help="Only this state.")
@click.option("--queue", metavar="QUEUE", help="Only this queue's waiting jobs.")
@filter_options
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    metavar="N",
    help="At most so many (of each state).",
)
@click.option("--page", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="The next ones.")
@connection_options
@json_option
@click.pass_obj
def list_jobs(
    given: Given, /, state: str | None, queue: str | None, limit: int, page: int, **where: str | None
) -> None:
    if queue is not None and state not in (None, "queued"):
        raise Fault(f"--queue goes with --state queued, not {state}", "--name filters the other states")
    _list(given, "queued" if queue is not None else state, queue, Filter(**where), limit, page)


@jobs.command("show", help=SHOW)
@click.argument("id")
@connection_options
@json_option
@click.pass_obj
def show(given: Given, id: str) -> None:
    app = open_app(given)
    rows, running = asyncio.run(_find(app, id))
    if not rows and not running:
        raise Fault(f"there is no job {id!r} in {place(app)}", "a job that has run well leaves nothing behind", FAILED)
    if given.json:
        document({"rows": [as_document(row) for row in rows], "running": running})
        return
    write("\n\n".join([*map(_running_text, running), *(fields_text(as_fields(row)) for row in rows)]))


@jobs.command("retry", help=RETRY)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--state", type=click.Choice(["dead", "retry", "scheduled"]), help="All of this state that match.")
@filter_options
@click.option("--all", "everything", is_flag=True, help="No filter: all of the state.")
@confirm_options
@connection_options
@json_option
@click.pass_obj
def retry(given: Given, /, **options: Any) -> None:
    _change(given, "retry", **options)


@jobs.command("delete", help=DELETE)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--state", type=click.Choice(STATES), help="All of this state that match.")
@click.option("--queue", metavar="QUEUE", help="Needed with --state queued.")
@filter_options
@click.option("--all", "everything", is_flag=True, help="No filter: all of the state.")
@confirm_options
@connection_options
@json_option
@click.pass_obj
def delete(given: Given, /, **options: Any) -> None:
    _change(given, "delete", **options)


def _running_text(busy: BusyRow) -> str:
    return fields_text(
        [
            ("state", "running"),
            ("id", busy.job_id),
            ("name", busy.job_name),
            ("since", f"{moment(busy.started_at)} ({relative(busy.started_at)})"),
            ("says", busy.checkin),
            ("slot", busy.worker_id),
            ("pool", busy.pool_id),
        ]
    )


def _list(given: Given, state: str | None, queue: str | None, where: Filter, limit: int, page: int) -> None:
    app = open_app(given)
    states = ORDER if state is None else (State(state),)
    found = asyncio.run(_pages(app, states, queue, where, limit, (page - 1) * limit))
    if given.json:
        document([as_document(row) for row in found])
    elif not found:
        nothing(app, f"{state + ' ' if state else ''}jobs{'' if where.empty else ' that match'}")
    else:
        table(*as_table(found))
        if state is not None and len(found) == limit:
            note(f"more: --page {page + 1}")


async def _pages(
    app: App, states: Sequence[State], queue: str | None, where: Filter, limit: int, offset: int
) -> list[JobRow]:
    found: list[JobRow] = []
    async with app.admin() as admin:
        for state in states:
            if state is not State.QUEUED:
                found += (await admin.jobs(state, where, offset=offset, limit=limit)).rows
            elif queue is not None:
                found += (await admin.jobs(state, where, queue=queue, offset=offset, limit=limit)).rows
            else:
                found += await _queued(admin, where, limit, offset)
    return found


async def _queued(admin: Admin, where: Filter, limit: int, offset: int) -> list[JobRow]:
    """A page of the waiting jobs of all queues, one queue after the other."""
    found: list[JobRow] = []
    for row in await admin.queues():
        if not row.depth:
            continue
        page = await admin.jobs(State.QUEUED, where, queue=row.name, offset=offset, limit=limit - len(found))
        found += page.rows
        if len(found) >= limit:
            break
        if offset and not page.rows:
            matching = page.total if where.empty else await admin.count(State.QUEUED, where, queue=row.name)
            offset = max(offset - matching, 0)
        else:
            offset = 0
    return found


async def _find(app: App, id: str) -> tuple[list[JobRow], list[BusyRow]]:
    async with app.admin() as admin:
        return await admin.find(id), [row for row in await admin.busy() if row.job_id == id]


def _change(
    given: Given, verb: str, ids: tuple[str, ...], state: str | None, everything: bool, yes: bool,
    dry_run: bool, queue: str | None = None, **filters: str | None,
) -> None:  # fmt: skip
    where = Filter(**filters)
    _check_request(verb, ids, state, everything, queue, where)
    app = open_app(given)
    matched, done = asyncio.run(
        _change_some(app, verb, ids, state, dry_run)
        if ids
        else _change_all(app, verb, State(state), queue, where, yes, dry_run)
    )
    if given.json:
        document({"matched": matched, "changed": done, "dry_run": dry_run})
    elif dry_run:
        write(f"would {verb} {plural(matched, 'job')} of {place(app)}")
    else:
        gone = f" ({matched - done} were gone by then)" if done < matched else ""
        write(f"{'deleted' if verb == 'delete' else 'retried'} {plural(done, 'job')}{gone}")


def _check_request(
    verb: str, ids: Sequence[str], state: str | None, everything: bool, queue: str | None, where: Filter
) -> None:
    if ids:
        if everything or not where.empty or queue is not None:
            raise Fault(f"{verb} takes ids or a filter, not both")
        return
    if state is None:
        raise Fault(f"{verb} what? give ids, or --state with a filter or --all", f"packhorse jobs {verb} --help")
    if where.empty and not everything:
        raise Fault(f"all {state} jobs? then say --all", "or filter by --name, --error or --text")
    if everything and not where.empty:
        raise Fault("--all means no filter", "leave out --all, or the filter")
    if (state == "queued") != (queue is not None):
        raise Fault("--state queued and --queue go together" if queue is not None else "--state queued needs --queue")


async def _change_some(app: App, verb: str, ids: Sequence[str], state: str | None, dry_run: bool) -> tuple[int, int]:
    """(found, changed) for jobs named by id. Errors: Fault, before any change, when one is not there."""
    wanted = [State(state)] if state else [s for s in State if verb == "delete" or s is not State.QUEUED]
    rows: list[JobRow] = []
    async with app.admin() as admin:
        for id in dict.fromkeys(ids):
            found = await admin.find(id)
            matching = [row for row in found if row.state in wanted]
            if not matching:
                states = " and ".join(row.state.value for row in found)
                problem = f"job {id} is {states}" if found else f"there is no job {id} in {place(app)}"
                raise Fault(f"{problem}; nothing was changed", code=FAILED)
            rows += matching
        if dry_run:
            return len(rows), 0
        return len(rows), await (admin.retry(rows) if verb == "retry" else admin.delete(rows))


async def _change_all(
    app: App, verb: str, state: State, queue: str | None, where: Filter, yes: bool, dry_run: bool
) -> tuple[int, int]:
    """(matched, changed) for all that match."""
    async with app.admin() as admin:
        count = await admin.count(state, where, queue=queue)
        if dry_run or not count:
            return count, 0
        among = f" in queue {queue!r}" if queue is not None else ""
        confirm(app, f"{verb} {plural(count, f'{state.value} job')}{among}", yes)
        done = await (admin.retry_all(state, where) if verb == "retry" else admin.delete_all(state, where, queue=queue))
        return max(count, done), done
