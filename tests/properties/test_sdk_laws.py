"""
What the SDK signs is what the hub reads: byte for byte, and nothing else passes.
"""

from __future__ import annotations

import string
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.agents.mandates.signed_request import read_signed_request
from tokenworks.agents.payments import model as hub
from tokenworks.agents.payments.authorising import (
    check_requirements,
    check_times,
    read_authorisation,
)
from tokenworks.agents.payments.identifying import is_uuid7, payment_id_of
from tokenworks.foundation.errors import TokenworksError
from tokenworks.sdk import Binding, Requirements, Wallet
from tokenworks.sdk import signing as sdk
from tokenworks.sdk.model import from_requirements, to_atomic, to_units
from tokenworks.web.x402_api.offering import to_wire

NOW_S: Final = 1_800_000_000
NETWORK: Final = "hub:0123456789abcdef"
IN_URLS: Final = string.ascii_letters + string.digits + "-_.~/?&=%"  # as a request line has them
SAFE: Final = IN_URLS + "äß水"

seeds = st.binary(min_size=32, max_size=32)
uuids = st.integers(0, (1 << 128) - 1).map(lambda number: UUID(int=number))
nonces = st.tuples(st.floats(0, 2e11), st.binary(min_size=10, max_size=10)).map(
    lambda parts: sdk.make_uuid7(*parts)
)
bindings = st.builds(
    hub.Binding,
    method=st.text(string.ascii_uppercase, min_size=1, max_size=16),
    url=st.text(IN_URLS, min_size=1, max_size=200).map("https://seller.example/".__add__),
    body_sha256=st.binary(max_size=64).map(sdk.body_sha256),
)
asks = st.builds(
    hub.Requirements,
    scheme=st.sampled_from(hub.Scheme),
    network=st.just(NETWORK),
    amount=st.integers(1, 2**62),
    asset=st.sampled_from(["USD", "CNY"]),
    pay_to=uuids,
    binding=bindings,
    timeout_s=st.integers(1, 10_000),
)


def signed(
    seed: bytes,
    asked: hub.Requirements,
    nonce: UUID,
    *,
    mandate: str | None = None,
    reference: str | None = None,
) -> str:
    """
    Return what a wallet signs for a seller's offer that went over the wire.
    """
    wallet = wallet_of(seed)
    offer = from_requirements(to_wire(asked))
    assert offer.binding is not None
    return wallet.authorise(offer, offer.binding, nonce=nonce, mandate=mandate, reference=reference)


def wallet_of(seed: bytes) -> Wallet:
    """
    Return a wallet with a clock that stands.
    """
    wallet = Wallet.from_seed(seed)
    return Wallet(wallet._key, now_s=lambda: NOW_S + 0.75)


@given(seed=seeds, asked=asks, nonce=nonces, mandate=uuids, reference=st.text(SAFE, min_size=1))
def test_hub_reads_what_the_wallet_signed(
    seed: bytes, asked: hub.Requirements, nonce: UUID, mandate: UUID, reference: str
) -> None:
    """
    Every claim arrives, the offer is met, the times are good, the id is the same on both sides.
    """
    jws = signed(seed, asked, nonce, mandate=str(mandate), reference=reference[:255])
    read = read_authorisation(jws, network=NETWORK)
    check_requirements(read, asked, is_settling=False)
    check_times(read, now=datetime.fromtimestamp(NOW_S, tz=UTC))
    address = wallet_of(seed).address
    assert (read.payer, read.nonce, read.mandate_id) == (address, nonce, mandate)
    assert read.reference == reference[:255]
    assert (read.amount, read.pay_to, read.binding) == (asked.amount, asked.pay_to, asked.binding)
    assert read.payment_id == payment_id_of(address, nonce) == sdk.payment_id_of(address, nonce)
    assert (read.expires_at - read.issued_at).total_seconds() == min(asked.timeout_s, 3_600)


@given(seed=seeds, asked=asks, nonce=nonces, position=st.integers(0, 10**6), bit=st.integers(0, 6))
def test_no_altered_character_passes(
    seed: bytes, asked: hub.Requirements, nonce: UUID, position: int, bit: int
) -> None:
    """
    One flipped bit anywhere in the text is refused.
    """
    jws = signed(seed, asked, nonce)
    position %= len(jws)
    altered = jws[:position] + chr(ord(jws[position]) ^ (1 << bit)) + jws[position + 1 :]
    with pytest.raises(TokenworksError):
        read_authorisation(altered, network=NETWORK)


@given(
    seed=seeds,
    asked=asks,
    nonce=nonces,
    change=st.sampled_from(["method", "url", "body_sha256", "amount", "pay_to", "asset", "scheme"]),
)
def test_signature_is_for_one_request_and_one_price(
    seed: bytes, asked: hub.Requirements, nonce: UUID, change: str
) -> None:
    """
    Whatever the seller asks that differs in one member is refused.
    """
    read = read_authorisation(signed(seed, asked, nonce), network=NETWORK)
    other_scheme = hub.Scheme.EXACT if asked.scheme is hub.Scheme.UPTO else hub.Scheme.UPTO
    changed = {
        "method": replace(asked, binding=replace(asked.binding, method=asked.binding.method + "X")),
        "url": replace(asked, binding=replace(asked.binding, url=asked.binding.url + "x")),
        "body_sha256": replace(
            asked, binding=replace(asked.binding, body_sha256=sdk.body_sha256(b"another body"))
        ),
        "amount": replace(asked, amount=asked.amount + 1),
        "pay_to": replace(asked, pay_to=UUID(int=asked.pay_to.int ^ 1)),
        "asset": replace(asked, asset="CNY" if asked.asset == "USD" else "USD"),
        "scheme": replace(asked, scheme=other_scheme),
    }[change]
    with pytest.raises(TokenworksError):
        check_requirements(read, changed, is_settling=False)


@given(asked=asks)
def test_offer_survives_the_wire(asked: hub.Requirements) -> None:
    """
    What the hub offers is what the SDK reads.
    """
    document = to_wire(asked)
    assert from_requirements(document) == Requirements(
        scheme=asked.scheme.value,
        network=asked.network,
        amount=asked.amount,
        asset=asked.asset,
        pay_to=str(asked.pay_to),
        max_timeout_s=asked.timeout_s,
        binding=Binding(
            method=asked.binding.method,
            url=asked.binding.url,
            body_sha256=asked.binding.body_sha256,
        ),
        document=document,
    )


@given(moment_s=st.floats(0, 2e11), random=st.binary(min_size=10, max_size=10))
def test_nonces_are_of_the_version_that_the_hub_wants(moment_s: float, random: bytes) -> None:
    """
    RFC 9562's version 7, with the moment in front.
    """
    nonce = sdk.make_uuid7(moment_s, random)
    assert is_uuid7(nonce)
    assert nonce.int >> 80 == int(moment_s * 1000)


@given(atomic=st.integers(0, 2**62))
def test_amounts_go_both_ways(atomic: int) -> None:
    """
    Atomic to decimal and back changes nothing.
    """
    assert to_atomic(to_units(atomic)) == atomic


@given(
    seed=seeds,
    method=st.sampled_from(["GET", "post", "DELETE"]),
    path=st.text(string.ascii_lowercase + string.digits + "/-_", max_size=60),
    query=st.sampled_from(["", "?limit=3", "?a=b&c=%20"]),
    body=st.binary(max_size=200),
)
def test_hub_reads_the_request_that_a_wallet_signed(
    seed: bytes, method: str, path: str, query: str, body: bytes
) -> None:
    """
    A signed request is read as its wallet's, for its own place and body alone.
    """
    wallet = wallet_of(seed)
    url = f"https://hub.example/hub/v1/{path}{query}"
    header = wallet.sign_request(method, url, body, network=NETWORK)
    now = datetime.fromtimestamp(NOW_S, tz=UTC)
    read = read_signed_request(header, network=NETWORK, method=method.upper(), url=url, now=now)
    assert read.address == wallet.address
    read.check_body(body)
    with pytest.raises(TokenworksError):
        read.check_body(body + b"x")
    with pytest.raises(TokenworksError):
        read_signed_request(header, network=NETWORK, method=method, url=f"{url}x", now=now)
