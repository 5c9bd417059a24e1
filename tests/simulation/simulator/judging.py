"""
Judge a call that is over: was it refused for the true reason, and did it cost what it should?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from fractions import Fraction
from typing import TYPE_CHECKING

from tests.simulation.simulator.auditor import PLATFORM, Answered, Name
from tests.simulation.simulator.calls import ATTEMPTS_MAX, Call, Sale
from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.naive_prices import MILLION, charge, divide, half_even, most
from tests.simulation.simulator.naive_windows import NaiveLimit
from tests.simulation.simulator.scripts import ESTIMATED, Manner
from tests.simulation.simulator.world import USD_ID
from tokenworks.gateway.ended_calls import CallRow
from tokenworks.identity.model import TAX_ID
from tokenworks.ledger.model import Placement
from tokenworks.supply.model import Offer

if TYPE_CHECKING:
    from tests.simulation.simulator.simulation import Simulation

LIMIT_USD_ID, LIMIT_TOKENS_ID = 11, 13
SECRET_REMEMBERED = timedelta(seconds=5)
"""For so long a process may go by what it knew of a key."""


async def judge(call: Call, simulation: Simulation) -> str:
    """
    Check everything about a call that is over; return its result in a few words.

    Raises:
        BrokenLawError: It was not answered or charged as it should.
    """
    call.is_judged = True
    if call.open is None:
        return _judge_refusal(call, simulation)
    _judge_hold(call, simulation)
    if call.settled is not None or (call.is_stream and call.error is None):
        row = await simulation.hub.calls.get_call(call.open.call_id)
        return _judge_settled(call, row, simulation)
    return _judge_failure(call, simulation)


def _require(is_lawful: bool, law: Law, call: Call, message: str) -> None:
    if not is_lawful:
        raise BrokenLawError(law, f"call {call.number} ({call.call_id}): {message}")


# ---------------------------------------------------------------------- refused


_CODES: Mapping[str, str] = {
    "scope_frozen": "scope_frozen",
    "scope_closed": "scope_closed",
    "account_frozen": "account_frozen",
    "spend_path_stale": "spend_path_stale",
    # Ledger time is ahead of a clock that was set back: it sells nothing, and says so.
    "deadline_passed": "ledger_unavailable",
}


def _judge_refusal(call: Call, simulation: Simulation) -> str:
    assert call.error is not None, "a call that was not opened was refused"
    code, placements = call.error.code, _placements(call.opening)
    refused = [a for a in placements if not a.outcome.is_done]
    if not placements:
        _judge_door(call, simulation, code)
    elif refused:
        last = refused[-1].expected
        expected = short_code(simulation, refused[-1])
        _require(code == expected, Law.REFUSAL, call, f"refused as {code}, not {expected}")
        if last.code == "insufficient":
            _judge_shortage(call, simulation, refused[-1])
    return f"refused {code}"


def short_code(simulation: Simulation, answered: Answered) -> str:
    """
    Return what a door has to say of a hold that the ledger refused.
    """
    last = answered.expected
    if last.code in _CODES:
        return _CODES[last.code]
    if last.code != "insufficient" or last.refused_account is None:
        return f"ledger's {last.code}"
    if simulation.auditor.names[last.refused_account][1] == "cash":
        return "insufficient_funds"
    kind = _limit_of(simulation, last.refused_account).kind
    return "limit_exhausted" if kind == "ever" else "limit_exceeded"


def _limit_of(simulation: Simulation, account: int) -> NaiveLimit:
    limits = simulation.auditor.limits
    limit_id = next(key[0] for key, w in limits.windows.items() if w.account == account)
    return limits.limits[limit_id]


def _judge_shortage(call: Call, simulation: Simulation, answered: Answered) -> None:
    assert call.error is not None, "refused"
    details, last = call.error.details, answered.expected
    assert last.refused_account is not None, "somebody was short"
    account = simulation.auditor.naive.accounts[last.refused_account]
    scale = 0 if account.asset == LIMIT_TOKENS_ID else 9
    left = max(last.available or 0, 0)
    shown = (
        str(left) if scale == 0 else f"{left // 10**9}.{left % 10**9:09d}".rstrip("0").rstrip(".")
    )
    _require(
        details.get("available") == shown,
        Law.REFUSAL,
        call,
        f"said {details.get('available')} is left, naively {shown}",
    )
    if account.asset != USD_ID:
        limit = _limit_of(simulation, last.refused_account)
        _require(
            details.get("limit_id") == limit.limit_id,
            Law.REFUSAL,
            call,
            f"named limit {details.get('limit_id')}, naively {limit.limit_id}",
        )


def _judge_door(call: Call, simulation: Simulation, code: str) -> None:
    """
    Refused before the ledger was asked: by the key's or a party's state, or by its history.
    """
    known = _states_lately(call, simulation)
    allowed = {
        "revoked": "key_revoked",
        "frozen": "party_frozen",
        "closed": "party_closed",
    }
    reasons = {allowed[state] for state in known if state in allowed}
    expires_at = call.key.key.expires_at
    if expires_at is not None and expires_at <= simulation.clock.now():
        reasons.add("key_expired")
    if not call.prices:
        reasons.add("price_missing")
    if not call.offers:
        # With another tier to offer, the client is told to take that one.
        reasons |= {"no_supplier_available", "model_not_found"}
    if call.idempotency_key is not None:
        reasons |= {"call_in_flight", "call_already_settled", "idempotency_conflict"}
    _require(code in reasons, Law.REFUSAL, call, f"refused as {code}; reasons: {sorted(reasons)}")


def _states_lately(call: Call, simulation: Simulation) -> set[str]:
    since = simulation.clock.now() - SECRET_REMEMBERED
    found: set[str] = set()
    for scope in call.key.scopes:
        history = simulation.world.states.get(scope, [])
        for index, (_, state) in enumerate(history):
            ends = history[index + 1][0] if index + 1 < len(history) else None
            if ends is None or ends >= since:
                found.add(state)
    return found


# ---------------------------------------------------------------------- held


def _placements(answers: list[Answered]) -> list[Answered]:
    return [a for a in answers if isinstance(a.wish, Placement) and not a.wish.extension]


def _judge_hold(call: Call, simulation: Simulation) -> None:
    quoted = most(call.prices, input_tokens=call.input_tokens, output_tokens=call.output_cap)
    done = [a for a in _placements(call.opening) if a.outcome.is_done]
    wish = done[-1].wish
    assert isinstance(wish, Placement), "only placements were kept"
    asked = {item.asset_id: item.quanta for item in wish.reservations}
    expected = {
        USD_ID: quoted,
        LIMIT_USD_ID: quoted,
        LIMIT_TOKENS_ID: call.input_tokens + call.output_cap,
    }
    expected = {asset: quanta for asset, quanta in expected.items() if quanta}
    _require(asked == expected, Law.HELD, call, f"held {asked}, naively {expected}")


def _held_quanta(call: Call, simulation: Simulation) -> int:
    """
    Return the money held at first and by every extension that was granted.
    """
    held = most(call.prices, input_tokens=call.input_tokens, output_tokens=call.output_cap)
    for answered in call.answers:
        wish = answered.wish
        if isinstance(wish, Placement) and wish.extension and answered.outcome.code == "ok":
            held += sum(item.quanta for item in wish.reservations if item.asset_id == USD_ID)
    return held


# ---------------------------------------------------------------------- failed


def _judge_failure(call: Call, simulation: Simulation) -> str:
    assert call.error is not None, "not settled"
    assert call.call_id is not None, "opened"
    code, hold = call.error.code, simulation.auditor.naive.holds[call.call_id]
    _require(not call.moves, Law.CHARGE, call, "it failed and yet money moved")
    if code in {"hold_closed", "hold_unknown"}:
        _require(hold.state == "expired", Law.HOLD_ONCE, call, f"{code}, but it is {hold.state}")
        return f"failed {code}"
    if code == "supplier_refused_request":
        _require(
            call.told[-1][0].manner is Manner.REFUSED, Law.REFUSAL, call, "no supplier refused"
        )
    else:
        _require(code == "all_suppliers_failed", Law.REFUSAL, call, f"failed as {code}")
        tries = min(call.offers, ATTEMPTS_MAX)
        _require(len(call.told) == tries, Law.REFUSAL, call, f"{len(call.told)} of {tries} tried")
        sold = [p.manner for p, _ in call.told if p.manner.is_sold]
        _require(not sold, Law.REFUSAL, call, f"somebody answered: {sold}")
    _require(hold.state in {"voided", "expired"}, Law.HOLD_ONCE, call, f"hold is {hold.state}")
    return f"failed {code}"


# ---------------------------------------------------------------------- settled


def _judge_settled(call: Call, row: CallRow | None, simulation: Simulation) -> str:
    assert call.open is not None, "settled"
    assert call.call_id is not None, "settled"
    hold = simulation.auditor.naive.holds[call.call_id]
    if call.settled is None and hold.state == "expired":
        _require(not call.moves, Law.HOLD_ONCE, call, "it expired and yet money moved")
        return "expired under the stream"
    _require(hold.state == "captured", Law.HOLD_ONCE, call, f"settled, but hold is {hold.state}")
    if row is None:
        raise BrokenLawError(Law.DURABLE, f"call {call.number}: answered, but has no row")
    manner = call.told[-1][0].manner
    counts = _usage(call, row, manner)
    is_free = row.outcome in {"empty", "cut"}
    rated = 0 if is_free else charge(counts, call.prices)
    paid = min(rated, _held_quanta(call, simulation))
    _require(
        row.outcome in _outcomes(call, manner), Law.CHARGE, call, f"{row.outcome} after {manner}"
    )
    found = row.charge_quanta if call.settled is None else call.settled.charge_quanta
    _require(found == paid, Law.CHARGE, call, f"charged {found}, naively {paid} for {counts}")
    _require(row.charge_quanta == paid, Law.DURABLE, call, f"its row says {row.charge_quanta}")
    _judge_moves(call, simulation, rated=rated, paid=paid, counts=counts)
    return f"{row.outcome} charged {paid} of {rated}"


def _outcomes(call: Call, manner: Manner) -> set[str]:
    """
    Return how a call may have ended when its last supplier behaved so.
    """
    if call.is_stream and call.hangs_up:
        return {"completed", "disconnected", "cut", "empty", "hold_exhausted"}
    if manner is Manner.CUT:
        return {"cut", "hold_exhausted"}
    ended = {"empty"} if manner is Manner.EMPTY else {"completed"}
    return ended | ({"hold_exhausted"} if call.is_stream and call.max_tokens is None else set())


def _usage(call: Call, row: CallRow, manner: Manner) -> dict[str, int]:
    """
    Return the usage that counts: as told where it can be believed, else the hub's estimate.
    """
    found = {axis: int(count) for axis, count in row.usage.items()}
    told = call.told[-1][1].counts
    if row.is_estimate:
        may_be = manner in ESTIMATED or manner is Manner.CUT or row.outcome != "completed"
        _require(may_be, Law.CHARGE, call, f"estimated, but the supplier told {told}")
        if call.max_tokens is not None and row.outcome == "completed":
            most_output = found.get("output", 0)
            _require(most_output <= call.output_cap, Law.CHARGE, call, f"guessed {most_output}")
    else:
        _require(found == told, Law.CHARGE, call, f"counted {found}, the supplier told {told}")
    return found


def _judge_moves(
    call: Call,
    simulation: Simulation,
    *,
    rated: int,
    paid: int,
    counts: Mapping[str, int],
) -> None:
    assert call.open is not None, "settled"
    expected = _credits(call.open.attempts[-1].offer, rated=rated, counts=counts)
    found: Counter[Name] = Counter()
    taken: Counter[str] = Counter()
    for move in call.moves:
        if move.credit[1] != "safeguarded" and move.credit[2] == USD_ID:
            found[move.credit] += move.quanta
        if move.debit[2] == USD_ID:
            taken[move.debit[1]] += move.quanta
    shown = {simulation.name(n): q for n, q in found.items()}
    naive = {simulation.name(n): q for n, q in expected.items()}
    _require(found == expected, Law.LEGS, call, f"paid {shown}, naively {naive}")
    _require(taken["cash"] == paid, Law.CHARGE, call, f"took {taken['cash']}, not {paid}")
    _require(taken["own_funds"] == paid, Law.CLIENT_MONEY, call, "own funds are not the charge")
    _require(taken["overrun"] == rated - paid, Law.OVERRUN, call, f"overrun {taken['overrun']}")
    offer = call.open.attempts[-1].offer
    call.sale = Sale(
        paid=paid,
        owed=_owed(offer, rated=rated, counts=counts),
        supplier=offer.supplier_party_id,
        # What was used beyond a window is no window's, so nothing of it returns.
        units=[(m.debit, m.quanta) for m in call.moves if m.debit[1] == "limit_available"],
    )
    # An answer that is free to the buyer leaves the limits alone only as far as money goes.
    _judge_limits(call, simulation, paid=paid, tokens=sum(counts.values()))


def _credits(offer: Offer, *, rated: int, counts: Mapping[str, int]) -> Counter[Name]:
    """
    Return who gets how much: the sale's shares, the supplier and its power producer.
    """
    split, expected = offer.split, Counter[Name]()
    shares = [split.tax_ppm, split.reseller_ppm, split.rights_ppm]
    parts = divide(rated, [*shares, MILLION - sum(shares)])
    owners = (
        (TAX_ID, "tax_payable"),
        (split.reseller_id, "reseller_payable"),
        (split.rights_id, "rights_payable"),
        (PLATFORM, "platform_revenue"),
    )
    for (owner, purpose), quanta in zip(owners, parts, strict=True):
        if quanta and owner is not None:
            expected[owner, purpose, USD_ID] += quanta
    owed = _owed(offer, rated=rated, counts=counts)
    power = owed * split.power_ppm // MILLION
    expected[offer.supplier_party_id, "supplier_payable", USD_ID] += owed - power
    if split.power_id is not None:
        expected[split.power_id, "power_payable", USD_ID] += power
    return +expected


def _owed(offer: Offer, *, rated: int, counts: Mapping[str, int]) -> int:
    card = offer.cost_card
    if card.supplier_share_ppm is not None:
        return rated * card.supplier_share_ppm // MILLION
    assert card.costs is not None, "a card has one of two forms"
    exact = [Fraction(count * card.costs[axis], MILLION) for axis, count in counts.items()]
    return half_even(sum(exact, Fraction(0)))


def _judge_limits(call: Call, simulation: Simulation, *, paid: int, tokens: int) -> None:
    """
    Every limit that was held has to be used by what was charged, in its own unit.
    """
    assert call.call_id is not None, "settled"
    hold = simulation.auditor.naive.holds[call.call_id]
    parts = Counter(simulation.auditor.naive.accounts[number].asset for number in hold.held)
    for asset, used in ((LIMIT_USD_ID, paid), (LIMIT_TOKENS_ID, tokens)):
        spent = sum(m.quanta for m in call.moves if m.credit[1:] == ("limit_spent", asset))
        _require(
            spent == used * parts[asset],
            Law.LIMITED,
            call,
            f"{parts[asset]} limits of asset {asset} count {spent} for {used} used",
        )
