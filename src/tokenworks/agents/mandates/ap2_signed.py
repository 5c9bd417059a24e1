"""
Read an AP2 mandate as it was signed: an SD-JWT (RFC 9901) by its issuer's key.

AP2 v0.2 signs an open mandate as a JWS with selectively disclosed claims,
``<JWS>~<disclosure>~...~``. Here everything has to be disclosed: a claim that nobody shows may be
a narrowing that nobody would obey, and a digest without its disclosure cannot be told from one.
Algorithms: ES256 and EdDSA with Ed25519, whichever the issuer's key is for; none else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, TypeAlias, cast

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from tokenworks.agents.mandates.errors import Ap2RefusedError
from tokenworks.foundation.errors import InvalidError
from tokenworks.receipts.errors import JwsMalformedError
from tokenworks.receipts.jws import from_base64url, to_base64url

SIGNED_CHARACTERS_MAX: Final = 256 * 1024
DISCLOSURES_MAX: Final = 1_000
DEPTH_MAX: Final = 16
_HALF: Final = 32
"""Bytes of each of the two numbers of a signature or a point on P-256."""

Claims: TypeAlias = "dict[str, Any]"


def read_signed_ap2(text: str, *, issuer_key: Mapping[str, object] | None) -> Claims:
    """
    Return the claims of a signed mandate, all disclosed.

    Args:
        text: The SD-JWT, or a JWS without disclosures.
        issuer_key: The public key (JWK) that must have signed it; ``None``: nobody checks.

    Raises:
        Ap2RefusedError: Malformed, of another key, or not disclosed whole.
    """
    if len(text) > SIGNED_CHARACTERS_MAX:
        raise _refused(f"A signed AP2 mandate has at most {SIGNED_CHARACTERS_MAX} characters.")
    jws, *disclosures = text.strip().split("~")
    if disclosures and disclosures.pop():
        message = "The mandate comes with a key binding; import it as its issuer signed it."
        raise _refused(message)
    if len(disclosures) > DISCLOSURES_MAX:
        raise _refused(f"A mandate has at most {DISCLOSURES_MAX} disclosures.")
    parts = jws.split(".")
    if len(parts) != 3:
        raise _refused("The mandate is no JWS of three parts.")
    header, payload = _object(parts[0], "header"), _object(parts[1], "payload")
    if issuer_key is not None:
        _check_signature(header, issuer_key, f"{parts[0]}.{parts[1]}".encode(), _bytes(parts[2]))
    if payload.get("_sd_alg", "sha-256") != "sha-256":
        raise _refused("Disclosures are hashed by sha-256 here.")
    disclosed = _Disclosed(disclosures)
    claims = disclosed.whole(payload)
    disclosed.check_used()
    return claims


def jwk_thumbprint(jwk: Mapping[str, object]) -> str:
    """
    Return the name of a public key by its content (RFC 7638).
    """
    members = {name: jwk[name] for name in sorted(("crv", "kty", "x", "y")) if name in jwk}
    return to_base64url(hashlib.sha256(msgspec.json.encode(members)).digest())


class _Disclosed:
    """
    The disclosures of a mandate by their digests; each stands in one place.
    """

    def __init__(self, texts: list[str]) -> None:
        self._by_digest = {
            to_base64url(hashlib.sha256(text.encode()).digest()): text for text in texts
        }
        if len(self._by_digest) != len(texts):
            raise _refused("A disclosure stands there twice.")

    def check_used(self) -> None:
        """
        Refuse what nobody signed.
        """
        if self._by_digest:
            raise _refused("A disclosure belongs to no claim that was signed.")

    def whole(self, claims: Claims, depth: int = 0) -> Claims:
        """
        Return an object with its disclosed claims in place.
        """
        if depth > DEPTH_MAX:
            raise _refused(f"Claims are nested at most {DEPTH_MAX} deep.")
        found = {
            name: self._value(value, depth)
            for name, value in claims.items()
            if name not in {"_sd", "_sd_alg"}
        }
        digests: Any = claims.get("_sd", [])
        if not isinstance(digests, list):
            raise _refused("_sd is a list of digests.")
        for digest in cast("list[object]", digests):
            _, name, value = self._take(digest, 3)
            if not isinstance(name, str) or name in {"_sd", "..."} or name in found:
                raise _refused("A disclosure names no claim, or one that is there.")
            found[name] = self._value(value, depth)
        return found

    def _value(self, value: Any, depth: int) -> Any:  # noqa: ANN401 - decoded JSON
        if isinstance(value, dict):
            return self.whole(cast("Claims", value), depth + 1)
        if isinstance(value, list):
            return [self._entry(entry, depth) for entry in cast("list[Any]", value)]
        return value

    def _entry(self, entry: Any, depth: int) -> Any:  # noqa: ANN401 - decoded JSON
        if isinstance(entry, dict) and set(cast("Claims", entry)) == {"..."}:
            _, entry = self._take(cast("Claims", entry)["..."], 2)
        return self._value(entry, depth + 1)

    def _take(self, digest: object, size: int) -> list[Any]:
        text = self._by_digest.pop(digest, None) if isinstance(digest, str) else None
        if text is None:
            raise _refused("The mandate has claims that are not disclosed; disclose them all.")
        content = _json(text, "disclosure")
        if not isinstance(content, list) or len(cast("list[Any]", content)) != size:
            raise _refused("A disclosure is not what its place asks for.")
        return cast("list[Any]", content)


def _check_signature(
    header: Claims, jwk: Mapping[str, object], signed: bytes, signature: bytes
) -> None:
    if "crit" in header:
        raise _refused("The header asks for an extension (crit) that is not known here.")
    kind = (jwk.get("kty"), jwk.get("crv"))
    algorithm = {("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}.get(
        cast("tuple[str, str]", kind)
    )
    if algorithm is None:
        message = "The issuer's key is a JWK of P-256 or Ed25519."
        raise _refused(message, param="issuer_key")
    if header.get("alg") != algorithm:
        raise _refused(f"The issuer's key signs {algorithm}, the mandate says another algorithm.")
    try:
        if algorithm == "EdDSA":
            Ed25519PublicKey.from_public_bytes(_bytes(jwk.get("x"))).verify(signature, signed)
            return
        point = b"\x04" + _bytes(jwk.get("x")) + _bytes(jwk.get("y"))
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        if len(signature) != 2 * _HALF:
            raise InvalidSignature
        r, s = signature[:_HALF], signature[_HALF:]
        der = encode_dss_signature(int.from_bytes(r), int.from_bytes(s))
        key.verify(der, signed, ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        message = "The mandate is not signed by the issuer's key, or was altered."
        raise _refused(message, param="issuer_key") from error
    except ValueError as error:
        raise _refused("The issuer's key is no point of its curve.", param="issuer_key") from error


def _object(text: str, what: str) -> Claims:
    content = _json(text, what)
    if not isinstance(content, dict):
        raise _refused(f"The {what} is no JSON object.")
    return cast("Claims", content)


def _json(text: str, what: str) -> object:
    try:
        return msgspec.json.decode(_bytes(text))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refused(f"The {what} is no JSON.") from error


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise _refused("A part that is text is missing.")
    try:
        return from_base64url(text)
    except JwsMalformedError as error:
        raise _refused("A part is not base64url.") from error


def _refused(message: str, *, param: str | None = None) -> InvalidError:
    return Ap2RefusedError(message, param=param)
