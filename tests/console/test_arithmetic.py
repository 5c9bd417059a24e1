"""
The journal, the bill and the rates: what pages add up themselves.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.console.fake_hub import FakeHub
from tokenworks.web.console.bill import to_bill
from tokenworks.web.console.charts import rate_options, receivers, sankey_options
from tokenworks.web.console.journal import own_journal, to_journal
from tokenworks.web.console.model import Call, CallKey, Entry, Flow, Leg, PartyRef
from tokenworks.web.console.rates import RATE_SPAN_S, history_of, own_flow, totals_between
from tokenworks.web.console.seal import SealState, read_seal

AMOUNTS = st.integers(min_value=1, max_value=10**12).map(lambda nano: Decimal(nano).scaleb(-9))
PURPOSES = ("tax_payable", "platform_revenue", "supplier_payable", "own_funds", "limit_spent")


def entry_of(legs: list[Leg]) -> Entry:
    """
    Return an entry with these legs.
    """
    return Entry(
        operation="settle",
        ordinal=0,
        recorded_at="2026-01-01T00:00:00Z",
        lane=1,
        batch=1,
        legs=tuple(legs),
    )


def transfer(amount: Decimal, purpose: str, asset: str = "USD") -> list[Leg]:
    """
    Return the two legs of a payment out of cash.
    """
    text = f"{amount:f}"
    return [
        Leg(account_id="cash", purpose="cash", asset=asset, debit=text, credit="0"),
        Leg(account_id=purpose, purpose=purpose, asset=asset, debit="0", credit=text),
    ]


def call_of(hub: FakeHub, call_id: str) -> Call:
    """
    Return a call of the fake hub as the console reads it.
    """
    return msgspec.convert(hub.sales[call_id].detail, Call)


@given(st.lists(st.tuples(AMOUNTS, st.sampled_from(PURPOSES)), min_size=1, max_size=12))
def test_journal_of_balanced_entries_balances(payments: list[tuple[Decimal, str]]) -> None:
    """
    Merging rows and grouping them keeps every amount: debits = credits = what was paid.
    """
    legs = [leg for amount, purpose in payments for leg in transfer(amount, purpose)]

    journal = to_journal([entry_of(legs)])

    paid = sum((amount for amount, _ in payments), Decimal(0))
    assert journal.is_balanced
    assert [(each.debit, each.credit) for each in journal.sums] == [(paid, paid)]


def test_journal_says_when_legs_disagree() -> None:
    """
    A leg without its other side shows: the page adds, it does not believe.
    """
    journal = to_journal([entry_of(transfer(Decimal(1), "tax_payable")[:1])])

    assert not journal.is_balanced


def test_assets_are_never_added_together() -> None:
    """
    A dollar of a limit is no dollar.
    """
    legs = transfer(Decimal(1), "tax_payable") + transfer(Decimal(1), "limit_spent", "LIMIT.USD")

    journal = to_journal([entry_of(legs)])

    assert [group.name for group in journal.groups] == ["sale", "limits"]
    assert {each.asset for each in journal.sums} == {"USD", "LIMIT.USD"}


def test_limit_of_a_key_is_named_by_the_key() -> None:
    """
    The hub has no name for a key or a mandate and gives its id; nobody reads 36 characters.
    """
    key_id, other = "01a2162a-1457-7748-a75e-b38b1666cad9", "01a2162a-1457-7748-a75e-b38b1666cada"
    leg = transfer(Decimal(1), "limit_spent", "LIMIT.USD")[0]
    legs = [
        msgspec.structs.replace(leg, account_id=each, party=PartyRef(party_id=each, name=each))
        for each in (key_id, other)
    ]
    key = CallKey(key_id=key_id, prefix="tw_9fKq2Lw", label="notebook")

    (group,) = to_journal([entry_of(legs)], key).groups

    assert {row.owner for row in group.rows} == {"key tw_9fKq2Lw…", "…b38b1666cada"}


def test_buyer_sees_its_own_side() -> None:
    """
    A buyer's journal is its cash against tax and the rest, and nothing when nothing was paid.
    """
    hub = FakeHub()
    call = call_of(hub, hub.sell())
    refused = call_of(hub, hub.sell(status="refused"))

    journal = own_journal(call, {"tax": "0.00008"})

    assert journal is not None
    assert journal.is_balanced
    assert [row.purpose for row in journal.groups[0].rows] == [
        "prepaid cash",
        "tax within the charge",
        "tokens supplied",
    ]
    assert own_journal(refused, None) is None


@given(
    st.dictionaries(
        st.sampled_from(["input", "cache_read", "output", "reasoning"]),
        st.integers(min_value=1, max_value=10**7),
        min_size=1,
    )
)
def test_bill_adds_up_exactly(usage: dict[str, int]) -> None:
    """
    Lines are count x price without rounding; their sum is the charge of a whole-nano price.
    """
    hub = FakeHub()
    bill = to_bill(call_of(hub, hub.sell(usage=usage)))

    assert bill is not None
    assert bill.difference == 0
    assert bill.exact == bill.charge == sum(line.amount for line in bill.lines)
    assert bill.returned == (bill.held or 0) - bill.charge


def test_history_and_totals_agree() -> None:
    """
    The newest point is the rate of the last ten seconds; a cut list begins later.
    """
    hub = FakeHub()
    for ago_s in (1, 4, 9, 40, 200):
        hub.sell(ago_s=ago_s)
    calls = [msgspec.convert(sale.call, Call) for sale in hub.newest()]
    now = datetime.now(UTC)
    whole = history_of(calls, now, is_whole=True)
    cut = history_of(calls[:4], now, is_whole=False)
    recent = totals_between(calls, now.timestamp() - RATE_SPAN_S, now.timestamp())

    assert recent.calls == 3
    assert whole[-1].tokens_per_s == pytest.approx(recent.tokens / RATE_SPAN_S)
    assert whole[0].at_s == pytest.approx(now.timestamp() - 300)
    assert cut[0].at_s > (now - timedelta(seconds=40)).timestamp()


def test_own_flow_pays_out_what_comes_in() -> None:
    """
    A buyer's picture leads from its teams to what they used, and sums to its charges.
    """
    hub = FakeHub()
    hub.sell(team="research")
    hub.sell(team="agents", tier="premium")
    calls = [msgspec.convert(sale.call, Call) for sale in hub.newest()]

    nodes, links = own_flow(calls, is_supplier=False, own_name="acme")

    assert {node.label for node in nodes} >= {"research", "agents", "smollm2@premium"}
    paid = sum((Decimal(call.charge or 0) for call in calls), Decimal(0))
    assert sum((Decimal(link.amount) for link in links), Decimal(0)) == paid


def test_pictures_hold_no_markup_of_names() -> None:
    """
    Braces and bars mean something to the chart; names lose them. Tooltips are plain text.
    """
    hub = FakeHub()
    hub.sell(buyer="{b|evil}")
    flow = msgspec.convert(hub.flow(60), Flow)

    options = sankey_options(flow.nodes, flow.links, currency="USD", is_dark=False)

    texts = [node["label"]["formatter"] for node in options["series"][0]["data"]]
    assert any(text.startswith("{name|bevil}") for text in texts)
    assert options["tooltip"]["renderMode"] == "richText"


def test_shares_are_of_what_was_paid_in() -> None:
    """
    Buyers pay the whole; what leaves the sale is the whole again.
    """
    hub = FakeHub()
    hub.sell()
    flow = msgspec.convert(hub.flow(60), Flow)

    rows = receivers(flow.nodes, flow.links)

    out = sum(row.amount for row in rows if row.kind not in {"buyer", "power"})
    assert out == sum(row.amount for row in rows if row.kind == "buyer")
    assert rows[0].share_ppm == 1_000_000


@pytest.mark.parametrize("top", [0.0, 0.00004, 0.3, 1.0, 730.0, 10_000.0])
def test_axis_ends_on_a_round_number(top: float) -> None:
    """
    The axis is never shorter than the curve and at most five times as long.
    """
    options = rate_options(
        [(0.0, top)], colour_name="kind_sale", span_ms=(0.0, 1.0), unit="x", is_dark=False
    )

    axis = options["yAxis"]["max"]
    assert axis >= top
    assert top == 0 or axis <= 5 * top


def test_seal_is_checked_against_published_keys() -> None:
    """
    Valid, wrong and unchecked are three different answers; no JWS is none.
    """
    hub = FakeHub()
    sale = hub.sales[hub.sell()]
    jws = hub.receipt(sale, is_admin=False)["jws"]
    hub.is_seal_broken = True
    broken = hub.receipt(sale, is_admin=False)["jws"]

    seals = [read_seal(jws, hub.jwks()), read_seal(broken, hub.jwks()), read_seal(jws, None)]

    assert [seal.state for seal in seals if seal] == [
        SealState.VALID,
        SealState.WRONG,
        SealState.UNCHECKED,
    ]
    assert seals[0] is not None
    assert (seals[0].kid, seals[0].lane, seals[0].sequence) == (hub.kid, 3, 18_200)
    assert read_seal("no.jws", None) is read_seal("a.b.c", None) is None
    assert read_seal(f"x{jws}", hub.jwks()) is None
