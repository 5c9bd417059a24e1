"""
Facts of an escrow as they are stored, and read again; pure.

What is at its default is left out, so that a fact says no more than what happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

import msgspec

from tokenworks.agents.escrow.model import EscrowEvent

_COLUMNS: Final = frozenset({"kind", "occurred_at", "actor", "result"})


def to_content(event: EscrowEvent) -> str:
    """
    Return what a fact says beside its columns, as canonical JSON.
    """
    content = {
        item.name: value
        for item in fields(event)
        if item.name not in _COLUMNS and (value := getattr(event, item.name)) != item.default
    }
    return msgspec.json.encode(content, order="sorted").decode()


def from_content(
    kind: str, occurred_at: datetime, actor: str, content: Mapping[str, Any]
) -> EscrowEvent:
    """
    Read a fact, without the result of a submission.
    """
    return msgspec.convert(
        {"kind": kind, "occurred_at": occurred_at, "actor": actor, **content},
        type=EscrowEvent,
        strict=True,
    )
