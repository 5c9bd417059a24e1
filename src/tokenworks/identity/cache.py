"""
Remember for a few seconds what the database said about a secret.

The cache holds facts, not permissions: whoever reads it judges the facts again. It is
bounded, keyed by the whole hash (never by a prefix of the secret), and keeps unknown
hashes apart, so that a flood of guesses cannot push out the keys that work.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final
from uuid import UUID

from tokenworks.identity.admission import KeyRecord

CACHE_LIFETIME_S: Final = 5.0
CACHE_KEYS_MAX: Final = 16_384
CACHE_UNKNOWN_MAX: Final = 4_096


class KeyCache:
    """
    Key records by hash, and hashes that are known to be unknown.
    """

    def __init__(
        self,
        *,
        lifetime_s: float = CACHE_LIFETIME_S,
        keys_max: int = CACHE_KEYS_MAX,
        unknown_max: int = CACHE_UNKNOWN_MAX,
    ) -> None:
        self._lifetime_s = lifetime_s
        self._keys_max = keys_max
        self._unknown_max = unknown_max
        # Ordered by the time of reading; the oldest goes first when there is no room.
        self._records: OrderedDict[str, tuple[float, KeyRecord]] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._hashes: dict[UUID, set[str]] = {}
        self.generation = 0
        """Counts invalidations: a record read before the last one must not be kept."""

    def find(self, secret_sha256: str, *, now_s: float) -> KeyRecord | None:
        """
        Return a record that is young enough.
        """
        found = self._records.get(secret_sha256)
        if found is None or now_s - found[0] >= self._lifetime_s:
            return None
        return found[1]

    def has_seen(self, secret_sha256: str) -> bool:
        """
        Return whether the hash was a real key lately, however old the record is.
        """
        return secret_sha256 in self._records

    def is_unknown(self, secret_sha256: str, *, now_s: float) -> bool:
        """
        Return whether the hash was looked up moments ago and not found.
        """
        looked_up_s = self._unknown.get(secret_sha256)
        return looked_up_s is not None and now_s - looked_up_s < self._lifetime_s

    def keep(
        self, secret_sha256: str, record: KeyRecord | None, *, generation: int, now_s: float
    ) -> None:
        """
        Remember what the database answered (``None``: no such key).

        Args:
            secret_sha256: What was looked up.
            record: The answer.
            generation: ``self.generation`` as it was before the database was asked.
            now_s: Monotonic seconds before the database was asked.
        """
        if generation != self.generation:
            return
        if record is None:
            self._drop(secret_sha256)
            self._unknown[secret_sha256] = now_s
            self._unknown.move_to_end(secret_sha256)
            while len(self._unknown) > self._unknown_max:
                self._unknown.popitem(last=False)
            return
        self._records[secret_sha256] = (now_s, record)
        self._records.move_to_end(secret_sha256)
        self._hashes.setdefault(record.principal.key_id, set()).add(secret_sha256)
        while len(self._records) > self._keys_max:
            self._drop(next(iter(self._records)))

    def forget(self, key_id: UUID) -> None:
        """
        Drop every record of one key.
        """
        self.generation += 1
        for secret_sha256 in tuple(self._hashes.get(key_id, ())):
            self._drop(secret_sha256)

    def forget_all(self) -> None:
        """
        Drop everything.
        """
        self.generation += 1
        self._records.clear()
        self._unknown.clear()
        self._hashes.clear()

    def __len__(self) -> int:
        return len(self._records) + len(self._unknown)

    def _drop(self, secret_sha256: str) -> None:
        dropped = self._records.pop(secret_sha256, None)
        if dropped is None:
            return
        key_id = dropped[1].principal.key_id
        hashes = self._hashes[key_id]
        hashes.discard(secret_sha256)
        if not hashes:
            del self._hashes[key_id]
