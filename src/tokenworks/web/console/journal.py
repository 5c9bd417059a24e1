"""
Arrange a call's double-entry legs as a journal; pure.

Legs are grouped by what they settle. Within a group the legs of one account and side are
one row, so that a charge paid to four parties is one debit and four credits. Each group
and the whole show both sums; they are added here, from the legs, not taken from the hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from tokenworks.web.console.model import Call, CallKey, Document, Entry, Leg
from tokenworks.web.console.wording import purpose_text, to_decimal

LIMIT_ASSET_PREFIX: Final = "LIMIT."

SALE: Final = "sale"
PURCHASE: Final = "purchase"
SAFEGUARDING: Final = "safeguarding"
LIMITS: Final = "limits"
OTHER: Final = "other"

_GROUP_OF_PURPOSE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cash": SALE,
        "overrun": SALE,
        "tax_payable": SALE,
        "reseller_payable": SALE,
        "rights_payable": SALE,
        "platform_revenue": SALE,
        "purchases": PURCHASE,
        "supplier_payable": PURCHASE,
        "power_payable": PURCHASE,
        "supplier_variance": PURCHASE,
        "safeguarded": SAFEGUARDING,
        "own_funds": SAFEGUARDING,
    }
)
GROUP_TITLES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        SALE: ("Sale", "The buyer pays; tax, reseller, rights holder and platform receive."),
        PURCHASE: ("Purchase", "The platform owes the supplier, who owes the power producer."),
        SAFEGUARDING: ("Client money", "What was captured leaves the safeguarded bank account."),
        LIMITS: ("Limits", "Budgets the call used, in their own units."),
        OTHER: ("Other", "Legs of other kinds."),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One account's debit or credit; the other side is zero.
    """

    owner: str  # "" when the reader may not know
    purpose: str
    asset: str
    debit: Decimal
    credit: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """
    Both sums of one asset.
    """

    asset: str
    debit: Decimal
    credit: Decimal

    @property
    def is_balanced(self) -> bool:
        """
        Return whether debits equal credits.
        """
        return self.debit == self.credit


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """
    The legs of one purpose of the call, debits first.
    """

    name: str
    rows: tuple[Row, ...]
    sums: tuple[Sum, ...]

    @property
    def title(self) -> str:
        """
        Return the group's heading.
        """
        return GROUP_TITLES[self.name][0]

    @property
    def meaning(self) -> str:
        """
        Return what the group says, in a sentence.
        """
        return GROUP_TITLES[self.name][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """
    Every leg of a call.
    """

    groups: tuple[Group, ...]
    sums: tuple[Sum, ...]

    @property
    def is_balanced(self) -> bool:
        """
        Return whether debits equal credits in every asset.
        """
        return all(each.is_balanced for each in self.sums)


def to_journal(entries: Iterable[Entry], key: CallKey | None = None) -> Journal:
    """
    Return the journal of a call's entries; holds that only moved pending sums have no legs.

    Args:
        entries: Of the call.
        key: It was made with: a limit may be a key's, and a key is no party with a name.
    """
    by_group: dict[str, list[Leg]] = {name: [] for name in GROUP_TITLES}
    for entry in entries:
        for leg in entry.legs:
            by_group[_group_of(leg)].append(leg)
    groups: list[Group] = []
    for name, legs in by_group.items():
        if legs:
            rows = _merge(legs, key)
            groups.append(Group(name=name, rows=rows, sums=_add(rows)))
    return Journal(groups=tuple(groups), sums=_add([row for group in groups for row in group.rows]))


def own_journal(call: Call, receipt: Document | None) -> Journal | None:
    """
    Return the one movement a buyer may see: its cash pays the charge, tax shown apart.

    ``None`` when nothing was charged or the charge is not the reader's to know.
    """
    charge = to_decimal(call.charge)
    if charge <= 0:
        return None
    tax = to_decimal(str((receipt or {}).get("tax") or "0"))
    buyer = call.organisation.name if call.organisation else ""
    nothing = Decimal(0)

    def row(owner: str, purpose: str, *, debit: Decimal, credit: Decimal) -> Row:
        return Row(owner=owner, purpose=purpose, asset=call.currency, debit=debit, credit=credit)

    rows = [row(buyer, "prepaid cash", debit=charge, credit=nothing)]
    if 0 < tax <= charge:
        rows.append(row("", "tax within the charge", debit=nothing, credit=tax))
    if charge > tax:
        rows.append(row("", "tokens supplied", debit=nothing, credit=charge - tax))
    group = Group(name=SALE, rows=tuple(rows), sums=_add(rows))
    return Journal(groups=(group,), sums=group.sums)


def _group_of(leg: Leg) -> str:
    if leg.asset.startswith(LIMIT_ASSET_PREFIX):
        return LIMITS
    return _GROUP_OF_PURPOSE.get(leg.purpose, OTHER)


def _owner(leg: Leg, key: CallKey | None) -> str:
    if leg.party is None or leg.party.name != leg.party.party_id:
        return leg.party.name if leg.party else ""
    is_of_key = key is not None and key.key_id == leg.party.party_id
    return f"key {key.prefix}…" if key and is_of_key else f"…{leg.party.party_id[-12:]}"


def _merge(legs: Sequence[Leg], key: CallKey | None) -> tuple[Row, ...]:
    merged: dict[tuple[str, bool], Row] = {}
    for leg in legs:
        debit, credit = to_decimal(leg.debit), to_decimal(leg.credit)
        place = (leg.account_id, debit != 0)
        known = merged.get(place)
        merged[place] = Row(
            owner=_owner(leg, key),
            purpose=purpose_text(leg.purpose),
            asset=leg.asset,
            debit=debit + (known.debit if known else 0),
            credit=credit + (known.credit if known else 0),
        )
    return tuple(sorted(merged.values(), key=lambda row: (row.asset, row.debit == 0)))


def _add(rows: Sequence[Row]) -> tuple[Sum, ...]:
    assets = dict.fromkeys(row.asset for row in rows)
    return tuple(
        Sum(
            asset=asset,
            debit=sum((row.debit for row in rows if row.asset == asset), Decimal(0)),
            credit=sum((row.credit for row in rows if row.asset == asset), Decimal(0)),
        )
        for asset in assets
    )
