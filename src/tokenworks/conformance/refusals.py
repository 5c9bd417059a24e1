"""
Attacks that must simply be refused: signatures spent on something else, forged, out of time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from tokenworks.conformance.facilitator import Order
from tokenworks.conformance.ground import Ground
from tokenworks.conformance.model import (
    Attack,
    Check,
    Group,
    JsonObject,
    Outcome,
    failed,
    survived,
)
from tokenworks.conformance.rails import Sale, Wallet, order_for

STRANGE_PAYEES: Final = {
    "hub": "00000000-0000-7000-8000-000000000000",
    "eip155": "0x000000000000000000000000000000000000dEaD",
}
STRANGE_ASSETS: Final = {
    "hub": "XTS",  # ISO 4217: for tests
    "eip155": "0x000000000000000000000000000000000000bEEF",
}
STRANGE_NETWORKS: Final = {"hub": "hub:AAAAAAAAAAAAAAAA", "eip155": "eip155:99999"}
SHORT: Final = 600
"""Seconds by which authorisations are early or late: no clock is that wrong."""

Crime = Callable[[Ground, Wallet], Order]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lie:
    """
    An order that must be refused, and what it would mean if it were not.
    """

    check_id: str
    group: Group
    proves: str
    loss: str
    crime: Crime

    def to_check(self) -> Check:
        """
        Return it as a check: verify must say no, and settle must say no by itself.
        """
        return Check(
            check_id=self.check_id, group=self.group, proves=self.proves, attack=self._attack()
        )

    def _attack(self) -> Attack:
        async def attack(ground: Ground) -> Outcome:
            order = self.crime(ground, await ground.purse.funded())
            return await judge_refusal(ground, order, self.loss)

        return attack


async def judge_refusal(ground: Ground, order: Order, loss: str) -> Outcome:
    """
    Send an order that must be refused to verify and to settle, and judge both answers.
    """
    verified = await ground.facilitator.verify(order)
    settled = await ground.facilitator.settle(order)
    evidence: JsonObject = {
        "verify": "valid" if verified.is_valid else verified.reason,
        "settle": f"settled as {settled.transaction}" if settled.is_settled else settled.reason,
    }
    if settled.is_settled:
        return failed(f"It was settled: {loss}", **evidence)
    if verified.is_valid:
        return failed(f"It was verified as valid: {loss}", **evidence)
    if verified.is_fault or settled.is_fault:
        return failed("Answered with a fault (5xx or nothing), not a refusal.", **evidence)
    return survived("Refused by verify and by settle.", **evidence)


# Binding


def _spent_on(ground: Ground, wallet: Wallet, sold: Sale, bought: Sale) -> Order:
    """
    Return an order for ``bought`` with a signature for ``sold``; the payer echoes ``bought``.
    """
    signed = ground.rail.sign(wallet, sold, ground.times())
    return order_for(ground.rail, bought, signed)


def _other_resource(ground: Ground, wallet: Wallet) -> Order:
    cheap = replace(ground.sale_at("a"), method="GET", body=b"")
    dear = replace(ground.sale_at("b"), method="POST", body=b"")
    return _spent_on(ground, wallet, cheap, dear)


def _other_body(ground: Ground, wallet: Wallet) -> Order:
    one = replace(ground.sale_at("body"), method="POST", body=b'{"job":"small"}')
    return _spent_on(ground, wallet, one, replace(one, body=b'{"job":"large"}'))


def _other_payee(ground: Ground, wallet: Wallet) -> Order:
    sale = ground.sale_at("payee")
    return _spent_on(ground, wallet, replace(sale, pay_to=STRANGE_PAYEES[ground.rail.family]), sale)


def _other_asset(ground: Ground, wallet: Wallet) -> Order:
    sale = ground.sale_at("asset")
    return _spent_on(ground, wallet, replace(sale, asset=STRANGE_ASSETS[ground.rail.family]), sale)


def _other_network(ground: Ground, wallet: Wallet) -> Order:
    sale = ground.sale_at("network")
    strange = replace(sale, network=STRANGE_NETWORKS[ground.rail.family])
    return _spent_on(ground, wallet, strange, sale)


def _other_scheme(ground: Ground, wallet: Wallet) -> Order:
    sale = ground.sale_at("scheme")
    signed = ground.rail.sign(wallet, sale, ground.times())
    return order_for(ground.rail, replace(sale, scheme="free-of-charge"), signed, sold=sale)


def _smaller_amount(ground: Ground, wallet: Wallet) -> Order:
    sale = ground.sale_at("amount")
    return _spent_on(ground, wallet, replace(sale, amount="1"), sale)


def _own_terms(ground: Ground, wallet: Wallet) -> Order:
    """
    Return an order whose payer signs and echoes a price of its own.
    """
    sale = ground.sale_at("terms")
    own = replace(sale, amount="1")
    signed = ground.rail.sign(wallet, own, ground.times())
    return order_for(ground.rail, sale, signed, sold=own)


# Signatures


def _forged(ground: Ground, wallet: Wallet) -> Order:
    sale = ground.sale_at("forged")
    return order_for(ground.rail, sale, ground.rail.forge(wallet, sale, ground.times()))


def _altered(ground: Ground, wallet: Wallet) -> Order:
    sale = ground.sale_at("altered")
    signed = ground.rail.sign(wallet, replace(sale, amount="1"), ground.times())
    return order_for(ground.rail, sale, ground.rail.alter(signed, amount=sale.amount))


def _unsigned(ground: Ground, wallet: Wallet) -> Order:
    sale = ground.sale_at("unsigned")
    signed = ground.rail.sign(wallet, sale, ground.times())
    return order_for(ground.rail, sale, ground.rail.strip(signed))


# Time


def _expired(ground: Ground, wallet: Wallet) -> Order:
    sale = ground.sale_at("expired")
    times = ground.times(since_s=-2 * SHORT, lasts_s=SHORT)
    return order_for(ground.rail, sale, ground.rail.sign(wallet, sale, times))


def _not_yet_valid(ground: Ground, wallet: Wallet) -> Order:
    sale = ground.sale_at("early")
    times = ground.times(since_s=SHORT, lasts_s=SHORT)
    return order_for(ground.rail, sale, ground.rail.sign(wallet, sale, times))


def _backwards(ground: Ground, wallet: Wallet) -> Order:
    sale = ground.sale_at("backwards")
    times = ground.times(since_s=SHORT, lasts_s=-2 * SHORT)
    return order_for(ground.rail, sale, ground.rail.sign(wallet, sale, times))


LIES: Final = (
    Lie(
        check_id="other-resource",
        group=Group.BINDING,
        proves="A signature for one request does not pay for another at the same price.",
        loss="a payment for GET a bought POST b.",
        crime=_other_resource,
    ),
    Lie(
        check_id="other-body",
        group=Group.BINDING,
        proves="A signature for one body does not pay for another.",
        loss="a payment for a small job bought a large one.",
        crime=_other_body,
    ),
    Lie(
        check_id="other-payee",
        group=Group.BINDING,
        proves="A payment to somebody else does not pay the seller.",
        loss="the seller worked and somebody else was paid.",
        crime=_other_payee,
    ),
    Lie(
        check_id="other-asset",
        group=Group.BINDING,
        proves="A payment in another asset does not pay.",
        loss="the seller was paid in something else.",
        crime=_other_asset,
    ),
    Lie(
        check_id="other-network",
        group=Group.BINDING,
        proves="A payment signed for another network does not pay.",
        loss="one signature pays on two networks.",
        crime=_other_network,
    ),
    Lie(
        check_id="other-scheme",
        group=Group.BINDING,
        proves="A scheme that the facilitator does not know is refused.",
        loss="the seller asked for another scheme than was settled.",
        crime=_other_scheme,
    ),
    Lie(
        check_id="smaller-amount",
        group=Group.BINDING,
        proves="A payment of less than the price does not pay.",
        loss="the price was paid with the smallest unit.",
        crime=_smaller_amount,
    ),
    Lie(
        check_id="own-terms",
        group=Group.BINDING,
        proves="The seller's terms count, not what the payer says it accepted.",
        loss="the payer made the price.",
        crime=_own_terms,
    ),
    Lie(
        check_id="forged-signature",
        group=Group.SIGNATURE,
        proves="Only the wallet's own key signs for it.",
        loss="a stranger paid with somebody else's wallet.",
        crime=_forged,
    ),
    Lie(
        check_id="altered-payload",
        group=Group.SIGNATURE,
        proves="What was signed cannot be changed.",
        loss="an amount was raised after it was signed.",
        crime=_altered,
    ),
    Lie(
        check_id="unsigned",
        group=Group.SIGNATURE,
        proves="A payment without a signature is none.",
        loss="nobody signed.",
        crime=_unsigned,
    ),
    Lie(
        check_id="expired",
        group=Group.TIME,
        proves="An authorisation is worth nothing after its time.",
        loss="it had expired ten minutes before.",
        crime=_expired,
    ),
    Lie(
        check_id="not-yet-valid",
        group=Group.TIME,
        proves="An authorisation is worth nothing before its time.",
        loss="it becomes good in ten minutes only.",
        crime=_not_yet_valid,
    ),
    Lie(
        check_id="backwards-in-time",
        group=Group.TIME,
        proves="An authorisation that ends before it begins is never good.",
        loss="it ends before it begins.",
        crime=_backwards,
    ),
)

CHECKS: Final = tuple(lie.to_check() for lie in LIES)
