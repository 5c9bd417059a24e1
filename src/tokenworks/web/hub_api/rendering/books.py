"""
Draw accounts, entries and holds; each transfer as a debit and a credit.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from tokenworks.ledger.model import ASSET_CODES, AccountBalance, EntryView, HoldView, TrialBalance
from tokenworks.web.hub_api.directory import Directory
from tokenworks.web.hub_api.rendering.amounts import amount_text
from tokenworks.web.hub_api.shapes.books import (
    AccountShape,
    AssetTotal,
    EntryShape,
    HoldPartShape,
    HoldShape,
    LegShape,
    TrialBalanceShape,
)


def to_account(balance: AccountBalance, directory: Directory) -> AccountShape:
    """
    Return one account; its party was loaded.
    """

    def text(quanta: int) -> str:
        return amount_text(quanta, balance.asset)

    return AccountShape(
        account_id=str(balance.account_id),
        party=directory.party(balance.party_id),
        purpose=balance.purpose,
        asset=balance.asset,
        account_class=balance.account_class,
        debits_pending=text(balance.debits_pending),
        credits_pending=text(balance.credits_pending),
        debits_posted=text(balance.debits_posted),
        credits_posted=text(balance.credits_posted),
        balance=text(balance.balance),
        available=text(balance.available),
    )


def to_trial_balance(
    trial: TrialBalance, directory: Directory, *, as_of: datetime
) -> TrialBalanceShape:
    """
    Return the trial balance; its parties were loaded.
    """
    return TrialBalanceShape(
        as_of=as_of,
        is_balanced=trial.is_balanced,
        rows=[to_account(row, directory) for row in trial.rows],
        totals=[_to_total(asset, trial) for asset in sorted({row.asset for row in trial.rows})],
    )


def _to_total(asset: str, trial: TrialBalance) -> AssetTotal:
    debits, credits = trial.debits.get(asset, 0), trial.credits.get(asset, 0)
    rows = [row for row in trial.rows if row.asset == asset]
    return AssetTotal(
        asset=asset,
        debits_posted=amount_text(debits, asset),
        credits_posted=amount_text(credits, asset),
        debits_pending=amount_text(sum(row.debits_pending for row in rows), asset),
        credits_pending=amount_text(sum(row.credits_pending for row in rows), asset),
        is_balanced=debits == credits,
    )


def entry_parties(entries: Iterable[EntryView]) -> set[UUID]:
    """
    Return whose accounts entries touch.
    """
    legs = [leg for entry in entries for leg in entry.legs]
    return {leg.debit_party for leg in legs} | {leg.credit_party for leg in legs}


def to_entry(entry: EntryView, directory: Directory) -> EntryShape:
    """
    Return one entry, each transfer as a debit and a credit; its parties were loaded.
    """
    legs: list[LegShape] = []
    for leg in entry.legs:
        amount = amount_text(leg.quanta, leg.asset)
        debit = (leg.debit_account, leg.debit_party, leg.debit_purpose, amount, "0")
        credit = (leg.credit_account, leg.credit_party, leg.credit_purpose, "0", amount)
        for account_id, party_id, purpose, debited, credited in (debit, credit):
            legs.append(
                LegShape(
                    account_id=str(account_id),
                    party=directory.party(party_id),
                    purpose=purpose,
                    asset=leg.asset,
                    debit=debited,
                    credit=credited,
                )
            )
    return EntryShape(
        fact_id=entry.fact_id,
        operation=entry.operation,
        ordinal=entry.ordinal,
        recorded_at=entry.recorded_at,
        lane=entry.lane,
        batch=entry.batch,
        meta=dict(entry.meta),
        legs=legs,
    )


def to_hold(hold: HoldView) -> HoldShape:
    """
    Return an open hold.
    """
    return HoldShape(
        hold_id=hold.hold_id,
        placed_at=hold.placed_at,
        expires_at=hold.expires_at,
        parts=[
            HoldPartShape(
                account_id=str(part.account_id),
                asset=ASSET_CODES[part.asset_id],
                held=amount_text(part.quanta, ASSET_CODES[part.asset_id]),
            )
            for part in hold.parts
        ],
    )
