"""
What a payment is made of, whatever the network: sales, wallets, and how a rail signs.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

from tokenworks.conformance.facilitator import X402_VERSION, Order
from tokenworks.conformance.model import JsonObject

Secret: TypeAlias = bytes
"""A wallet's private key: 32 bytes on both rails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    """
    What a seller asks for one request.
    """

    scheme: str
    network: str
    asset: str
    amount: str  # atomic, as on the wire: also what is no number
    pay_to: str
    method: str
    url: str
    body: bytes = b""
    timeout_s: int = 300
    extra: JsonObject = field(default_factory=dict[str, object])  # what the rail's asset needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """
    Someone who can sign.
    """

    address: str
    secret: Secret = field(repr=False)
    mandate: str | None = None  # of a hub: which mandate pays


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """
    From when until when an authorisation is good, in Unix seconds.
    """

    since_s: int
    until_s: int


class Rail(Protocol):
    """
    How payments are signed on one kind of network.
    """

    @property
    def family(self) -> str:
        """
        The first part of its networks' names.
        """
        ...

    def requirements(self, sale: Sale) -> JsonObject:
        """
        Return what the seller of a sale sends, with what binds it to its request.
        """
        ...

    def sign(self, wallet: Wallet, sale: Sale, times: Times) -> JsonObject:
        """
        Return a new authorisation: each call is another payment.
        """
        ...

    def forge(self, wallet: Wallet, sale: Sale, times: Times) -> JsonObject:
        """
        Return an authorisation in a wallet's name, signed by another key.
        """
        ...

    def alter(self, signed: JsonObject, *, amount: str) -> JsonObject:
        """
        Return an authorisation whose amount was changed after it was signed.
        """
        ...

    def strip(self, signed: JsonObject) -> JsonObject:
        """
        Return an authorisation without its signature.
        """
        ...


def order_for(rail: Rail, sale: Sale, signed: JsonObject, *, sold: Sale | None = None) -> Order:
    """
    Return an order for a signature, as an attacker would send it.

    Args:
        rail: How it was signed.
        sale: What the seller sells now: its requirements count.
        signed: The authorisation.
        sold: What the payer echoes as accepted, where that is another sale.
    """
    echoed = sold or sale
    payment: JsonObject = {
        "x402Version": X402_VERSION,
        "resource": {"url": sale.url},
        "accepted": rail.requirements(echoed),
        "payload": signed,
    }
    return Order(payment=payment, requirements=rail.requirements(sale))


def with_body(sale: Sale, *, method: str, url: str, body: bytes) -> Sale:
    """
    Return a sale of another request at the same price.
    """
    return replace(sale, method=method, url=url, body=body)


def sha256_text(content: bytes) -> str:
    """
    Return a hash in base64url without padding.
    """
    return to_base64url(hashlib.sha256(content).digest())


def to_base64url(content: bytes) -> str:
    """
    Return base64url without padding (RFC 7515 §2).
    """
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """
    Return the bytes of base64url without padding.

    Raises:
        ValueError: It is none.
    """
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
