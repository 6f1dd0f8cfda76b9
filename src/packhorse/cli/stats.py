"""`packhorse stats`: how things stand, once or live."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from typing import Any

import click

from packhorse.admin import Admin
from packhorse.app import App
from packhorse.cli.options import Duration, Given, connection_options, json_option
from packhorse.cli.output import document, fields_text, plural, span, table_text, write
from packhorse.cli.place import place
from packhorse.cli.target import open_app
from packhorse.protocols.inspect import BusyRow, PoolRow, QueueRow, State

HELP = """How many jobs are in which state, which queues are full, who works, and how far away the store is.

\b
  packhorse stats --app my_app:app
  packhorse stats --watch                 live, until Ctrl-C
  packhorse stats --json | jq .states.dead
"""

#: Queues shown; `packhorse queues` shows all.
MOST_QUEUES = 20


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a store."""

    round_trip: float
    states: dict[State, int]
    queues: list[QueueRow]
    pools: list[PoolRow]
    busy: list[BusyRow]


@click.command("stats", help=HELP)
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option("--every", type=Duration(), default=1.0, metavar="DURATION", help="How often to look.  [default: 1s]")
@connection_options
@json_option
@click.pass_obj
def stats(given: Given, watch: bool, every: float) -> None:
    app = open_app(given)
    try:
        asyncio.run(_show(app, given.json, max(every, 0.1) if watch else None))
    except KeyboardInterrupt:
        if not watch:
            raise


async def _show(app: App, as_json: bool, every: float | None) -> None:
    async with app.admin() as admin:
        while True:
            reading = await _read(admin)
            if every is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not as_json:
                click.clear()
            if as_json:
                document(_as_document(reading))
            else:
                write(_as_text(app, reading))
            if every is None:
                return
            await asyncio.sleep(every)


async def _read(admin: Admin) -> Reading:
    states = await admin.counts()  # the first call connects, which is not to be measured
    return Reading(
        round_trip=await admin.ping(),
        states=states,
        queues=await admin.queues(),
        pools=await admin.pools(),
        busy=await admin.busy(),
    )


def _as_document(reading: Reading) -> dict[str, Any]:
    return {
        "round_trip": reading.round_trip,
        "states": {state.value: count for state, count in reading.states.items()},
        "running": len(reading.busy),
        "queues": reading.queues,
        "pools": len(reading.pools),
        "slots": sum(pool.concurrency for pool in reading.pools),
    }


def _as_text(app: App, reading: Reading) -> str:
    slots = sum(pool.concurrency for pool in reading.pools)
    text = fields_text(
        [
            ("store", f"{place(app)}, {reading.round_trip * 1000:.2f} ms away"),
            *((state.value, reading.states.get(state, 0)) for state in State),
            ("running", len(reading.busy)),
            (
                "workers",
                f"{plural(len(reading.pools), 'pool')}, {plural(slots, 'slot')}" if reading.pools else "none",
            ),
        ]
    )
    fullest = sorted(reading.queues, key=lambda row: (-row.depth, row.name))[:MOST_QUEUES]
    if not fullest:
        return text
    rows = [
        (
            row.name,
            row.depth,
            span(row.latency) if row.depth else "",
            row.running,
            "paused" if row.paused else "",
        )
        for row in fullest
    ]
    more = len(reading.queues) - len(fullest)
    return f"{text}\n\n{table_text(('queue', 'waiting', 'oldest', 'running', 'state'), rows)}" + (
        f"\nand {plural(more, 'queue')} more" if more > 0 else ""
    )
