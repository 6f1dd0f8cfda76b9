"""One round trip of a gocraft pool: settle what has ended, take what can run, find out which queues have something.

Called by the consumer for the engine's fetcher; on the hot path. Invariant: what `read` gives out lies in this pool's
in-progress list until a settle takes it out, so a crash at any instant loses nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from packhorse.clock import Clock
from packhorse.errors import DecodeError, StoreRefused
from packhorse.protocols.base import (
    Again,
    Dead,
    Delivery,
    Done,
    Dropped,
    Exchanged,
    PoolRecord,
    Returned,
    Settlement,
    Want,
)
from packhorse.protocols.gocraft import codec, scripts
from packhorse.protocols.gocraft.draw import Draw
from packhorse.protocols.gocraft.keys import Keys
from packhorse.store import Command, Reply

log = logging.getLogger(__name__)

SURVEY_EVERY = 0.02
PAUSED_RECHECK = 1.0
LIMIT_RECHECK = 0.25
WRONG_TYPE_RECHECK = 5.0


class Books:
    """What a pool knows of its queues between two exchanges, and the commands that follow from it."""

    def __init__(self, keys: Keys, record: PoolRecord, clock: Clock) -> None:
        self._keys = keys
        self._pool = record.id
        self._clock = clock
        self._names = [queue.name for queue in record.queues]
        self._queue_keys = [keys.queue(name) for name in self._names]
        self.draw = Draw({queue.name: queue.priority for queue in record.queues})
        #: Names that somebody wrote to while an exchange was on the wire: its answer may be older than that.
        self.noticed: set[str] = set()
        self.surveyed_at = -math.inf
        # One tuple per name, made once: building keys per fetch would cost more than the fetch.
        self._fetch_keys = {
            n: (
                keys.queue(n), keys.inprogress(n, record.id), keys.paused(n), keys.lock(n), keys.lock_info(n),
                keys.max_concurrency(n),
            )
            for n in self._names
        }  # fmt: skip
        self._settle_keys = {
            n: (keys.inprogress(n, record.id), keys.queue(n), keys.lock(n), keys.lock_info(n)) for n in self._names
        }

    def survey_command(self) -> Command:
        self.surveyed_at = self._clock.monotonic()
        return scripts.SURVEY(self._queue_keys, ())

    @property
    def survey_due(self) -> bool:
        return not self.draw.open or self._clock.monotonic() - self.surveyed_at >= SURVEY_EVERY

    def read_survey(self, reply: Reply) -> None:
        if isinstance(reply, StoreRefused):
            log.warning("queues cannot be looked at: %s", reply)
            return
        self.draw.mark_found((self._names[i - 1] for i in reply), self._clock.monotonic())

    def fetch_command(self, asked: list[tuple[str, int]], want: Want) -> Command:
        keys: list[str] = [self._keys.worker_pools]
        args: list[str | int] = [self._pool, want.total, want.slow]
        # Names that have not run here yet share the free slots, so that each is measured soon; from then on the draw's
        # shares hold, and with them the law of priorities.
        new = sum(name not in want.measured for name, _ in asked)
        new_share = max(want.slow // max(new, 1), 1)
        for name, share in asked:
            keys += self._fetch_keys[name]
            args += (share if name in want.measured else min(share, new_share), 1 if name in want.quick else 0)
        return scripts.FETCH(keys, args)

    def read_fetch(self, asked: list[tuple[str, int]], reply: Reply) -> list[Delivery]:
        """The deliveries; queues that have nothing more, or nothing for us, are left alone from now on."""
        now = self._clock.monotonic()
        taken: list[Delivery] = []
        for (name, _), (left, state, *payloads) in zip(asked, reply, strict=True):
            if isinstance(state, bytes):
                log.error("queue %r cannot be fetched: %s", name, state.decode("utf-8", "replace"))
                self.draw.block(name, now + WRONG_TYPE_RECHECK)
            elif left == 0 and name not in self.noticed:
                self.draw.empty(name)
            elif state and name not in self.noticed:
                self.draw.block(name, now + (PAUSED_RECHECK if state == 1 else LIMIT_RECHECK))
            taken += [delivery_of(name, raw) for raw in payloads]
        return taken

    def settle_command(self, settlements: Sequence[Settlement], order: list[Settlement]) -> Command:
        """The command, and in `order` the settlements as the script counts them."""
        acks: dict[str, list[Settlement]] = {}
        others: dict[str, list[Settlement]] = {}
        for settlement in settlements:
            delivery, outcome = settlement
            kind = acks if isinstance(outcome, Done | Dropped) else others
            kind.setdefault(delivery.queue, []).append(settlement)
        keys: list[str] = [self._keys.retry, self._keys.dead, self._keys.scheduled]
        args: list[bytes | str | int] = [self._pool]
        now = int(self._clock.wall())
        for queue in acks | others:
            done, rest = acks.get(queue, ()), others.get(queue, ())
            keys += self._settle_keys[queue]
            args += (len(done), len(rest))
            args += [delivery.raw for delivery, _ in done]
            for delivery, outcome in rest:
                args += (delivery.raw, *_action(delivery, outcome, now))
            order += done
            order += rest
            if queue in self.draw.blocked:
                self.draw.mark(queue)
        return scripts.SETTLE(keys, args)

    def read_settle(self, reply: Reply, order: list[Settlement], result: Exchanged) -> None:
        if isinstance(reply, StoreRefused):
            log.error("%d settlements are refused: %s", len(order), reply)
            result.refused += order
            return
        lost, refused, reason = reply
        result.lost = [order[i - 1][0] for i in lost]
        if refused:
            log.error("%d settlements are refused: %s", len(refused), reason.decode("utf-8", "replace"))
            result.refused += [order[i - 1] for i in refused]


def delivery_of(queue: str, raw: bytes) -> Delivery:
    try:
        job = codec.decode(raw, queue)
    except DecodeError as exc:
        return Delivery(queue, raw, None, exc)
    if job.id.startswith("bad-") and codec.is_wrapped(job):
        return Delivery(queue, raw, job, DecodeError("set aside earlier; unwrap it before it is retried", raw))
    return Delivery(queue, raw, job)


def _action(delivery: Delivery, outcome: object, now: int) -> tuple[str, int, bytes]:
    """(where to, score, new payload) for the settle script."""
    raw = delivery.raw
    match outcome:
        case Returned():
            return "queue", 0, raw
        case Again(at, None):
            return "scheduled", math.ceil(at), raw
        case Again(_, error) | Dead(error):
            if delivery.job is None:
                reason = delivery.error.reason if delivery.error is not None else error or ""
                return "dead", now, codec.wrapped(raw, delivery.queue, reason, now)
            payload = codec.failed(raw, error or "", now)
            danger = codec.dangerous(payload)
            if danger is not None:
                return "dead", now, codec.wrapped(raw, delivery.queue, danger, now)
            return ("retry", math.ceil(outcome.at), payload) if isinstance(outcome, Again) else ("dead", now, payload)
    raise AssertionError(f"no action for {outcome!r}")
