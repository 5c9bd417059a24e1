"""
Sign on a hub's own network: one compact JWS by the wallet (docs/internals/agents.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tokenworks.conformance.model import JsonObject
from tokenworks.conformance.rails import (
    Sale,
    Secret,
    Times,
    Wallet,
    from_base64url,
    sha256_text,
    to_base64url,
)

PAYMENT_TYPE: Final = "tokenworks-payment+jwt"
DECIMALS: Final = 9


class HubRail:
    """
    The rail of networks ``hub:..``.

    Args:
        mint: Gives each authorisation's nonce, a UUIDv7.
    """

    def __init__(self, mint: Callable[[], UUID]) -> None:
        self._mint = mint

    @property
    def family(self) -> str:
        """
        The first part of its networks' names.
        """
        return "hub"

    def requirements(self, sale: Sale) -> JsonObject:
        """
        Return what the seller sends, bound to method, URL and body.
        """
        binding = {"method": sale.method, "url": sale.url, "bodySha256": sha256_text(sale.body)}
        named = {"name": sale.asset, "decimals": DECIMALS, "binding": binding}
        return {
            "scheme": sale.scheme,
            "network": sale.network,
            "asset": sale.asset,
            "amount": sale.amount,
            "payTo": sale.pay_to,
            "maxTimeoutSeconds": sale.timeout_s,
            "extra": {**named, **sale.extra},
        }

    def sign(self, wallet: Wallet, sale: Sale, times: Times) -> JsonObject:
        """
        Return a new authorisation.
        """
        return {"authorization": self._jws(wallet, wallet.secret, sale, times)}

    def forge(self, wallet: Wallet, sale: Sale, times: Times) -> JsonObject:
        """
        Return an authorisation in a wallet's name, signed by another key.
        """
        stranger = Ed25519PrivateKey.generate().private_bytes_raw()
        return {"authorization": self._jws(wallet, stranger, sale, times)}

    def alter(self, signed: JsonObject, *, amount: str) -> JsonObject:
        """
        Return an authorisation whose amount was changed after it was signed.
        """
        head, claims, signature = str(signed["authorization"]).split(".")
        changed = json.loads(from_base64url(claims)) | {"amount": amount}
        return {"authorization": f"{head}.{_part(changed)}.{signature}"}

    def strip(self, signed: JsonObject) -> JsonObject:
        """
        Return an authorisation that says it needs no signature.
        """
        head, claims, _ = str(signed["authorization"]).split(".")
        bare = json.loads(from_base64url(head)) | {"alg": "none"}
        return {"authorization": f"{_part(bare)}.{claims}."}

    def _jws(self, wallet: Wallet, secret: Secret, sale: Sale, times: Times) -> str:
        claims: JsonObject = {
            "iss": wallet.address,
            "aud": sale.network,
            "jti": str(self._mint()),
            "iat": times.since_s,
            "exp": times.until_s,
            "scheme": sale.scheme,
            "amount": sale.amount,
            "asset": sale.asset,
            "pay_to": sale.pay_to,
            "method": sale.method,
            "url": sale.url,
            "body_sha256": sha256_text(sale.body),
        }
        if wallet.mandate is not None:
            claims["mandate"] = wallet.mandate
        return sign_jws(secret, claims, address=wallet.address, jws_type=PAYMENT_TYPE)


def sign_jws(secret: Secret, claims: JsonObject, *, address: str, jws_type: str) -> str:
    """
    Return a compact JWS (EdDSA, RFC 8037).
    """
    header: JsonObject = {"alg": "EdDSA", "kid": address, "typ": jws_type}
    signed = f"{_part(header)}.{_part(claims)}"
    signature = Ed25519PrivateKey.from_private_bytes(secret).sign(signed.encode())
    return f"{signed}.{to_base64url(signature)}"


def hub_wallet(secret: Secret, *, mandate: str | None = None) -> Wallet:
    """
    Return the wallet of 32 secret bytes.
    """
    public = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    return Wallet(address=to_base64url(public), secret=secret, mandate=mandate)


def _part(document: JsonObject) -> str:
    return to_base64url(json.dumps(document, separators=(",", ":")).encode())
