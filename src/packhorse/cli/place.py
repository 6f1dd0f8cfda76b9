"""Where a command works, in words."""

from __future__ import annotations

from packhorse.app import App
from packhorse.cli.output import note, plain, write
from packhorse.settings import masked


def place(app: App) -> str:
    """Namespace and store, without the password."""
    return plain(
        f"namespace {app.namespace!r} at {masked(app.url)}" if app.namespace else f"{masked(app.url)} (no namespace)"
    )


def nothing(app: App, what: str) -> None:
    """Say that there is none; without a namespace that may be because nobody named one."""
    write(f"no {what} in {place(app)}")
    if not app.namespace:
        note("hint: --app or --namespace says whose")
