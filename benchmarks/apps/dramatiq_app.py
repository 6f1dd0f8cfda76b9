# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-call"
"""Dramatiq: actors on the Redis broker with the default middleware, one queue, five actors."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.apps import probe
from benchmarks.apps.producer import produce

broker = RedisBroker(url=os.environ["BENCH_URL"])
dramatiq.set_broker(broker)
probe.guard()

actors = {
    name: dramatiq.actor(probe.hit, actor_name=name)
    for name in (f"job{number}" for number in range(int(os.environ["BENCH_NAMES"])))
}

if __name__ == "__main__":
    broker.client.ping()
    produce(lambda name: actors[name].send())
