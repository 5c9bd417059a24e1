"""
Compare what the factory's rows say of energy with the entries it was posted by.

An entry of an interval names the SHA-256 of every call's share, and the chain hashes the entry:
so a share that was changed afterwards is found, although the ledger itself has buyers only.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from tokenworks.ledger.check_rows import BookRows
from tokenworks.ledger.findings import Findings, ProblemCode

_MESSAGES: Final = {
    "not_conserved": "Its calls and its rest are not what was metered.",
    "entry_missing": "It is marked as posted, and no entry has its energy.",
    "shares_differ": "Its calls' shares are not those that its entry was posted with.",
    "entry_differs": "Its entry moves another amount than was metered.",
}


async def check_energy(rows: BookRows, findings: Findings) -> None:
    """
    Check every interval that the start leaves to be read, where this role may see them.
    """
    if not (await rows.fetch("has_energy"))[0][0]:
        return
    floor = UUID(int=0) if rows.since is None else rows.since["floor"]
    for interval_id, revision, fault in await rows.fetch("energy", floor=floor):
        where = f"interval {interval_id} revision {revision}"
        findings.problem(ProblemCode.ENERGY_DIFFERS, where, _MESSAGES[fault])
