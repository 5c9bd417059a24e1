"""
Mutants of what stands above the ledger: mandates, payments, reviews, escrows, corrections, closes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Final
from unittest import mock

from tests.simulation.mutants import broken_hub
from tests.simulation.mutants.mutant import SIMULATOR, Mutant
from tests.simulation.simulator.laws import Law
from tokenworks.agents.escrow import advancing
from tokenworks.agents.mandates import paths
from tokenworks.agents.mandates.service import Mandates
from tokenworks.agents.payments import holding, service
from tokenworks.agents.payments.capturing import Capturing
from tokenworks.agents.payments.placing import Placing
from tokenworks.agents.payments.service import Payments
from tokenworks.gateway import refunding
from tokenworks.gateway.settling import Settling
from tokenworks.ledger import correcting
from tokenworks.reconciliation.store import StatementStore


@contextlib.contextmanager
def _greedy_escrows() -> Generator[None]:
    with (
        mock.patch.object(advancing.Advancing, "_move", broken_hub.greedy_move),
        mock.patch.object(holding.Holding, "require_left", broken_hub.unchecked_left),
    ):
        yield


@contextlib.contextmanager
def _countless_reversals() -> Generator[None]:
    with (
        mock.patch.object(correcting, "Posting", broken_hub.countless_posting),
        mock.patch.object(correcting, "_reversal_among", broken_hub.no_reversal),
    ):
        yield


HUB_MUTANTS: Final = (
    Mutant(
        name="payment_settled_twice",
        meaning="each settlement of a payment is a part of its own",
        seed=2,
        found_by=SIMULATOR,
        laws=frozenset({Law.PAYMENT}),
        replace=lambda: mock.patch.object(Capturing, "capture", broken_hub.countless_capture),
    ),
    Mutant(
        name="release_after_settle",
        meaning="a payment that was settled can be given back",
        seed=2,
        found_by=SIMULATOR,
        laws=frozenset({Law.PAYMENT}),
        replace=lambda: mock.patch.object(Capturing, "release", broken_hub.generous_release),
    ),
    Mutant(
        name="attested_claimed_twice",
        meaning="what is held ahead is given to every seller that shows the hub's word",
        found_by=SIMULATOR,
        laws=frozenset({Law.PAYMENT}),
        replace=lambda: mock.patch.object(Placing, "claim_held", broken_hub.free_claim),
    ),
    Mutant(
        name="attested_when_over",
        meaning="the hub gives its word for what is not held any more",
        found_by=SIMULATOR,
        laws=frozenset({Law.PAYMENT}),
        replace=lambda: mock.patch.object(Payments, "attest", broken_hub.generous_attest),
    ),
    Mutant(
        name="attested_for_anything",
        meaning="the hub's word for one payment is good for any payee, amount and address",
        found_by=SIMULATOR,
        laws=frozenset({Law.PAYMENT}),
        replace=lambda: mock.patch.object(service, "check_attested", broken_hub.careless_attested),
    ),
    Mutant(
        name="paid_call_not_counted",
        meaning="what a wallet pays for a call counts in none of its limits",
        found_by=SIMULATOR,
        laws=frozenset({Law.LIMITED}),
        replace=lambda: mock.patch.object(Settling, "_transfers", broken_hub.uncounted_transfers),
    ),
    Mutant(
        name="parent_not_charged",
        meaning="a payment does not count in the mandates above its own",
        seed=2,
        found_by=SIMULATOR,
        laws=frozenset({Law.LIMITED, Law.MANDATE, Law.WINDOW}),
        replace=lambda: mock.patch.object(paths, "path_scopes", broken_hub.childish_scopes),
    ),
    Mutant(
        name="revoked_mandate_pays",
        meaning="a revocation is answered and not carried out",
        found_by=SIMULATOR,
        laws=frozenset({Law.MANDATE, Law.SPEND_PATH}),
        replace=lambda: mock.patch.object(Mandates, "revoke", broken_hub.idle_revoke),
    ),
    Mutant(
        name="review_not_awaited",
        meaning="what is held for people goes on without their word",
        seed=2,
        found_by=SIMULATOR,
        laws=frozenset({Law.PAYMENT, Law.REVIEW}),
        replace=lambda: mock.patch.object(Placing, "admitted", broken_hub.credulous_admitted),
    ),
    Mutant(
        name="milestone_above_hold",
        meaning="each milestone captures the whole escrow, so all together more than is held",
        found_by=SIMULATOR,
        laws=frozenset({Law.ESCROW}),
        function="agents.record_payments_v1",
        patches=(("> part.authorised_quanta THEN", "> 10 * part.authorised_quanta THEN"),),
        replace=_greedy_escrows,
    ),
    Mutant(
        name="timeout_refunds_delivery",
        meaning="what was delivered goes back when nobody decides in time",
        found_by=SIMULATOR,
        laws=frozenset({Law.ESCROW}),
        replace=lambda: mock.patch.object(advancing, "due", broken_hub.impatient_due),
    ),
    Mutant(
        name="reversed_twice",
        meaning="each reversal has a number of its own, so that there can be two of an entry",
        seed=3,
        found_by=SIMULATOR,
        laws=frozenset({Law.CORRECTION}),
        replace=_countless_reversals,
    ),
    Mutant(
        name="refund_above_charge",
        meaning="more is refunded than was paid",
        found_by=SIMULATOR,
        laws=frozenset({Law.REFUND}),
        statement="ALTER TABLE gateway.calls DROP CONSTRAINT refunds_within_charge",
        replace=lambda: mock.patch.object(refunding, "returned_units", broken_hub.boundless_units),
    ),
    Mutant(
        name="close_lets_in",
        meaning="an entry is booked on a date that is closed",
        seed=2,
        found_by=SIMULATOR,
        laws=frozenset({Law.CLOSED, Law.CORRECTION}),
        function="post_v2",
        patches=(("WHEN p_dates[op] <= closed_through THEN", "WHEN false THEN"),),
    ),
    Mutant(
        name="correction_posted_twice",
        meaning="a correction that is accepted twice is posted twice",
        seed=5,
        found_by=SIMULATOR,
        laws=frozenset({Law.STATEMENT}),
        replace=lambda: mock.patch.object(
            StatementStore, "proposal", broken_hub.forgetful_proposal
        ),
    ),
    Mutant(
        name="ledger_time_runs_back",
        meaning="ledger time follows a clock that was set back",
        found_by=SIMULATOR,
        laws=frozenset({Law.FACT_ONCE, Law.LEDGER_TIME}),
        function="post_v2",
        patches=(
            (
                "moment timestamptz := greatest(p_now, lane.last_time)",
                "moment timestamptz := p_now",
            ),
            ("greatest(moment, max(b.last_time))", "moment"),
            ("moment := greatest(moment, p_now, lane.last_time)", "moment := p_now"),
        ),
    ),
)
