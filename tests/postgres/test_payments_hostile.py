"""
What a hostile wallet signs: texts the books cannot hold, and headers that would fill memory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.postgres.payments_rig import NOTHING, PRICE, PaymentsRig, open_payments, requirements
from tests.postgres.test_payments import code_of
from tokenworks.agents.payments.model import Binding, Receipted
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.receipts.jws import to_base64url


@pytest.fixture
async def rig(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[PaymentsRig]:
    """
    A business that pays; the books are checked when the test is over.
    """
    async with open_payments(dsn, clock, ids) as rig:
        yield rig


URLS = {
    "nothing the database can hold": "https://seller.example/\0",
    "a terminal's command": "https://seller.example/\x1b[2Jpaid",
    "a separator of the books": "https://seller.example/\x1e",
    "a second line": "https://seller.example/a\nGET https://other.example/",
    "text that runs backwards": "https://seller.example/\u202egpj.exe",
    "a letter that looks like another": "https://seller.ex\u0430mple/",
    "a space": "https://seller.example/a b",
}


async def test_an_address_that_is_no_address_is_refused_and_harms_nobody(rig: PaymentsRig) -> None:
    """
    Neither the books nor the person who is asked ever see it; who settles beside it is paid.
    """
    hostile = [
        rig.payments.settle(
            rig.wallet.pay(rig.shop.party_id, url=url),
            requirements(
                rig.shop.party_id, binding=Binding(method="GET", url=url, body_sha256=NOTHING)
            ),
        )
        for url in URLS.values()
    ]
    honest = [
        rig.payments.settle(rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id))
        for _ in range(3)
    ]

    results = await asyncio.gather(*hostile, *honest, return_exceptions=True)

    codes = [r.code for r in results if isinstance(r, TokenworksError)]
    assert codes == ["authorisation_malformed"] * len(URLS)
    paid = [r.captured_quanta for r in results if isinstance(r, Receipted)]
    assert paid == [PRICE] * 3


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "\u202e"])
async def test_a_reference_is_a_line_of_text(rig: PaymentsRig, text: str) -> None:
    """
    Whatever stands in it is compared, and may be shown.
    """
    jws = rig.wallet.pay(rig.shop.party_id, reference=text)

    code = await code_of(rig.payments.claim(jws, requirements(rig.shop.party_id)))

    assert code == "authorisation_malformed"


async def test_a_long_header_is_not_remembered_for_a_stranger(rig: PaymentsRig) -> None:
    """
    White space is allowed in JSON: thousands of strangers' headers of 8 KB would stay in memory.
    """
    key = Ed25519PrivateKey.generate()
    address = to_base64url(key.public_key().public_bytes_raw())
    header = {"alg": "EdDSA", "kid": address, "typ": "tokenworks-payment+jwt"}
    padded = json.dumps(header).replace(" ", " " * 500)
    claims = json.dumps(rig.wallet.claims(rig.shop.party_id, iss=address))
    signed = f"{to_base64url(padded.encode())}.{to_base64url(claims.encode())}"
    jws = f"{signed}.{to_base64url(key.sign(signed.encode()))}"

    code = await code_of(rig.payments.claim(jws, requirements(rig.shop.party_id)))

    assert code == "authorisation_malformed"
