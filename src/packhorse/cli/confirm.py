"""Asks before something is destroyed: names what, where and how much.

`--yes` answers for scripts; without it and without a terminal nothing is done.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from packhorse.app import App
from packhorse.cli.faults import FAILED, Fault
from packhorse.cli.place import place

F = TypeVar("F", bound=Callable[..., Any])


def confirm_options(command: F) -> F:
    """`--yes` and `--dry-run`."""
    dry_run = click.option("--dry-run", is_flag=True, help="Only say what would be done.")
    yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
    return dry_run(yes(command))


def confirm(app: App, what: str, yes: bool) -> None:
    """Return if this may be done. Errors: Fault when it may not."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Fault(
            f"to {what} of {place(app)} needs a yes, and stdin is no terminal",
            "--yes, or --dry-run to look first",
        )
    if not click.confirm(f"{what[:1].upper()}{what[1:]} of {place(app)}?", err=True):
        raise Fault("nothing was changed", code=FAILED)
