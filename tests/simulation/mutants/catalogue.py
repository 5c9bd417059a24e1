"""
The mutants: each breaks one law in one place, and has to be found.
"""

from __future__ import annotations

from typing import Final
from unittest import mock

from tests.simulation.mutants import broken_python
from tests.simulation.mutants.hub_catalogue import HUB_MUTANTS
from tests.simulation.mutants.mutant import SIMULATOR, STRESS, Mutant
from tests.simulation.simulator.laws import Law
from tokenworks.gateway import settlement, settling
from tokenworks.ledger.batching import operation_queue
from tokenworks.ledger.batching.lane_connection import LaneConnection
from tokenworks.ledger.treasury import Treasury

_ALL_BALANCES: Final = (
    "CASE WHEN b.no_overdraft THEN b.credits_posted - b.debits_posted - b.debits_pending END"
)
_REMAINDER: Final = (
    "CASE WHEN s.no_overdraft THEN s.credits_posted - s.debits_posted - s.debits_pending END"
)
_LOCKS: Final = """SELECT *, ctid AS place
        FROM ledger.balances
        WHERE account_id = ANY (debits || credits || fallbacks || part_accounts)
        ORDER BY account_id FOR NO KEY UPDATE"""

_CAPTURED: Final = "flat.captured[first_parts[done.op]:last_parts[done.op]]"
_FORGOTTEN: Final = f"CASE WHEN p_closes[done.op] THEN {_CAPTURED} ELSE hold.part_captured END"
_OPENED: Final = "WITH spot AS ("
_RESET: Final = """
UPDATE ledger.balances AS b
SET debits_pending = 0, debits_posted = 0, credits_posted = lim.quanta
FROM ledger.limit_windows AS w
JOIN ledger.limits AS lim ON lim.limit_id = w.limit_id
WHERE b.account_id = w.account_id AND w.limit_id = ANY (p_limits);
"""
_EITHER_END: Final = "ORDER BY account_id * (1 - 2 * (p_lane % 2))"
_LOCKS_FROM_EITHER_END: Final = (
    f"SELECT * FROM ({_LOCKS.replace('ORDER BY account_id', _EITHER_END)}) AS locked "
    "ORDER BY account_id"
)

LEDGER_MUTANTS: Final = (
    Mutant(
        name="holds_ignored",
        meaning="what is held counts as available",
        seed=2,
        found_by=SIMULATOR,
        laws=frozenset({Law.AVAILABLE, Law.LIMITED, Law.WINDOW}),
        function="place_v2",
        patches=(
            (_ALL_BALANCES, _ALL_BALANCES.replace(" - b.debits_pending", "")),
            (_REMAINDER, _REMAINDER.replace(" - s.debits_pending", "")),
        ),
    ),
    Mutant(
        name="expiry_by_wall_clock",
        meaning="holds expire when the server's clock says so",
        found_by=SIMULATOR,
        laws=frozenset({Law.LEDGER_TIME}),
        function="post_v2",
        patches=(
            ("part_expiries[first_part] > moment", "part_expiries[first_part] > clock_timestamp()"),
        ),
    ),
    Mutant(
        name="retry_without_id",
        meaning="each telling of a payment has an id of its own",
        seed=2,
        found_by=SIMULATOR,
        laws=frozenset({Law.FACT_ONCE}),
        replace=lambda: mock.patch.object(Treasury, "_claim", broken_python.forgetful_claim),
    ),
    Mutant(
        name="partial_settle_twice",
        meaning="a hold forgets what was captured from it in part",
        seed=2,
        found_by=SIMULATOR,
        laws=frozenset({Law.HOLD_ONCE, Law.AVAILABLE, Law.OVERRUN}),
        function="post_v2",
        patches=(
            (
                f"part_captured = {_CAPTURED},",
                f"part_captured = {_FORGOTTEN},",
            ),
        ),
    ),
    Mutant(
        name="lost_leg",
        meaning="the last leg of a call is not paid",
        found_by=SIMULATOR,
        laws=frozenset({Law.LEGS}),
        replace=lambda: mock.patch.object(
            settling, "settlement_legs", broken_python.forgetful_legs
        ),
    ),
    Mutant(
        name="rounding_per_leg",
        meaning="each leg is rounded for itself",
        found_by=SIMULATOR,
        laws=frozenset({Law.LEGS}),
        replace=lambda: mock.patch.object(settlement, "split_by_shares", broken_python.leg_by_leg),
    ),
    Mutant(
        name="unsorted_locks",
        meaning="every second writer locks accounts from the other end",
        found_by=STRESS,
        laws=frozenset({Law.LOCK_ORDER}),
        function="post_v2",
        patches=((_LOCKS, _LOCKS_FROM_EITHER_END),),
    ),
    Mutant(
        name="no_dedupe_in_a_batch",
        meaning="two operations on one fact may share a batch",
        found_by=SIMULATOR,
        laws=frozenset({Law.ONE_FACT_A_BATCH}),
        replace=lambda: mock.patch.object(
            operation_queue, "_gather", broken_python.gather_everything
        ),
    ),
    Mutant(
        name="swallowed_commit_error",
        meaning="an error at commit is not listened to",
        found_by=SIMULATOR,
        laws=frozenset({Law.DURABLE}),
        replace=lambda: mock.patch.object(LaneConnection, "call", broken_python.deaf_call),
    ),
    Mutant(
        name="reused_lane",
        meaning="a lane is given to a writer although another one holds it",
        found_by=STRESS,
        laws=frozenset({Law.CHAIN}),
        function="lease_lane_v1",
        patches=(("l.leased_until < p_now OR l.holder = p_holder", "true"),),
    ),
    Mutant(
        name="stale_spend_path",
        meaning="a hold may name a version of its path that is no longer current",
        seed=4,
        found_by=SIMULATOR,
        laws=frozenset({Law.SPEND_PATH}),
        function="place_v2",
        patches=(("WHEN NOT path.is_current THEN", "WHEN false THEN"),),
    ),
    Mutant(
        name="window_reset",
        meaning="a new window resets the one before it, open holds or not",
        found_by=SIMULATOR,
        laws=frozenset({Law.WINDOW, Law.LIMITED, Law.ANSWERED}),
        function="open_windows",
        patches=((_OPENED, _RESET + _OPENED),),
    ),
)

MUTANTS: Final = (*LEDGER_MUTANTS, *HUB_MUTANTS)
