"""
Rebuild a lane's chain from the bytes it was made of; pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

NO_HASH: Final = bytes(32)
"""What the first batch of a lane names as the hash before it."""


def batch_hash(
    previous: bytes, *, lane: int, batch: int, epoch: int, time: int, records: Iterable[str]
) -> bytes:
    """
    Return the hash of a batch.

    Args:
        time: Ledger time in microseconds since 1970.
        records: The canonical records in the order of their positions.
    """
    preimage = f"tokenworks-batch-v1 {lane} {batch} {epoch} {time}\n" + "\n".join(records)
    return hashlib.sha256(previous + preimage.encode()).digest()
