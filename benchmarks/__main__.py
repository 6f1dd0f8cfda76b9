"""`python -m benchmarks`: measures packhorse and its peers in turn on one server and prints one table.

Progress goes to stderr, the table to stdout. Every process started here is stopped here, and every step has a
time limit; a system that fails says so in its row and does not stop the others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from redis import RedisError

from benchmarks import table
from benchmarks.driver import BenchError, Mode
from benchmarks.peers import drivers
from benchmarks.plan import Column, Enqueue, Work
from benchmarks.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.driver import Driver

QUICK = {
    "jobs": 2000,
    "runs": 1,
    "concurrency": [20],
    "processes": [1],
    "systems": ["packhorse", "gocraft", "rq"],
}
# What may go wrong with a system: its programs, their files, their answers, the connection to the server.
FAILURES = (BenchError, OSError, ValueError, LookupError, RedisError)
FULL = {"jobs": 100_000, "runs": 5, "concurrency": [20, 200], "processes": [1, 2], "systems": None}


def main() -> int:
    options = parse(sys.argv[1:])
    # TERM unwinds like Ctrl-C, so that servers and workers are stopped.
    signal.signal(signal.SIGTERM, _terminate)
    chosen = select(drivers(), options.systems)
    columns = plan(options)
    systems = [prepare(driver, options.jobs) for driver in chosen]
    with Server(append_only=options.append_only) as server:
        about = describe(server, options)
        interrupted = False
        try:
            measure(server, list(zip(chosen, systems, strict=True)), columns, options.runs, options.jobs)
        except KeyboardInterrupt:
            say("interrupted: the table shows what was measured so far")
            interrupted = True
    print("\n".join(f"{key}: {value}" for key, value in about.items()) + "\n")
    print(table.as_text(systems, columns, options.baseline))
    if options.json:
        document = {"about": about, "systems": table.as_json(systems, columns)}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if interrupted or any(system.errors for system in systems) else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few systems, few jobs, one run: a smoke test for CI")
    parser.add_argument("--systems", type=_names, help="comma-separated rows; all by default")
    parser.add_argument("--runs", type=int, help="alternating runs, of which the median is shown (5)")
    parser.add_argument("--jobs", type=int, help="jobs of one run; slow systems take fewer (100000)")
    parser.add_argument("--concurrency", type=_numbers, help="jobs at a time in a process (20,200)")
    parser.add_argument("--processes", type=_numbers, help="worker processes (1,2)")
    parser.add_argument("--measure", type=_names, default=["work", "enqueue"], help="work, enqueue or both")
    parser.add_argument("--baseline", default="gocraft", help="the system of the ratios (gocraft)")
    parser.add_argument("--append-only", action="store_true", help="the server keeps an append-only file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to a file")
    options = parser.parse_args(arguments)
    for key, value in (QUICK if options.quick else FULL).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    return options


def select(all_drivers: Sequence[Driver], names: Sequence[str] | None) -> list[Driver]:
    by_name = {driver.name: driver for driver in all_drivers}
    if unknown := [name for name in names or [] if name not in by_name]:
        raise SystemExit(f"unknown systems: {', '.join(unknown)}; there are {', '.join(by_name)}")
    return [by_name[name] for name in names] if names else list(all_drivers)


def plan(options: argparse.Namespace) -> list[Column]:
    columns: list[Column] = []
    if "work" in options.measure:
        columns += [
            Work(concurrency, processes) for processes in options.processes for concurrency in options.concurrency
        ]
    if "enqueue" in options.measure:
        columns += [Enqueue(mode) for mode in Mode]
    return columns


def prepare(driver: Driver, jobs: int) -> table.System:
    system = table.System(driver.name, driver.setup, min(jobs, driver.job_limit))
    say(f"{driver.name}: preparing")
    try:
        system.absent = driver.available()
        if system.absent is None:
            driver.prepare()
            system.version = driver.version()
    except FAILURES as error:
        system.absent = str(error)
    return system


def measure(
    server: Server,
    pairs: Sequence[tuple[Driver, table.System]],
    columns: Sequence[Column],
    runs: int,
    jobs: int,
) -> None:
    """Run by run, column by column, one system after another: noise that drifts meets all systems alike."""
    for run in range(1, runs + 1):
        for column in columns:
            for driver, system in pairs:
                if system.absent or column.title in system.errors or not column.fits(driver):
                    continue
                try:
                    rate = column.take(driver, server, jobs)
                except FAILURES as error:
                    system.errors[column.title] = str(error)
                    say(f"run {run}/{runs} {column.title}: {driver.name} failed: {error}")
                    continue
                system.rates.setdefault(column.title, []).append(rate)
                say(f"run {run}/{runs} {column.title}: {driver.name} {table.grouped(rate.per_second)} jobs/s")


def describe(server: Server, options: argparse.Namespace) -> dict[str, str]:
    return {
        "server": server.version() + (", append-only" if server.append_only else ", no persistence"),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f} at the start",
        "runs": f"{options.runs}, alternating",
    }


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
