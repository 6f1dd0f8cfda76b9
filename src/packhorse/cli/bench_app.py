"""The App that `packhorse bench` measures: one job that does nothing. Worker processes load it by name."""

from __future__ import annotations

from packhorse.app import App

app = App()


@app.job
async def noop() -> None:
    """Nothing."""
