"""
Remember a bounded number of facts, the least lately used going first.

What is remembered may be old: whoever refuses on it reads again first, and whatever is granted
on it is checked by the ledger, where the scopes of wallets, agents and mandates stand.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """
    Facts by key.

    Args:
        size_max: How many.
        lifetime_s: How long one is good, in monotonic seconds; ``None``: until forgotten.
    """

    def __init__(self, size_max: int, *, lifetime_s: float | None = None) -> None:
        self._size_max = size_max
        self._lifetime_s = lifetime_s
        self._facts: OrderedDict[Key, tuple[float, Value]] = OrderedDict()
        self.generation = 0
        """Counts what was forgotten: what was read before the last time is not kept."""

    def find(self, key: Key, *, now_s: float) -> Value | None:
        """
        Return a fact that is young enough.
        """
        found = self._facts.get(key)
        if found is None:
            return None
        if self._lifetime_s is not None and now_s - found[0] >= self._lifetime_s:
            return None
        self._facts.move_to_end(key)
        return found[1]

    def keep(self, key: Key, value: Value, *, generation: int, now_s: float) -> None:
        """
        Remember a fact that was read in ``generation`` at ``now_s``.
        """
        if generation != self.generation:
            return
        self._facts[key] = (now_s, value)
        self._facts.move_to_end(key)
        while len(self._facts) > self._size_max:
            self._facts.popitem(last=False)

    def forget(self, key: Key) -> None:
        """
        Drop one fact.
        """
        self.generation += 1
        self._facts.pop(key, None)

    def forget_all(self) -> None:
        """
        Drop everything.
        """
        self.generation += 1
        self._facts.clear()

    def __len__(self) -> int:
        return len(self._facts)
