"""`packhorse enqueue`: one job from the line, or many from stdin.

With an App the name and the arguments are checked against its handlers; with a URL only they go as they are.
Everything is checked before anything is sent.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from packhorse.app import App, JobFunction
from packhorse.cli.faults import FAILED, Fault, nearest
from packhorse.cli.options import (
    Duration,
    Given,
    JsonObject,
    When,
    connection_options,
    json_option,
    read_json,
    read_object,
)
from packhorse.cli.output import document, moment, plain, plural, relative, write
from packhorse.cli.target import names_app, open_app
from packhorse.client import BULK_CHUNK, PartlyEnqueued
from packhorse.errors import ArgumentsError, StoreError
from packhorse.protocols.base import NewJob, Receipt

HELP = """Put a job into its queue.

\b
  packhorse enqueue send_email address=a@example.com subject="hello you"
  packhorse enqueue resize '{"path": "a.png", "sizes": [32, 64]}' --in 5m
  packhorse enqueue nightly_report --at 2030-01-31T03:00 --unique
  cat rows.jsonl | packhorse enqueue import_row -

A value of key=value is JSON if it reads as such (count=3, tags='["a"]', on=true), else text. `-` reads one
JSON object a line from stdin, checks them all, and then sends thousands per round trip.

With an App (--app, PACKHORSE_APP or the settings file) the name and the arguments are checked against its
handlers first. Without one, --url and --namespace say where the job goes.
"""


@click.command("enqueue", help=HELP)
@click.argument("name")
@click.argument("args", nargs=-1, metavar="[JSON | KEY=VALUE... | -]")
@click.option("--in", "delay", type=Duration(), metavar="DURATION", help="Run it so much later: 90, 5m, 1h30m, 2d.")
@click.option("--at", type=When(), metavar="TIME", help="Run it then: 2030-01-31T09:00 or an epoch second.")
@click.option("--unique", is_flag=True, help="Not while one with equal arguments waits.")
@click.option(
    "--key", type=JsonObject(), metavar="JSON",
    help="Unique by this instead; a waiting one gets the new arguments.",
)  # fmt: skip
@click.option("--id", metavar="ID", help="An id of your own.")
@click.option("--expires-in", type=Duration(), metavar="DURATION", help="Drop it unless it has started by then.")
@connection_options
@json_option
@click.pass_obj
def enqueue(given: Given, /, name: str, args: tuple[str, ...], **options: Any) -> int:
    many = args == ("-",)
    if many and options["id"] is not None:
        raise Fault("--id names one job, and - enqueues many")
    app = open_app(given)
    options = {key: value for key, value in options.items() if value is not None and value is not False}
    prepare = _Preparation(app, name, names_app(given), options)
    if many:
        return _enqueue_many(given, app, [prepare(line, where) for where, line in _lines()])
    return _enqueue_one(given, app, prepare(_arguments(args)))


class _Preparation:
    """Makes jobs of one name; `checked` = the App knows its handlers."""

    def __init__(self, app: App, name: str, checked: bool, options: dict[str, Any]) -> None:
        self._app, self._name, self._options = app, name, options
        self._job: JobFunction[..., Any] | None = None
        if checked:
            handler = app.registry.get(name)
            if handler is None:
                names = [known.name for known in app.registry]
                raise Fault(f"this App has no job {name!r}", nearest(name, names) or _known(names))
            self._job = JobFunction(app, handler, {}).options(**options)

    def __call__(self, args: dict[str, Any], where: str = "") -> NewJob:
        try:
            if self._job is not None:
                return self._job.prepare(**args)
            return self._app.client.prepare(self._name, args, **self._options)
        except ArgumentsError as exc:
            raise Fault(f"{where}{exc}", self._remedy(exc, args)) from None
        except ValueError as exc:  # ConfigError, EncodeError
            raise Fault(f"{where}{exc}") from None

    def _remedy(self, error: ArgumentsError, args: dict[str, Any]) -> str:
        if "Expected `str`" in error.reason:
            return "a text that looks like JSON needs quotes of its own: key='\"1\"'"
        known = inspect.signature(self._job.fn).parameters if self._job is not None else {}
        strange = [key for key in args if key not in known]
        return nearest(strange[0], known) if strange else ""


def _known(names: Sequence[str]) -> str:
    return f"it has {', '.join(sorted(names)[:8])}; for those of others give --url and --namespace, no App"


def _arguments(args: Sequence[str]) -> dict[str, Any]:
    """The arguments on the line. Errors: Fault."""
    if len(args) == 1 and args[0].lstrip().startswith(("{", "[")):
        try:
            return read_object(args[0])
        except ValueError as exc:
            raise Fault(f"arguments: {exc}") from None
    found: dict[str, Any] = {}
    for arg in args:
        key, equals, text = arg.partition("=")
        if not equals or not key:
            raise Fault(f"arguments: {arg!r} is not key=value", 'or give one JSON object: \'{"key": "value"}\'')
        if key in found:
            raise Fault(f"arguments: {key!r} is given twice")
        try:
            found[key] = read_json(text)
        except (ValueError, RecursionError):
            found[key] = text
    return found


def _lines() -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, arguments) of each line of stdin that is not empty. Errors: Fault with the line's number."""
    if sys.stdin.isatty():
        raise Fault("- reads JSON lines from stdin, which is a terminal", "cat rows.jsonl | packhorse enqueue NAME -")
    for number, line in enumerate(sys.stdin.buffer, 1):
        if not line.strip():
            continue
        where = f"stdin, line {number}: "
        try:
            yield where, read_object(line.decode().strip())
        except ValueError as exc:
            raise Fault(f"{where}{exc}", "nothing was enqueued") from None


def _enqueue_one(given: Given, app: App, job: NewJob) -> int:
    receipt = asyncio.run(_send(app, job))
    if given.json:
        document({"id": receipt.id, "name": receipt.name, "run_at": receipt.run_at, "duplicate": receipt.duplicate})
    elif receipt.duplicate:
        write(f"{plain(receipt.name)} was not added: an equal one waits already")
    elif receipt.run_at is not None:
        when = f"{moment(receipt.run_at)}, {relative(receipt.run_at)}"
        write(f"scheduled {plain(receipt.name)} {plain(receipt.id)} for {when}")
    else:
        write(f"enqueued {plain(receipt.name)} {plain(receipt.id)}")
    return 0


def _enqueue_many(given: Given, app: App, jobs: Sequence[NewJob]) -> int:
    receipts = asyncio.run(_send_many(app, jobs))
    duplicates = sum(receipt.duplicate for receipt in receipts)
    if given.json:
        document({"enqueued": len(receipts) - duplicates, "duplicates": duplicates})
    else:
        more = f"; {duplicates} were waiting already" if duplicates else ""
        write(f"enqueued {plural(len(receipts) - duplicates, 'job')}{more}")
    return 0


async def _send(app: App, job: NewJob) -> Receipt:
    try:
        return await app.client.send_async(job)
    finally:
        await app.client.aclose()


async def _send_many(app: App, jobs: Sequence[NewJob]) -> list[Receipt]:
    """In chunks, so that a failure half way can say how many are stored."""
    receipts: list[Receipt] = []
    try:
        for start in range(0, len(jobs), BULK_CHUNK):
            receipts += await app.client.enqueue_many_async(jobs[start : start + BULK_CHUNK])
    except StoreError as exc:
        stored = len(receipts)
        if isinstance(exc, PartlyEnqueued):
            stored += sum(isinstance(answer, Receipt) for answer in exc.answers)
        if not stored:
            raise
        raise Fault(f"{exc} ({stored} of {len(jobs)} jobs are stored)", code=FAILED) from exc
    finally:
        await app.client.aclose()
    return receipts
