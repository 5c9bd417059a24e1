"""
What a verifier signs, and whether it may be believed; pure.

A compact JWS (Ed25519), header ``{"alg":"EdDSA","kid":<public key>,"typ":..}``, claims:

==================  ===========================================================
``iss``             the verifier's public key, base64url; the same as ``kid``
``escrow``          the escrow's id
``milestone``       the milestone's name
``result_sha256``   of the canonical result, hexadecimal
``iat``             seconds; at most ``SKEW_S_MAX`` ahead
``claims``          a JSON object: what the condition reads as ``result.attested.<name>``
==================  ===========================================================

So a signature is good for one result of one milestone of one escrow. Order of the checks:
``malformed``, ``unknown_verifier``, ``forged``, ``wrong_escrow``, ``wrong_milestone``,
``altered_result``, ``from_the_future``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from tokenworks.agents.escrow.errors import ResultInvalidError
from tokenworks.agents.escrow.model import Attestation, JsonObject
from tokenworks.agents.escrow.result import read_strictly, sha256_hex
from tokenworks.receipts.errors import JwsMalformedError
from tokenworks.receipts.jws import from_base64url, to_base64url

ATTESTATION_TYPE: Final = "tokenworks-attestation+jwt"
ATTESTATION_BYTES_MAX: Final = 16 * 1024
SKEW_S_MAX: Final = 60
PUBLIC_KEY_CHARACTERS: Final = 43


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: Literal["EdDSA"]
    kid: str
    typ: Literal["tokenworks-attestation+jwt"]


class _Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    iss: str
    escrow: UUID
    milestone: str
    result_sha256: str
    iat: int
    claims: dict[str, Any]


def sign_attestation(
    key: Ed25519PrivateKey,
    *,
    escrow_id: UUID,
    milestone: str,
    result_sha256: str,
    claims: JsonObject,
    now: datetime,
) -> str:
    """
    Return what a verifier hands out.
    """
    address = to_base64url(key.public_key().public_bytes_raw())
    header = msgspec.json.encode(_Header(alg="EdDSA", kid=address, typ=ATTESTATION_TYPE))
    payload = msgspec.json.encode(
        _Statement(
            iss=address,
            escrow=escrow_id,
            milestone=milestone,
            result_sha256=result_sha256,
            iat=int(now.timestamp()),
            claims=dict(claims),
        )
    )
    signed = f"{to_base64url(header)}.{to_base64url(payload)}"
    return f"{signed}.{to_base64url(key.sign(signed.encode()))}"


def judge_attestation(
    jws: str,
    *,
    escrow_id: UUID,
    milestone: str,
    result_sha256: str,
    verifiers: Mapping[str, str],
    now: datetime,
) -> Attestation:
    """
    Return a statement with the reason why it does not count, if there is one.
    """
    content = jws[:ATTESTATION_BYTES_MAX]
    sha256 = sha256_hex(jws.encode())
    try:
        header, statement, signed, signature = _take_apart(jws)
    except (JwsMalformedError, msgspec.DecodeError, ResultInvalidError):
        return Attestation(
            verifier=None,
            jws=content,
            sha256=sha256,
            issued_at_s=0,
            claims={},
            refusal="malformed",
        )
    names = [name for name, address in verifiers.items() if address == statement.iss]
    refusal: str | None = None
    if not names or header.kid != statement.iss:
        refusal = "unknown_verifier"
    elif not _is_signed(statement.iss, signed, signature):
        refusal = "forged"
    elif statement.escrow != escrow_id:
        refusal = "wrong_escrow"
    elif statement.milestone != milestone:
        refusal = "wrong_milestone"
    elif statement.result_sha256 != result_sha256:
        refusal = "altered_result"
    elif statement.iat > now.timestamp() + SKEW_S_MAX:
        refusal = "from_the_future"
    return Attestation(
        verifier=names[0] if names else None,
        jws=content,
        sha256=sha256,
        issued_at_s=statement.iat,
        claims=statement.claims,
        refusal=refusal,
    )


def attested_claims(attestations: Sequence[Attestation]) -> dict[str, JsonObject]:
    """
    Return what counts, by verifier: of several statements of one the youngest, then the last.
    """
    counted: dict[str, Attestation] = {}
    for attestation in attestations:
        if attestation.refusal is not None or attestation.verifier is None:
            continue
        known = counted.get(attestation.verifier)
        if known is None or attestation.issued_at_s >= known.issued_at_s:
            counted[attestation.verifier] = attestation
    return {name: attestation.claims for name, attestation in counted.items()}


def is_public_key(text: str) -> bool:
    """
    Return whether a text is an Ed25519 public key in base64url.
    """
    if len(text) != PUBLIC_KEY_CHARACTERS:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(from_base64url(text))
    except (JwsMalformedError, ValueError):
        return False
    return True


def _take_apart(jws: str) -> tuple[_Header, _Statement, bytes, bytes]:
    parts = jws.split(".")
    if len(parts) != 3 or len(jws) > ATTESTATION_BYTES_MAX or not jws.isascii():
        raise JwsMalformedError("A compact JWS has three parts.")
    payload = from_base64url(parts[1])
    # The same bytes must mean the same to everybody: no name twice, no number that is none.
    read_strictly(payload)
    header = msgspec.json.decode(from_base64url(parts[0]), type=_Header)
    statement = msgspec.json.decode(payload, type=_Statement)
    return header, statement, f"{parts[0]}.{parts[1]}".encode(), from_base64url(parts[2])


def _is_signed(address: str, signed: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(from_base64url(address)).verify(signature, signed)
    except (InvalidSignature, JwsMalformedError, ValueError):
        return False
    return True
