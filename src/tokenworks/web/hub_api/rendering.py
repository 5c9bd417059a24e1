"""
Turn what services answer into the shapes of this API, in the reader's view; pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from tokenworks.foundation.money import ASSETS, LIMIT_TOKENS, quanta_to_text
from tokenworks.gateway.calls import AttemptRow, CallRow, SpendRow
from tokenworks.identity.model import ApiKey, Party, Role
from tokenworks.ledger.model import (
    ASSET_CODES,
    AccountBalance,
    EntryView,
    HoldView,
    LimitView,
    TrialBalance,
)
from tokenworks.metering.model import Axis
from tokenworks.pricing.model import RateCard, nano_per_million_to_text
from tokenworks.pricing.tiers import Tier
from tokenworks.supply.model import Offer, Split, Supplier
from tokenworks.web.hub_api import shapes
from tokenworks.web.hub_api.access import Reader
from tokenworks.web.hub_api.directory import Directory

CASH: Final = "cash"
UNIT_TOKENS: Final = "tokens"


def amount_text(quanta: int, asset: str) -> str:
    """
    Return quanta of an asset as decimal text in whole units.
    """
    # A currency's limit asset counts in the currency's own quanta.
    known = ASSETS.get(asset) or ASSETS.get(asset.removeprefix("LIMIT."))
    assert known is not None, f"the asset {asset} is known"
    return quanta_to_text(quanta, scale=known.scale)


def to_party(party: Party, directory: Directory, *, default_tier: str) -> shapes.PartyShape:
    """
    Return a party; its parent was loaded.
    """
    return shapes.PartyShape(
        party_id=party.party_id,
        name=party.name,
        kind=str(party.kind),
        level=str(party.level),
        parent=directory.party_or_none(party.parent_id),
        default_tier=default_tier,
        state=str(party.state),
        created_at=party.created_at,
    )


def to_key(
    key: ApiKey, directory: Directory, *, now: datetime, secret: str | None = None
) -> shapes.KeyShape:
    """
    Return a key; its party was loaded.
    """
    state = "active"
    if key.revoked_at is not None:
        state = "revoked"
    elif key.expires_at is not None and key.expires_at <= now:
        state = "expired"
    return shapes.KeyShape(
        key_id=key.key_id,
        party=directory.party(key.party_id),
        role=str(key.role),
        prefix=key.prefix,
        label=key.label,
        models=None if key.models is None else sorted(key.models),
        requests_per_minute=key.requests_per_minute,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        created_at=key.created_at,
        state=state,
        mandate_id=key.mandate_id,
        secret=secret,
    )


def to_limit(limit: LimitView, scope: shapes.LimitScope) -> shapes.LimitShape:
    """
    Return a limit of a scope.
    """
    is_tokens = limit.asset == LIMIT_TOKENS.code
    return shapes.LimitShape(
        limit_id=str(limit.limit_id),
        scope=scope,
        amount=amount_text(limit.quanta, limit.asset),
        unit=UNIT_TOKENS if is_tokens else limit.asset.removeprefix("LIMIT."),
        per=limit.window,
        time_zone=limit.time_zone,
        remaining=amount_text(max(limit.remaining, 0), limit.asset),
        resets_at=limit.resets_at,
    )


def tightest(limits: Iterable[LimitView]) -> LimitView | None:
    """
    Return the limit that a next call meets first, as far as that can be known beforehand.

    Of one asset it is the one with the least remaining; money and tokens cannot be compared
    with each other, so between those two the one with the smaller part of itself left.
    """
    least: dict[str, LimitView] = {}
    for limit in limits:
        known = least.get(limit.asset)
        if known is None or limit.remaining < known.remaining:
            least[limit.asset] = limit
    return min(
        least.values(),
        key=lambda limit: (max(limit.remaining, 0) * 10**9 // max(limit.quanta, 1), limit.asset),
        default=None,
    )


def to_cash(balances: Iterable[AccountBalance]) -> list[shapes.Cash]:
    """
    Return the prepaid money among a party's accounts.
    """
    return [
        shapes.Cash(
            currency=balance.asset,
            available=amount_text(balance.available, balance.asset),
            held=amount_text(balance.debits_pending, balance.asset),
            posted=amount_text(balance.credits_posted - balance.debits_posted, balance.asset),
        )
        for balance in balances
        if balance.purpose == CASH
    ]


def to_account(balance: AccountBalance, directory: Directory) -> shapes.AccountShape:
    """
    Return one account; its party was loaded.
    """

    def text(quanta: int) -> str:
        return amount_text(quanta, balance.asset)

    return shapes.AccountShape(
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
) -> shapes.TrialBalanceShape:
    """
    Return the trial balance; its parties were loaded.
    """
    return shapes.TrialBalanceShape(
        as_of=as_of,
        is_balanced=trial.is_balanced,
        rows=[to_account(row, directory) for row in trial.rows],
        totals=[_to_total(asset, trial) for asset in sorted({row.asset for row in trial.rows})],
    )


def _to_total(asset: str, trial: TrialBalance) -> shapes.AssetTotal:
    debits, credits = trial.debits.get(asset, 0), trial.credits.get(asset, 0)
    rows = [row for row in trial.rows if row.asset == asset]
    return shapes.AssetTotal(
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


def to_entry(entry: EntryView, directory: Directory) -> shapes.EntryShape:
    """
    Return one entry, each transfer as a debit and a credit; its parties were loaded.
    """
    legs: list[shapes.LegShape] = []
    for leg in entry.legs:
        amount = amount_text(leg.quanta, leg.asset)
        debit = (leg.debit_account, leg.debit_party, leg.debit_purpose, amount, "0")
        credit = (leg.credit_account, leg.credit_party, leg.credit_purpose, "0", amount)
        for account_id, party_id, purpose, debited, credited in (debit, credit):
            legs.append(
                shapes.LegShape(
                    account_id=str(account_id),
                    party=directory.party(party_id),
                    purpose=purpose,
                    asset=leg.asset,
                    debit=debited,
                    credit=credited,
                )
            )
    return shapes.EntryShape(
        fact_id=entry.fact_id,
        operation=entry.operation,
        ordinal=entry.ordinal,
        recorded_at=entry.recorded_at,
        lane=entry.lane,
        batch=entry.batch,
        meta=dict(entry.meta),
        legs=legs,
    )


def to_hold(hold: HoldView) -> shapes.HoldShape:
    """
    Return an open hold.
    """
    return shapes.HoldShape(
        hold_id=hold.hold_id,
        placed_at=hold.placed_at,
        expires_at=hold.expires_at,
        parts=[
            shapes.HoldPartShape(
                account_id=str(part.account_id),
                asset=ASSET_CODES[part.asset_id],
                held=amount_text(part.quanta, ASSET_CODES[part.asset_id]),
            )
            for part in hold.parts
        ],
    )


def to_supplier(supplier: Supplier, directory: Directory) -> shapes.SupplierShape:
    """
    Return a supplier without its key; its party was loaded.
    """
    return shapes.SupplierShape(
        supplier_id=supplier.supplier_id,
        name=supplier.name,
        party=directory.party(supplier.party_id),
        kind=str(supplier.kind),
        base_url=supplier.base_url,
        allow_private=supplier.allow_private,
        sends_call_id=supplier.sends_call_id,
        has_api_key=supplier.has_api_key,
        state=str(supplier.state),
        created_at=supplier.created_at,
    )


def split_parties(split: Split) -> tuple[UUID | None, ...]:
    """
    Return who owns the shares of a split.
    """
    return split.reseller_id, split.rights_id, split.power_id


def to_offer(offer: Offer, directory: Directory) -> shapes.OfferShape:
    """
    Return an offer; the parties of its split were loaded.
    """

    def name(party_id: UUID | None) -> str | None:
        return None if party_id is None else directory.name(party_id)

    card, split = offer.cost_card, offer.split
    return shapes.OfferShape(
        offer_id=offer.offer_id,
        supplier=shapes.SupplierRef(supplier_id=offer.supplier_id, name=offer.supplier_name),
        model=offer.model,
        upstream_model=offer.upstream_model,
        tier=offer.tier,
        supplier_share_ppm=card.supplier_share_ppm,
        costs=None if card.costs is None else to_price_texts(card.costs),
        split=shapes.SplitShape(
            tax_ppm=split.tax_ppm,
            reseller_ppm=split.reseller_ppm,
            reseller=name(split.reseller_id),
            rights_ppm=split.rights_ppm,
            rights=name(split.rights_id),
            power_ppm=split.power_ppm,
            power=name(split.power_id),
        ),
        context_tokens_max=offer.context_tokens_max,
        priority=offer.priority,
        state=str(offer.state),
        blocked_reason=offer.blocked_reason,
        created_at=offer.created_at,
    )


def to_price_texts(prices: Mapping[Axis, int] | Mapping[str, int]) -> dict[str, str]:
    """
    Return nano-USD per million by axis as decimal text in USD.
    """
    return {str(axis): nano_per_million_to_text(nano) for axis, nano in prices.items()}


def to_prices(card: RateCard) -> list[shapes.PriceShape]:
    """
    Return every row of a version of prices.
    """
    return [
        shapes.PriceShape(
            price_id=price.price_id,
            model=price.model,
            tier=price.tier,
            axis=str(price.axis),
            usd_per_million=nano_per_million_to_text(price.nano_per_million),
            nano_per_million=price.nano_per_million,
            effective_at=price.effective_at,
            created_at=price.created_at,
        )
        for price in card.prices.values()
    ]


def to_tier(tier: Tier) -> shapes.TierShape:
    """
    Return a tier.
    """
    return shapes.TierShape(
        tier=tier.tier_id,
        default_prices=to_price_texts(tier.prices),
        speed_floor_tokens_per_s=tier.speed_floor_tokens_per_s,
        first_token_p95_ms=tier.first_token_p95_ms,
    )


def call_parties(calls: Iterable[CallRow]) -> set[UUID | None]:
    """
    Return the parties that calls name.
    """
    rows = list(calls)
    return {row.party_id for row in rows} | {
        party_id for row in rows for party_id in (row.organisation_id, row.team_id)
    }


def to_call(call: CallRow, directory: Directory, reader: Reader) -> shapes.CallShape:
    """
    Return a call in the reader's view; its parties were loaded.
    """
    return shapes.CallShape.model_validate(_call_fields(call, directory, reader))


def to_call_detail(call: CallRow, directory: Directory, reader: Reader) -> shapes.CallDetailShape:
    """
    Return a call with its lines and attempts in the reader's view; its parties were loaded.
    """
    attempts: Sequence[AttemptRow] = call.attempts
    if not reader.sees_buyer:
        attempts = [row for row in attempts if reader.sees_supplier(row.supplier_id)]
    fields = _call_fields(call, directory, reader)
    fields["lines"] = [
        shapes.RatedLineShape(
            axis=line.axis,
            count=line.count,
            usd_per_million=nano_per_million_to_text(line.nano_per_million),
            price_id=line.price_id,
        )
        for line in call.lines
        if reader.sees_buyer
    ]
    fields["attempts"] = [_to_attempt(row, call, reader) for row in attempts]
    fields["refunded"] = _money(call.refunded_quanta, call) if reader.sees_buyer else None
    fields["quoted"] = _money(call.quoted_quanta, call) if reader.sees_buyer else None
    return shapes.CallDetailShape.model_validate(fields)


def _call_fields(call: CallRow, directory: Directory, reader: Reader) -> dict[str, object]:
    sees_buyer = reader.sees_buyer
    sees_supplier = reader.sees_supplier(call.supplier_id)
    key = shapes.CallKey(key_id=call.key_id, prefix=call.key_prefix, label=call.key_label)
    return {
        "call_id": call.call_id,
        "status": call.status,
        "outcome": call.outcome,
        "is_stream": call.is_stream,
        "model": call.model,
        "tier": call.tier,
        "party": directory.party(call.party_id) if sees_buyer else None,
        "organisation": directory.party(call.organisation_id) if sees_buyer else None,
        "team": directory.party_or_none(call.team_id) if sees_buyer else None,
        "key": key if sees_buyer else None,
        "supplier": call.supplier_name if sees_supplier else None,
        "usage": dict(call.usage),
        "total_tokens": call.total_tokens,
        "is_estimate": call.is_estimate,
        "charge": _money(call.charge_quanta, call) if sees_buyer else None,
        "currency": call.asset.code,
        "payable": _money(_payable_quanta(call, reader), call),
        "started_at": call.started_at,
        "ended_at": call.ended_at,
        "duration_ms": _rounded_ms(call.duration_ms),
        "first_token_ms": _rounded_ms(call.first_token_ms),
        "attempt_count": call.attempt_count,
        "error_code": call.error_code,
    }


def _payable_quanta(call: CallRow, reader: Reader) -> int | None:
    if reader.role is Role.ADMIN:
        return call.payable_quanta
    if reader.role is Role.BUYER:
        return None
    if call.attempts:
        own = [row for row in call.attempts if reader.sees_supplier(row.supplier_id)]
        return sum(row.payable_quanta or 0 for row in own)
    # In a list the attempts are not at hand; of several, not all may be the reader's.
    is_own = call.attempt_count == 1 and reader.sees_supplier(call.supplier_id)
    return call.payable_quanta if is_own else None


def _to_attempt(row: AttemptRow, call: CallRow, reader: Reader) -> shapes.AttemptShape:
    sees_supplier = reader.sees_supplier(row.supplier_id)
    return shapes.AttemptShape(
        ordinal=row.ordinal,
        supplier=row.supplier_name if sees_supplier else None,
        offer_id=row.offer_id if sees_supplier else None,
        status=row.status,
        http_status=row.http_status,
        error_code=row.error_code,
        started_at=row.started_at,
        duration_ms=_rounded_ms(row.duration_ms),
        payable=_money(row.payable_quanta, call) if sees_supplier else None,
    )


def _rounded_ms(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 3)


def _money(quanta: int | None, call: CallRow) -> str | None:
    return None if quanta is None else quanta_to_text(quanta, scale=call.asset.scale)


def to_spend_row(row: SpendRow, *, label: str, currency: str) -> shapes.SpendRowShape:
    """
    Return one group of a spend report.
    """
    return shapes.SpendRowShape(
        group=row.group,
        label=label,
        calls=row.calls,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        total_tokens=row.total_tokens,
        charge=amount_text(row.charge_quanta, currency),
    )
