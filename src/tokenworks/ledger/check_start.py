"""
Find where a check may begin: the last trustworthy moment that fixed all heads and balances.

A checkpoint is signed; a cut (``ledger.archives``) is what the database recorded when it
dropped a month. Both name each lane's heads and a hash of all balances. The check follows the
chain from those heads and takes the movements since off today's balances: what is left must
have the hash that was fixed then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from tokenworks.ledger.chain import NO_HASH
from tokenworks.ledger.check_rows import BookRows
from tokenworks.ledger.checkpoint import checkpoint_bytes
from tokenworks.ledger.findings import Findings, ProblemCode

Verify = Callable[[bytes, str], bool]
"""Tells whether a signature is good for a checkpoint's bytes."""

_LOOK_BACK: Final = (timedelta(hours=1), timedelta(days=7))
_NO_IDENTIFIER: Final = UUID(int=0)


@dataclass(slots=True)
class Head:
    """
    How far a lane's two chains were followed.
    """

    batch: int = 0
    hash: bytes = NO_HASH
    receipts: int = 0
    receipt_hash: bytes = NO_HASH


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """
    Where the check begins.
    """

    kind: str = "first_batch"  # or checkpoint, or cut
    at: datetime | None = None
    heads: Mapping[int, Head] = field(default_factory=dict[int, Head])
    balances_hash: bytes | None = None
    is_signed: bool = False  # and the signature was found good

    def to_json(self) -> dict[str, object]:
        """
        Return plain fields.
        """
        at = None if self.at is None else self.at.isoformat().replace("+00:00", "Z")
        return {"kind": self.kind, "at": at, "is_signed": self.is_signed}


async def find_start(rows: BookRows, findings: Findings, verify: Verify | None) -> Start:
    """
    Return the last checkpoint or cut that can be trusted, or the first batch.

    One whose signature is bad, or whose heads are not in the chain, is a finding, and the one
    before is tried.
    """
    for kind, at, lanes, balances_hash, signature in await rows.fetch("starts"):
        where = f"{kind} {at.isoformat()}"
        heads = read_heads(lanes)
        is_signed = kind == "checkpoint" and verify is not None
        content = checkpoint_bytes(at, lanes, balances_hash)
        if is_signed and verify is not None and not verify(content, signature):
            message = "Its signature is not good."
            findings.problem(ProblemCode.CHECKPOINT_DIFFERS, where, message)
            continue
        if heads is None:
            findings.problem(ProblemCode.CHECKPOINT_DIFFERS, where, "Its heads are unreadable.")
            continue
        differing = [
            (lane, batch)
            for lane, batch, found in await rows.fetch("heads", **_parameters(heads))
            if found != heads[lane].hash
        ]
        for lane, batch in differing:
            message = f"It saw another batch {batch} of lane {lane}."
            findings.problem(ProblemCode.CHECKPOINT_DIFFERS, where, message)
        if not differing:
            return Start(
                kind=kind, at=at, heads=heads, balances_hash=balances_hash, is_signed=is_signed
            )
    return Start()


async def since_parameters(rows: BookRows, start: Start) -> dict[str, object]:
    """
    Return the parameters of the queries that read what came after a start.

    Records are found by identifier, and most of the latest ones have late identifiers: the
    first look-back that finds as many records as the batches say is enough. When none does,
    all are read, and the chain says what is missing.
    """
    parameters = _parameters(start.heads)
    ((wanted,),) = await rows.fetch("operations_since", **parameters)
    for look_back in _LOOK_BACK:
        if start.at is not None:
            moment = start.at - look_back
            ((found, floor),) = await rows.fetch("entries_from", moment=moment, **parameters)
            if found == wanted:
                return {**parameters, "floor": floor}
    return {**parameters, "floor": _NO_IDENTIFIER}


def read_heads(lanes: str) -> dict[int, Head] | None:
    """
    Return the heads that a checkpoint of version 2 or a cut names; ``None``: unreadable.
    """
    try:
        rows = msgspec.json.decode(lanes, type=list[tuple[int, int, str, int, str]])
        return {
            lane: Head(
                batch=batch,
                hash=bytes.fromhex(head),
                receipts=receipts,
                receipt_hash=bytes.fromhex(receipt_head),
            )
            for lane, batch, head, receipts, receipt_head in rows
        }
    except (msgspec.DecodeError, ValueError):
        return None


def _parameters(heads: Mapping[int, Head]) -> dict[str, Any]:
    return {"lanes": list(heads), "heads": [head.batch for head in heads.values()]}
