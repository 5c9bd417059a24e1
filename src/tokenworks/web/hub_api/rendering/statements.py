"""
Draw statements, reports and what may be paid out.
"""

from __future__ import annotations

from tokenworks.foundation.money import Asset, quanta_to_text
from tokenworks.reconciliation.model import Payable, Proposal, Report, Statement, VerdictTotal
from tokenworks.web.hub_api.shapes.parts import PartyRef
from tokenworks.web.hub_api.shapes.statements import (
    PayableShape,
    ProposalShape,
    StatementReportShape,
    StatementShape,
    VerdictTotalShape,
)


def to_statement(statement: Statement, supplier: str) -> StatementShape:
    """
    Return a statement without its file.
    """
    scale = statement.asset.scale
    return StatementShape(
        statement_id=statement.statement_id,
        supplier=supplier,
        supplier_id=statement.supplier_id,
        file_name=statement.file_name,
        file_sha256=statement.file_sha256.hex(),
        columns=dict(statement.columns),
        currency=statement.asset.code,
        since=statement.since,
        until=statement.until,
        tolerance=quanta_to_text(statement.tolerance.quanta, scale=scale),
        tolerance_ppm=statement.tolerance.ppm,
        window_s=statement.tolerance.window_s,
        lines=statement.line_count,
        total=quanta_to_text(statement.total_quanta, scale=scale),
        imported_at=statement.imported_at,
        actor=statement.actor,
    )


def to_report(report: Report, supplier: str) -> StatementReportShape:
    """
    Return a statement's report.
    """
    asset = report.statement.asset
    return StatementReportShape(
        statement=to_statement(report.statement, supplier),
        totals=[_total(total, asset) for total in report.totals],
        days=[_total(total, asset) for total in report.days],
        proposal=None if report.proposal is None else _proposal(report.proposal, asset),
        replayed=report.replayed,
    )


def to_payable(payable: Payable, party: PartyRef) -> PayableShape:
    """
    Return what a supplier's party is owed.
    """
    scale = payable.asset.scale
    return PayableShape(
        party=party,
        currency=payable.asset.code,
        owed=quanta_to_text(payable.owed_quanta, scale=scale),
        on_hold=quanta_to_text(payable.on_hold_quanta, scale=scale),
        kept_back=quanta_to_text(payable.receivable_quanta, scale=scale),
        payable=quanta_to_text(payable.free_quanta, scale=scale),
    )


def _total(total: VerdictTotal, asset: Asset) -> VerdictTotalShape:
    return VerdictTotalShape(
        verdict=total.verdict.value,
        day=total.day,
        lines=total.lines,
        billed=quanta_to_text(total.billed_quanta, scale=asset.scale),
        attempts=total.attempts,
        owed=quanta_to_text(total.owed_quanta, scale=asset.scale),
    )


def _proposal(proposal: Proposal, asset: Asset) -> ProposalShape:
    return ProposalShape(
        fact_id=proposal.fact_id,
        difference=quanta_to_text(proposal.quanta, scale=asset.scale),
        accepted_at=proposal.accepted_at,
        accepted_by=proposal.accepted_by,
        is_posted=proposal.is_posted,
    )
