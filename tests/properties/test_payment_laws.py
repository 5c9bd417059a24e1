"""
Laws of payments that need no database.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.postgres.payments_rig import NETWORK, PayingWallet, requirements
from tokenworks.agents.brake.model import Action, Decision, Reason
from tokenworks.agents.payments.authorising import (
    check_requirements,
    read_amount,
    read_authorisation,
)
from tokenworks.agents.payments.held import HeldPayment, from_meta, is_waiting, to_meta
from tokenworks.agents.payments.identifying import is_uuid7, payment_id_of
from tokenworks.agents.payments.legs import CaptureAccounts, capture_transfers, reservations
from tokenworks.agents.payments.receipt import PAYEE_FIELDS, readers_of, receipt_fields
from tokenworks.foundation.clock import FakeClock, SystemClock
from tokenworks.foundation.errors import InvalidError, TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource, identifier_time
from tokenworks.foundation.money import QUANTA_MAX
from tokenworks.ledger.model import ASSET_IDS, Part
from tokenworks.receipts.views import BUYER, leg_owner_view
from tokenworks.web.x402_api.wire import read_body, to_requirements

CLOCK = FakeClock(SystemClock().now())
IDS = IdentifierSource(CLOCK)
WALLET = PayingWallet(CLOCK, IDS)
PAYEE = IDS.mint()

_LAST_MILLISECOND = 253_402_300_799_999  # of the year 9999: a later time is none to Python

seven = st.builds(
    lambda ms, a, b: UUID(int=ms << 80 | 0x7 << 76 | a << 64 | 0b10 << 62 | b),
    st.integers(0, _LAST_MILLISECOND),
    st.integers(0, 2**12 - 1),
    st.integers(0, 2**62 - 1),
)
addresses = st.text("abcdefgh-_", min_size=43, max_size=43)
amounts = st.integers(1, QUANTA_MAX)
short = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)


@given(addresses, addresses, seven, seven)
def test_an_id_is_one_wallets_one_nonce(a: str, b: str, first: UUID, second: UUID) -> None:
    """
    It is a UUIDv7 of the nonce's millisecond, and another one for other input.
    """
    identifier = payment_id_of(a, first)

    assert is_uuid7(identifier)
    assert identifier_time(identifier) == identifier_time(first)
    same = (a, first) == (b, second)
    assert (identifier == payment_id_of(b, second)) == same


@given(st.text(max_size=24) | st.integers(-5, QUANTA_MAX + 5).map(str))
def test_an_amount_is_written_in_one_way(text: str) -> None:
    """
    Digits without sign or leading zero, from 1 to 2^62; anything else is refused.
    """
    try:
        expected = 1 <= int(text) <= QUANTA_MAX and str(int(text)) == text
    except ValueError:
        expected = False

    if expected:
        assert read_amount(text) == int(text)
    else:
        with pytest.raises(InvalidError) as caught:
            read_amount(text)
        assert caught.value.code in {"invalid_amount", "amount_too_large"}


CHANGES: dict[str, Any] = {
    "jti": str(IDS.mint()),
    "scheme": "upto",
    "amount": "120001",
    "asset": "CNY",
    "pay_to": str(IDS.mint()),
    "method": "POST",
    "url": "https://seller.example/infer?b",
    "body_sha256": "A" * 43,
    "mandate": str(IDS.mint()),
    "reference": "r",
}


@given(st.sets(st.sampled_from(sorted(CHANGES))), st.integers(-100, 100))
def test_the_digest_is_of_all_that_was_meant_and_of_nothing_else(
    changed: set[str], seconds: int
) -> None:
    """
    Signing again later is the same payment; a change of any other claim is another content.
    """
    claims = WALLET.claims(PAYEE)
    later = claims | {"iat": claims["iat"] + seconds, "exp": claims["exp"] + seconds}
    other = later | {name: CHANGES[name] for name in changed}

    first = read_authorisation(WALLET.sign(claims), network=NETWORK)
    second = read_authorisation(WALLET.sign(other), network=NETWORK)

    assert (first.digest == second.digest) == (not changed)
    assert (first.payment_id == second.payment_id) == ("jti" not in changed)


@given(st.data())
def test_no_altered_signature_is_read(data: st.DataObject) -> None:
    """
    Whatever character is changed, left out or added: it is refused, never misread.
    """
    jws = WALLET.pay(PAYEE)
    place = data.draw(st.integers(0, len(jws) - 1))
    character = data.draw(st.sampled_from("ABab01-_.= \n\u00e9"))
    kind = data.draw(st.sampled_from(["change", "remove", "add"]))
    after = jws[place:] if kind == "add" else jws[place + 1 :]
    altered = jws[:place] + ("" if kind == "remove" else character) + after
    if altered == jws:
        return

    with pytest.raises(TokenworksError) as caught:
        read_authorisation(altered, network=NETWORK)

    assert caught.value.code in {"authorisation_malformed", "authorisation_signature"}


@given(st.text(max_size=200))
def test_any_text_is_refused_as_an_authorisation(text: str) -> None:
    """
    Never anything but a refusal by name.
    """
    with pytest.raises(InvalidError) as caught:
        read_authorisation(text, network=NETWORK)
    assert caught.value.code == "authorisation_malformed"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | short,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {
            "x402Version": st.sampled_from([2, 1, "2"]),
            "paymentPayload": st.fixed_dictionaries({"payload": json_values}),
            "paymentRequirements": st.fixed_dictionaries(
                {
                    "scheme": st.sampled_from(["exact", "upto"]) | short,
                    "network": short,
                    "asset": short,
                    "amount": st.integers(-3, QUANTA_MAX + 1).map(str) | json_values,
                    "payTo": st.uuids().map(str) | short,
                    "maxTimeoutSeconds": st.integers(-1, 4_000) | json_values,
                    "extra": json_values,
                }
            ),
        }
    )
    | json_values
)
def test_any_body_is_read_or_refused(body: Any) -> None:  # noqa: ANN401 - whatever JSON has
    """
    The door's reader never ends otherwise than with requirements or a refusal.
    """
    try:
        asked = to_requirements(read_body(json.dumps(body).encode()))
    except InvalidError:
        return
    assert 0 <= asked.amount <= QUANTA_MAX


@given(amounts, st.integers(0, 4), st.integers(0, 4), st.booleans(), st.booleans(), st.data())
def test_a_capture_moves_the_amount_once_and_every_limit_alike(
    authorised: int,
    money_limits: int,
    payment_limits: int,
    is_client_money: bool,
    is_first: bool,
    data: st.DataObject,
) -> None:
    """
    The payee gets what the payer gives; each money limit is spent by as much, each count by one
    and only once; own funds are freed exactly when the money leaves the clients'.
    """
    quanta = data.draw(st.integers(1, authorised))
    usd, limit = ASSET_IDS["USD"], ASSET_IDS["LIMIT.USD"]
    held = [reservation.quanta for reservation in reservations("USD", authorised)]
    assert held == [authorised, authorised, 1]
    kinds = [(usd, authorised)] + [(limit, authorised)] * money_limits
    kinds += [(ASSET_IDS["LIMIT.PAYMENTS"], 1)] * payment_limits
    parts = [
        Part(account_id=100 + place, asset_id=asset, quanta=amount)
        for place, (asset, amount) in enumerate(kinds)
    ]
    accounts = CaptureAccounts(
        payee=1,
        is_client_money=is_client_money,
        own_funds=2,
        safeguarded=3,
        money_limit_spent=4,
        payments_spent=5,
    )

    transfers = capture_transfers(parts, accounts, currency="USD", quanta=quanta, is_first=is_first)

    debited, credited = Counter[int](), Counter[int]()
    for transfer in transfers:
        debited[transfer.debit] += transfer.quanta
        credited[transfer.credit] += transfer.quanta
    for part in parts:
        used = quanta if part.asset_id != ASSET_IDS["LIMIT.PAYMENTS"] else int(is_first)
        assert debited[part.account_id] == used <= part.quanta
    assert credited[1] == quanta
    assert debited[2] == credited[3] == (0 if is_client_money else quanta)
    assert credited[4] == quanta * money_limits
    assert credited[5] == payment_limits * is_first


reasons = st.builds(
    Reason,
    rule=short,
    action=st.sampled_from(Action),
    text=short,
    figures=st.dictionaries(short, st.integers(0, 2**40) | short, max_size=3),
)
decisions = st.builds(
    Decision,
    action=st.sampled_from(Action),
    reasons=st.lists(reasons, max_size=3).map(tuple),
    score_ppm=st.integers(0, 2**40),
    rules_version=st.integers(0, 2**40),
    review_id=st.none() | seven,
)
payments = st.builds(
    lambda parties, chain, **fields: HeldPayment(
        agent_id=parties[-1],
        organisation_id=parties[0],
        party_chain=parties,
        mandate_id=chain[-1],
        chain=chain,
        is_unclaimed=is_waiting(fields["decision"]) or fields["is_attested"],
        resource="escrow:1" if fields["kind"] == "escrow" else "",
        **fields,
    ),
    st.lists(seven, min_size=1, max_size=4).map(tuple),
    st.lists(seven, min_size=1, max_size=8).map(tuple),
    payment_id=seven,
    digest=st.binary(min_size=32, max_size=32),
    kind=st.sampled_from(["exact", "upto", "escrow"]),
    payer=addresses,
    payee_id=seven,
    currency=st.sampled_from(["USD", "CNY"]),
    authorised_quanta=amounts,
    request_digest=st.binary(min_size=32, max_size=32),
    decision=decisions,
    is_attested=st.booleans(),
)


@given(payments)
def test_a_holds_note_says_all_that_a_capture_needs(held: HeldPayment) -> None:
    """
    What is read back after a crash is what was held; the note is canonical.
    """
    note = to_meta(held)

    assert from_meta(held.payment_id, note) == held
    assert to_meta(held) == note
    secret = replace(held, jws="signed", resource="GET https://a.example/?name=jane")
    assert "jane" not in to_meta(secret) or held.kind == "escrow"
    assert "signed" not in to_meta(secret)


@given(payments, st.booleans())
def test_a_payee_never_sees_mandate_or_reasons(held: HeldPayment, closes: bool) -> None:
    """
    Its view has exactly its fields and its leg; the payer's has all but the leg.
    """
    fields = receipt_fields(held, quanta=held.authorised_quanta, ordinal=0, closes=closes)
    readers = readers_of(fields)
    view = leg_owner_view(held.payee_id)

    seen = {name for name, who in readers.items() if view in who}
    assert seen == (PAYEE_FIELDS & fields.keys()) | {"leg.1"}
    assert {name for name, who in readers.items() if BUYER in who} == fields.keys() - {"leg.1"}


@given(st.sampled_from(["amount", "asset", "pay_to", "network", "timeout_s"]))
def test_requirements_are_compared_member_by_member(member: str) -> None:
    """
    What differs from what was signed is refused; only the time is the seller's own.
    """
    signed = read_authorisation(WALLET.pay(PAYEE), network=NETWORK)
    asked = requirements(PAYEE)
    others = {"amount": 1, "asset": "CNY", "pay_to": IDS.mint(), "network": "hub:b", "timeout_s": 9}

    check_requirements(signed, asked, is_settling=False)
    CLOCK.advance(timedelta(milliseconds=1))
    other = replace(asked, **{member: others[member]})  # pyright: ignore[reportArgumentType] - each of its type
    if member == "timeout_s":
        check_requirements(signed, other, is_settling=True)
        return
    with pytest.raises(InvalidError) as caught:
        check_requirements(signed, other, is_settling=True)
    assert caught.value.code in {"requirements_mismatch", "network_mismatch"}
