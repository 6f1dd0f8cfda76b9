"""The gocraft layout as people see it. Placeholder until the real one is written."""

from __future__ import annotations

from packhorse.clock import Clock
from packhorse.protocols.gocraft.keys import Keys
from packhorse.protocols.inspect import Inspector
from packhorse.store import Store


class GocraftInspector(Inspector):
    def __init__(self, store: Store, keys: Keys, clock: Clock) -> None:
        self._store = store
