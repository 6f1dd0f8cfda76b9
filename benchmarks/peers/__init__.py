"""The measured systems, one driver each, in the order of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.peers.ardiq import Ardiq
from benchmarks.peers.arq import Arq
from benchmarks.peers.bullmq import BullMq
from benchmarks.peers.celery import Celery
from benchmarks.peers.dramatiq import Dramatiq
from benchmarks.peers.gocraft import Gocraft
from benchmarks.peers.packhorse import Packhorse
from benchmarks.peers.rq import Rq
from benchmarks.peers.saq import Saq
from benchmarks.peers.taskiq import Taskiq

if TYPE_CHECKING:
    from benchmarks.driver import Driver


def drivers() -> list[Driver]:
    return [
        Packhorse(),
        Gocraft(),
        BullMq(),
        Ardiq(),
        Dramatiq(),
        Taskiq(),
        Saq(),
        Arq(),
        Celery(),
        Rq(),
    ]
