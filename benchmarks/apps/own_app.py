"""The App of `benchmarks.own` for measurements that need a worker process."""

from __future__ import annotations

import os

from packhorse import App

app = App(os.environ["PACKHORSE_URL"], namespace=os.environ["BENCH_NAMESPACE"])

for index in range(int(os.environ["BENCH_NAMES"])):

    @app.job(name=f"job{index}")
    async def noop() -> None:
        return None
