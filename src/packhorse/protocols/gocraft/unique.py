"""The start of unique jobs: their keys are freed, and the newest payload of a by-key job takes over.

Called by the consumer for the few fetched jobs that are unique. A retry leaves its key alone: by then it belongs to a
newer job (quirks 10).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

from packhorse.errors import StoreError, StoreRefused
from packhorse.job import Job
from packhorse.protocols.base import RETURNED, Delivery, Settlement
from packhorse.protocols.gocraft import codec, scripts
from packhorse.protocols.gocraft.exchange import delivery_of
from packhorse.protocols.gocraft.keys import Keys
from packhorse.protocols.gocraft.upkeep import Auditor
from packhorse.store import Command, Link

log = logging.getLogger(__name__)

#: Seconds that the marks of started jobs are kept after the latest start.
MEMORY = 7 * 86_400


class UniqueStarts:
    """For one pool."""

    def __init__(self, link: Link, keys: Keys, pool: str, auditor: Auditor) -> None:
        self._link = link
        self._keys = keys
        self._pool = pool
        self._auditor = auditor
        #: id of a delivery that started -> its mark in the store
        self.started: dict[int, str] = {}

    async def claim(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Free the keys of unique jobs that start now; a by-key duplicate's newer payload takes over.

        A retry leaves its key alone: by then it belongs to a newer job (quirks 10).
        """
        ready: list[Delivery] = []
        claims: list[Delivery] = []
        commands: list[Command] = []
        for delivery in deliveries:
            assert delivery.job is not None
            key = self._unique_key(delivery.job)
            if key is None:
                ready.append(delivery)
                continue
            claims.append(delivery)
            inprogress = self._keys.inprogress(delivery.queue, self._pool)
            commands.append(scripts.CLAIM_UNIQUE([inprogress, key, self._keys.claimed], [delivery.raw, MEMORY]))
        try:
            replies = await self._link.call(*commands) if commands else []
        except StoreError:
            # Whether the payloads were swapped is not known: leave them to the audit, which puts them back.
            self._auditor.suspect()
            return ready
        for delivery, value in zip(claims, replies, strict=True):
            if isinstance(value, StoreRefused):
                log.warning("unique key of job %s: %s", delivery.job, value)
                ready.append(delivery)
            elif value is None:
                log.warning("job %s was taken away before it started", delivery.job)
            elif value in (b"", b"1"):
                ready.append(delivery)
            else:
                newer = delivery_of(delivery.queue, value)
                if newer.job is None or codec.is_wrapped(newer.job):
                    log.warning("the payload in the unique key of %s is no job; running the queued one", delivery.job)
                    # It has taken the job's place in the list; in this order a crash loses nothing.
                    held = self._keys.inprogress(delivery.queue, self._pool)
                    try:
                        await self._link.call(("LPUSH", held, delivery.raw), ("LREM", held, -1, value))
                    except StoreError:
                        self._auditor.suspect()
                        continue
                    newer = delivery
                ready.append(newer)
        self.started |= {id(delivery): hashlib.sha1(delivery.raw).hexdigest() for delivery in ready}
        return ready

    def ended(self, settlements: Sequence[Settlement]) -> Command | None:
        """Forget the marks of unique jobs that have ended here; those that go back keep theirs."""
        marks = [
            mark
            for delivery, outcome in settlements
            if (mark := self.started.pop(id(delivery), None)) is not None and outcome is not RETURNED
        ]
        return ("HDEL", self._keys.claimed, *marks) if marks else None

    def _unique_key(self, job: Job) -> bytes | None:
        """The key to free. A payload may name any key; only those of this namespace's unique jobs count."""
        if job.unique_key.startswith(self._keys.unique_prefix):
            return job.unique_key.encode()
        if job.unique_key:
            log.warning("job %s names the unique key %r of somebody else; ignored", job, job.unique_key)
        try:
            return self._keys.unique(job.name, codec.key_of_args(job))
        except ValueError as exc:
            log.warning("job %s has no unique key that could be freed: %s", job, exc)
            return None
