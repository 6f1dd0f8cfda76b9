"""`packhorse workers` and `packhorse cron`: who works, and what the clock will start."""

from __future__ import annotations

import asyncio

import click

from packhorse.app import App
from packhorse.cli.faults import Fault
from packhorse.cli.options import Given, connection_options, json_option
from packhorse.cli.output import document, moment, relative, shortened, span, table, write
from packhorse.cli.place import nothing
from packhorse.cli.target import names_app, open_app
from packhorse.clock import SYSTEM_CLOCK
from packhorse.protocols.inspect import BusyRow, PoolRow

WORKERS = """Worker pools and what their slots are doing.

Example: packhorse workers --app my_app:app
"""
CRON = """Periodic jobs of an App with their next five times.

Example: packhorse cron --app my_app:app
"""

#: A pool whose last heartbeat is older is as good as dead; others will take its jobs back.
SILENT_AFTER = 15.0
TIMES = 5


@click.command("workers", help=WORKERS)
@connection_options
@json_option
@click.pass_obj
def workers(given: Given) -> None:
    app = open_app(given)
    pools, busy = asyncio.run(_look(app))
    if given.json:
        document({"pools": pools, "busy": busy})
        return
    if not pools:
        nothing(app, "workers")
        return
    running: dict[str, int] = {}
    for slot in busy:
        running[slot.pool_id] = running.get(slot.pool_id, 0) + 1
    table(
        ("pool", "host", "pid", "busy", "slots", "started", "heartbeat", "jobs"),
        [
            (pool.id, pool.host, pool.pid, running.get(pool.id, 0), pool.concurrency,
             relative(pool.started_at), _heartbeat(pool), shortened(", ".join(pool.job_names)))
            for pool in pools
        ],
    )  # fmt: skip
    if busy:
        write("")
        table(
            ("job", "id", "since", "arguments", "says"),
            [
                (slot.job_name, slot.job_id, relative(slot.started_at), shortened(slot.args),
                 shortened(slot.checkin))
                for slot in busy
            ],
        )  # fmt: skip


@click.command("cron", help=CRON)
@connection_options
@json_option
@click.pass_obj
def cron(given: Given) -> None:
    if not names_app(given):
        raise Fault("periodic jobs belong to an App, and none was named", "packhorse cron --app my_app:app")
    app, now = open_app(given), int(SYSTEM_CLOCK.wall())
    rows = [(spec, name, app.protocol.next_fire_times(spec, now, TIMES)) for spec, name in app.periodics]
    if given.json:
        document([{"spec": spec, "name": name, "next": times} for spec, name, times in rows])
    elif not rows:
        write("this App has no periodic jobs: app.periodic('0 */5 * * * *', a_job) adds one")
    else:
        table(
            ("job", "spec", "runs at", "that is"),
            [(name, spec, moment(at), relative(at)) for spec, name, times in rows for at in times],
        )


def _heartbeat(pool: PoolRow) -> str:
    if pool.age is None:
        return "none"
    return f"{span(pool.age)} ago" + (", silent" if pool.age > SILENT_AFTER else "")


async def _look(app: App) -> tuple[list[PoolRow], list[BusyRow]]:
    async with app.admin() as admin:
        return await admin.pools(), await admin.busy()
