"""Which names a fetch asks, and for how many jobs of each.

gocraft/work draws a weighted order for every single job and takes the first name that has one, so a name with
something to run gets jobs in proportion to its priority. A batch keeps that law: its shares are independent draws
with the same weights, and what a name cannot fill goes to the others in a weighted order.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping

#: Names in one fetch. More would make the script longer than the work it saves (benchmark: 1 000 names).
MAX_NAMES = 16
MAX_DRAWS = 16
#: With fewer names drawn than this, others are offered what those cannot fill.
ENOUGH_NAMES = 8


class Draw:
    """Names that may have jobs (`open`), and names to leave alone for a while (`blocked`, until when)."""

    def __init__(self, priorities: Mapping[str, int], rng: random.Random | None = None) -> None:
        self.priorities = dict(priorities)
        self.open: dict[str, int] = {}
        self.blocked: dict[str, float] = {}
        self._rng = rng or random.Random()

    def mark(self, name: str) -> bool:
        """This name may have jobs. False if nobody here runs it."""
        priority = self.priorities.get(name)
        if priority is None:
            return False
        self.blocked.pop(name, None)
        self.open[name] = priority
        return True

    def mark_found(self, names: Iterable[str], now: float) -> None:
        """A survey found jobs under these names; blocked ones only count when their time is over."""
        for name in names:
            if self.blocked.get(name, 0.0) <= now:
                self.mark(name)

    def empty(self, name: str) -> None:
        self.open.pop(name, None)

    def block(self, name: str, until: float) -> None:
        self.open.pop(name, None)
        self.blocked[name] = until

    def pick(self, total: int) -> list[tuple[str, int]]:
        """(name, share) in the order in which what is left over is offered."""
        names = self.open
        if not names:
            return []
        if len(names) == 1:
            return [(next(iter(names)), total)]
        weights = list(names.values())
        draws = min(total, MAX_DRAWS)
        shares: dict[str, int] = {}
        for index, name in enumerate(self._rng.choices(list(names), weights, k=draws)):
            # Draws are worth total/draws each; the remainder goes to the first ones, which are as random as any.
            shares[name] = shares.get(name, 0) + total // draws + (index < total % draws)
        if len(names) > len(shares) < ENOUGH_NAMES:
            shares |= dict.fromkeys(self._order(MAX_NAMES - len(shares), shares), 0)
        return list(shares.items())

    def _order(self, most: int, without: Mapping[str, int]) -> list[str]:
        """Names that drew nothing, in a weighted random order (exponential keys give Go's law)."""
        if most <= 0:
            return []
        keys = {
            name: -math.log(1.0 - self._rng.random()) / weight
            for name, weight in self.open.items()
            if name not in without
        }
        return sorted(keys, key=keys.__getitem__)[:most]
