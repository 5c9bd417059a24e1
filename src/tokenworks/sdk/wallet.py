"""
A wallet: an Ed25519 key that signs what its agent pays and asks.

The formats are those of docs/internals/agents.md. The key's file is a private JWK (RFC 8037),
readable by its owner alone; JavaScript's ``crypto`` reads the same file.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tokenworks.sdk.errors import WalletFileError
from tokenworks.sdk.model import Binding, Requirements
from tokenworks.sdk.signing import (
    MANDATE_TYPE,
    PAYMENT_TYPE,
    REQUEST_TYPE,
    body_sha256,
    from_base64url,
    make_uuid7,
    sign_compact,
    to_base64url,
)

LIFETIME_S_MAX: Final = 3_600
"""The longest time an authorisation may live."""
REQUEST_LIFETIME_S: Final = 60
_SEED_BYTES: Final = 32


class Wallet:
    """
    Sign for one agent; safe to use from several threads.

    Args:
        key: The private key.
        now_s: Unix seconds; the machine's clock when omitted.
        random_bytes: Unpredictable bytes for nonces.
    """

    def __init__(
        self,
        key: Ed25519PrivateKey,
        *,
        now_s: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._key = key
        self._now_s = now_s
        self._random_bytes = random_bytes
        self.address: Final = to_base64url(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"Wallet({self.address})"

    # ------------------------------------------------------------------ keys

    @classmethod
    def generate(cls) -> Self:
        """
        Make a new key.
        """
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """
        Return the wallet of 32 secret bytes.
        """
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """
        Read a wallet's file.

        Raises:
            WalletFileError: It is missing, malformed, or others may read it.
        """
        path = Path(path)
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                message = f"{path} can be read by others (mode {mode:04o}); make it 0600."
                raise WalletFileError(message)
            jwk = json.loads(path.read_text(encoding="utf-8"))
            if (jwk["kty"], jwk["crv"]) != ("OKP", "Ed25519"):
                message = f"{path} holds another kind of key than Ed25519."
                raise WalletFileError(message)
            seed = from_base64url(jwk["d"])
            wallet = cls.from_seed(seed)
        except OSError as error:
            message = f"{path} cannot be read: {error.strerror}."
            raise WalletFileError(message) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{path} is no private JWK."
            raise WalletFileError(message) from error
        if jwk.get("x") != wallet.address:
            message = f"{path}: its public key does not belong to its private key."
            raise WalletFileError(message)
        return wallet

    def save(self, path: str | Path) -> None:
        """
        Write the key into a new file with mode 0600; an existing one is never replaced.

        Raises:
            WalletFileError: The file exists or cannot be written.
        """
        document = {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": self.address,
            "d": to_base64url(self._key.private_bytes_raw()),
        }
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps(document) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            message = f"{path} cannot be written: {error.strerror}."
            raise WalletFileError(message) from error

    @property
    def jwk(self) -> dict[str, str]:
        """
        Return the public key as a JWK.
        """
        return {"kty": "OKP", "crv": "Ed25519", "x": self.address}

    # ------------------------------------------------------------------ signing

    def mint_nonce(self) -> UUID:
        """
        Return a new UUIDv7.
        """
        return make_uuid7(self._now_s(), self._random_bytes(10))

    def authorise(
        self,
        requirements: Requirements,
        binding: Binding,
        *,
        nonce: UUID | None = None,
        mandate: str | UUID | None = None,
        reference: str | None = None,
        lifetime_s: int | None = None,
    ) -> str:
        """
        Sign a payment for one request.

        Args:
            requirements: The way to pay that is accepted.
            binding: The request that is paid for.
            nonce: Names the payment; a new one when omitted.
            mandate: Which mandate pays; the wallet's only one when omitted.
            reference: For mandates that ask for it.
            lifetime_s: How long it may be used; as long as the seller asks when omitted.
        """
        issued_at = int(self._now_s())
        lifetime_s = min(lifetime_s or requirements.max_timeout_s, LIFETIME_S_MAX)
        claims: dict[str, object] = {
            "iss": self.address,
            "aud": requirements.network,
            "jti": str(nonce or self.mint_nonce()),
            "iat": issued_at,
            "exp": issued_at + max(1, lifetime_s),
            "scheme": requirements.scheme,
            "amount": str(requirements.amount),
            "asset": requirements.asset,
            "pay_to": requirements.pay_to,
            "method": binding.method,
            "url": binding.url,
            "body_sha256": binding.body_sha256,
        }
        if mandate is not None:
            claims["mandate"] = str(mandate)
        if reference is not None:
            claims["reference"] = reference
        return sign_compact(self._key, claims, address=self.address, jws_type=PAYMENT_TYPE)

    def sign_request(self, method: str, url: str, body: bytes, *, network: str) -> str:
        """
        Return the header ``x-tokenworks-wallet`` of a request to the hub API.
        """
        issued_at = int(self._now_s())
        claims = {
            "iss": self.address,
            "aud": network,
            "jti": str(self.mint_nonce()),
            "iat": issued_at,
            "exp": issued_at + REQUEST_LIFETIME_S,
            "htm": method.upper(),
            "htu": url,
            "body_sha256": body_sha256(body),
        }
        return sign_compact(self._key, claims, address=self.address, jws_type=REQUEST_TYPE)

    def sign_mandate(self, claims: Mapping[str, object]) -> str:
        """
        Sign a delegation: a mandate below one of this wallet's own.
        """
        return sign_compact(self._key, claims, address=self.address, jws_type=MANDATE_TYPE)
