"""
A payer, payees and the service of payments on a real ledger; mandates and the brake are fakes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg import conninfo

from tests.simulation.books import Books, fake_time
from tokenworks.agents.payments.attesting import Attesting
from tokenworks.agents.payments.model import Binding, Requirements, Scheme
from tokenworks.agents.payments.service import Payments
from tokenworks.agents.payments.store import PaymentStore
from tokenworks.foundation.clock import Clock, FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import ASSETS
from tokenworks.identity.model import Level, Party, PartyKind
from tokenworks.identity.service import Identity
from tokenworks.ledger.model import AccountBalance
from tokenworks.ledger.service import Ledger
from tokenworks.ledger.writer import Writer
from tokenworks.postgres.pool import open_pool
from tokenworks.receipts.issuing import ReceiptIssuer
from tokenworks.receipts.jws import to_base64url
from tokenworks.receipts.service import ReceiptKeys
from tokenworks.testing.agent_fakes import FakeBrake, FakeMandates

NETWORK = "hub:test"
URL = "https://seller.example/infer"
NOTHING = to_base64url(hashlib.sha256(b"").digest())
PRICE = 120_000


class OpenBox:
    """
    Keeps keys as they are: tests have nothing to hide.
    """

    def encrypt(self, text: str, *, owner_id: UUID) -> bytes:
        """
        Return the text as it is.
        """
        return text.encode()

    def decrypt(self, sealed: bytes, *, owner_id: UUID) -> str:
        """
        Return what was kept.
        """
        return bytes(sealed).decode()


class PayingWallet:
    """
    A key that signs authorisations, with every claim open to change.
    """

    def __init__(self, clock: Clock, ids: IdentifierSource) -> None:
        self._key = Ed25519PrivateKey.generate()
        self._clock = clock
        self._ids = ids
        self.address = to_base64url(self._key.public_key().public_bytes_raw())

    def claims(self, pay_to: UUID, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON has
        """
        Return the claims of a payment of ``PRICE``; ``...`` leaves one out.
        """
        now_s = int(self._clock.now().timestamp())
        claims = {
            "iss": self.address,
            "aud": NETWORK,
            "jti": str(self._ids.mint()),
            "iat": now_s,
            "exp": now_s + 60,
            "scheme": "exact",
            "amount": str(PRICE),
            "asset": "USD",
            "pay_to": str(pay_to),
            "method": "GET",
            "url": URL,
            "body_sha256": NOTHING,
        } | changes
        return {name: value for name, value in claims.items() if value is not ...}

    def sign(self, claims: dict[str, Any], **header: Any) -> str:  # noqa: ANN401 - whatever JSON has
        """
        Return the compact JWS of some claims.
        """
        head = {"alg": "EdDSA", "kid": self.address, "typ": "tokenworks-payment+jwt"} | header
        signed = f"{_part(head)}.{_part(claims)}"
        return f"{signed}.{to_base64url(self._key.sign(signed.encode()))}"

    def pay(self, pay_to: UUID, **changes: Any) -> str:  # noqa: ANN401 - whatever JSON has
        """
        Sign a payment.
        """
        return self.sign(self.claims(pay_to, **changes))


def _part(content: dict[str, Any]) -> str:
    return to_base64url(json.dumps(content).encode())


def requirements(pay_to: UUID, **changes: Any) -> Requirements:  # noqa: ANN401 - whatever the fields are
    """
    Return what the seller asks, as ``PayingWallet.claims`` signs it.
    """
    asked = Requirements(
        scheme=Scheme.EXACT,
        network=NETWORK,
        amount=PRICE,
        asset="USD",
        pay_to=pay_to,
        binding=Binding(method="GET", url=URL, body_sha256=NOTHING),
        timeout_s=60,
    )
    return replace(asked, **changes)


@dataclass(kw_only=True)
class PaymentsRig:
    """
    Everything a test of payments needs.
    """

    books: Books
    payments: Payments = field(init=False)
    identity: Identity
    mandates: FakeMandates
    brake: FakeBrake
    clock: FakeClock
    keys: ReceiptKeys
    organisation: Party
    agent: Party
    wallet: PayingWallet
    mandate_id: UUID
    shop: Party  # a buyer's organisation that is paid in cash
    supplier: Party  # is paid in a payable
    damaged: bool = False  # the books were broken on purpose

    async def account(self, party_id: UUID, purpose: str, asset: str = "USD") -> AccountBalance:
        """
        Return one account of a party.
        """
        balances = await self.books.ledger.balances(party_id)
        return next(b for b in balances if (b.purpose, b.asset) == (purpose, asset))

    async def cash(self, party: Party) -> tuple[int, int]:
        """
        Return (available, posted balance) of a party's money.
        """
        account = await self.account(party.party_id, "cash")
        return account.available, account.balance

    async def limit(self, asset: str, quanta: int, window: str = "day") -> None:
        """
        Put a limit on the mandate.
        """
        await self.books.ledger.set_limit(
            scope_id=self.mandate_id,
            asset=ASSETS[asset],
            quanta=quanta,
            window=window,
            actor="test",
        )

    async def limits(self) -> dict[str, tuple[int, int]]:
        """
        Return (remaining, held) of the mandate's limits by asset.
        """
        views = await self.books.ledger.limits([self.mandate_id])
        return {view.asset: (view.remaining, view.held) for view in views}

    async def another_process(self, writer: Writer) -> Payments:
        """
        Return the service as another process has it, over its own writer: nothing remembered.
        """
        ledger = Ledger(writer, self.books.pool, clock=self.clock, ids=self.books.ids)
        return await make_payments(self, ledger)


async def make_payments(rig: PaymentsRig, ledger: Ledger) -> Payments:
    """
    Return a service that remembers nothing.
    """
    signer = await rig.keys.ensure_lane_key(ledger.lane)
    return Payments(
        pool=rig.books.pool,
        ledger=ledger,
        mandates=rig.mandates,
        brake=rig.brake,
        parties=rig.identity,
        receipts=ReceiptIssuer(rig.keys, b"s" * 32),
        clock=rig.clock,
        ids=rig.books.ids,
        network=NETWORK,
        attesting=Attesting(signer, rig.keys.jwks, network=NETWORK, clock=rig.clock),
        claim_key=b"c" * 32,
    )


@asynccontextmanager
async def open_payments(
    dsn: str, clock: FakeClock, ids: IdentifierSource
) -> AsyncGenerator[PaymentsRig]:
    """
    Open a small business that pays, as the posting role.
    """
    await fake_time(dsn)
    posting = conninfo.make_conninfo(dsn, user="tokenworks_posting")
    pool = await open_pool(posting, name="payments", size_max=4)
    writer = Writer(posting, clock=clock, holder="test", rider="hub")
    await writer.start()
    ledger = Ledger(writer, pool, clock=clock, ids=ids)
    await ledger.prepare()
    books = Books(dsn=dsn, clock=clock, ids=ids, pool=pool, writer=writer, ledger=ledger)
    identity = Identity(pool, clock, ids)
    keys = ReceiptKeys(pool, OpenBox(), clock)
    mandates, brake = FakeMandates(ledger), FakeBrake(clock)
    organisation = await _organisation(identity, ledger, "acme")
    agent = await identity.add_party(
        "acme-agent", kind=PartyKind.BUYER, level=Level.AGENT, parent="acme"
    )
    shop = await _organisation(identity, ledger, "shop")
    supplier = await identity.add_party("factory", kind=PartyKind.SUPPLIER)
    await ledger.open_party(supplier.party_id, "supplier")
    await books.deposit(organisation.party_id, 1_000_000)
    wallet = PayingWallet(clock, ids)
    mandate_id = ids.mint()
    await mandates.allow(
        wallet.address,
        mandate_id=mandate_id,
        agent_id=agent.party_id,
        organisation_id=organisation.party_id,
        now=clock.now(),
    )
    await PaymentStore(pool).ensure_partitions()
    try:
        rig = PaymentsRig(
            books=books,
            identity=identity,
            mandates=mandates,
            brake=brake,
            clock=clock,
            keys=keys,
            organisation=organisation,
            agent=agent,
            wallet=wallet,
            mandate_id=mandate_id,
            shop=shop,
            supplier=supplier,
        )
        rig.payments = await make_payments(rig, ledger)
        yield rig
        if not rig.damaged:
            await books.assert_clean()
    finally:
        await writer.close()
        await pool.close()


async def _organisation(identity: Identity, ledger: Ledger, name: str) -> Party:
    party = await identity.add_party(name, kind=PartyKind.BUYER)
    await ledger.open_party(party.party_id, "buyer")
    return party
