"""
The proxy knows where a batch begins and ends, however its bytes arrive.
"""

from __future__ import annotations

import struct

import pytest

from tests.crash.cutting_proxy import _Frontend


def message(kind: bytes, body: bytes) -> bytes:
    """
    Return one message of PostgreSQL's frontend protocol.
    """
    return kind + struct.pack(">I", len(body) + 4) + body


STARTUP = message(b"", b"\x00\x03\x00\x00user\x00me\x00\x00")
PREPARE = message(b"P", b"_pg3_0\x00SELECT * FROM ledger.post_v1($1)\x00\x00\x00")
OTHER = message(b"P", b"_pg3_1\x00SELECT * FROM ledger.renew_lane_v1($1)\x00\x00\x00")
SYNC = message(b"S", b"")
RUN_BATCH = message(b"B", b"\x00_pg3_0\x00\x00\x00") + message(b"E", b"\x00\x00\x00\x00\x00") + SYNC
RUN_OTHER = message(b"B", b"\x00_pg3_1\x00\x00\x00") + message(b"E", b"\x00\x00\x00\x00\x00") + SYNC
TALK = STARTUP + PREPARE + SYNC + OTHER + SYNC + RUN_OTHER + RUN_BATCH + message(b"X", b"")


@pytest.mark.parametrize("size", [1, 2, 7, 64, len(TALK)])
def test_only_groups_that_run_a_batch_are_batches(size: int) -> None:
    """
    Nothing is lost or reordered; the one group that posts is found.
    """
    frontend = _Frontend()
    groups = [
        group
        for start in range(0, len(TALK), size)
        for group in frontend.groups(TALK[start : start + size])
    ]
    assert b"".join(group for group, _ in groups) == TALK
    assert [group for group, is_batch in groups if is_batch] == [RUN_BATCH]
