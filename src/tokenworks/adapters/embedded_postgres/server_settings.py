"""
What the embedded server is told on its command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import psutil

_BUFFERS_MIB_MIN: Final = 128
_BUFFERS_MIB_MAX: Final = 1_024
_BUFFERS_SHARE: Final = 8
"""One part in so many of the machine's memory; it is taken as pages come into use."""


def _shared_buffers() -> str:
    part_mib = psutil.virtual_memory().total // 2**20 // _BUFFERS_SHARE
    return f"{min(max(part_mib, _BUFFERS_MIB_MIN), _BUFFERS_MIB_MAX)}MB"


SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "replica",
    # Each page's first change after a checkpoint is logged whole, so checkpoints are to be rare;
    # but after a crash all since the last one is read again, within START_TIMEOUT_S.
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    # What a standby that is away may keep from being removed; beyond it, it is made anew.
    "max_slot_wal_keep_size": "8GB",
    "shared_buffers": _shared_buffers(),
    "max_connections": "100",
    "jit": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
"""Pinned on the command line: neither a file nor ALTER SYSTEM can weaken them."""

THROWAWAY_SETTINGS: Final[Mapping[str, str]] = {
    **SETTINGS,
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
}
"""For tests: fast, and lost with the machine."""
