"""
Which account of this lane stands for a laned account.

Accounts that every call credits have a share for each lane, so that writers do not wait for
each other; whoever names the account gets the share of the lane that writes.

Owns: what a writer remembers of that.
Does not own: when shares come together again (``ledger/sweeping.py``).
Invariants: an account without lanes stands for itself; what was learned in one lane is not
used in another; at most ``LANE_ACCOUNTS_MAX`` accounts are remembered from one batch to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tokenworks.foundation.clock import Clock
from tokenworks.ledger.batching.lane_connection import LaneConnection
from tokenworks.ledger.model import OK, Outcome, Placement

LANE_ACCOUNTS_MAX: Final = 100_000
"""Accounts a writer remembers; with more it begins anew."""


class LaneShares:
    """
    The shares that one writer knows.
    """

    def __init__(self, connection: LaneConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._lane = 0
        self._shares: dict[int, int] = {}

    @property
    def known(self) -> Mapping[int, int]:
        """
        Return the shares of the lane that is held now, by account.
        """
        return self._of_this_lane()

    async def learn(self, account_ids: set[int]) -> None:
        """
        Find this lane's share of each account, or make it.

        An account that does not exist is not remembered, and has no share.
        """
        shares = self._of_this_lane()
        if len(shares) > LANE_ACCOUNTS_MAX:
            shares.clear()
        strangers = account_ids - shares.keys()
        if not strangers:
            return
        look_up = self._connection.look_up
        rows = await look_up("are_laned", {"account_ids": sorted(strangers)})
        for account_id, is_laned in rows:
            share = account_id
            if is_laned:
                of_lane = {"account_id": account_id, "lane": self._lane, "now": self._clock.now()}
                share = int((await look_up("lane_account", of_lane))[0][0])
            shares[account_id] = share

    def learn_from_holds(self, batch: Sequence[Placement], outcomes: Sequence[Outcome]) -> None:
        """
        Note that accounts along a path have no lanes: they are a party's cash, and windows.

        They are what the holds' captures debit; with many buyers to ask about them cost as much
        as to insert an entry.
        """
        shares = self._of_this_lane()
        for placement, outcome in zip(batch, outcomes, strict=True):
            is_new = outcome.code == OK and not placement.extension
            if is_new and all(item.account_id is None for item in placement.reservations):
                shares.update({part.account_id: part.account_id for part in outcome.parts})

    def _of_this_lane(self) -> dict[int, int]:
        lane = self._connection.lane.number
        if lane != self._lane:
            self._shares.clear()
            self._lane = lane
        return self._shares
