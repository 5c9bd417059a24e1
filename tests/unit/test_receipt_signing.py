"""
JWS, certificates and signatures.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.unit.receipt_samples import (
    LANE,
    LANE_KEY,
    NOW,
    ROOT_KEY,
    STRANGER_KEY,
    position,
    sample_draft,
    signer_of,
)
from tokenworks.receipts.certificates import LEEWAY_S, issue_certificate, read_certificate
from tokenworks.receipts.errors import CertificateInvalidError, JwsMalformedError
from tokenworks.receipts.jws import (
    RECEIPT_TYPE,
    Jwk,
    from_base64url,
    header_part,
    read_compact,
    sign_compact,
    thumbprint,
    to_base64url,
    to_jwk,
)

RFC_8037_PRIVATE = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
RFC_8037_PUBLIC = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
ROOTS = {thumbprint(to_jwk(ROOT_KEY.public_key())): ROOT_KEY.public_key()}


def test_key_and_thumbprint_match_rfc_8037() -> None:
    """
    RFC 8037 A.2 and A.3: the public key and its RFC 7638 thumbprint.
    """
    private = Ed25519PrivateKey.from_private_bytes(urlsafe_b64decode(RFC_8037_PRIVATE + "="))
    jwk = to_jwk(private.public_key())
    assert jwk == Jwk(crv="Ed25519", kty="OKP", x=RFC_8037_PUBLIC)
    assert thumbprint(jwk) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_signature_matches_rfc_8037() -> None:
    """
    RFC 8037 A.4: the compact JWS of a known header, payload and key.
    """
    private = Ed25519PrivateKey.from_private_bytes(urlsafe_b64decode(RFC_8037_PRIVATE + "="))
    compact = sign_compact(private, b"eyJhbGciOiJFZERTQSJ9.", b"Example of Ed25519 signing")
    assert compact == (
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )


def test_receipt_is_signed_again_byte_for_byte() -> None:
    """
    Nothing signed is stored: the same draft, position and time give the same JWS.
    """
    first = signer_of().sign(sample_draft(), position(4, b"p" * 32), NOW)
    later = NOW.replace(microsecond=0)  # the signed time has whole seconds
    assert signer_of().sign(sample_draft(), position(4, b"p" * 32), later) == first


def test_signed_payload_has_the_documented_members() -> None:
    """
    The format other programs read (docs/receipts.md).
    """
    signer = signer_of()
    content = sample_draft()
    header, payload, _ = signer.sign(content, position(4, b"p" * 32), NOW).split(".")
    assert json.loads(from_base64url(header)) == {
        "alg": "EdDSA",
        "kid": signer.kid,
        "typ": "tokenworks-receipt+sd-jwt",
    }
    assert json.loads(from_base64url(payload)) == {
        "iss": f"urn:ietf:params:oauth:jwk-thumbprint:sha-256:{next(iter(ROOTS))}",
        "iat": int(NOW.timestamp()),
        "call_id": str(content.call_id),
        "lane": LANE,
        "seq": 4,
        "prev": to_base64url(b"p" * 32),
        "root": to_base64url(content.root),
        "_sd_alg": "sha-256",
        "_sd": list(content.digests),
    }


def test_signer_refuses_a_position_of_another_lane() -> None:
    """
    A lane's key signs only for its own lane.
    """
    with pytest.raises(AssertionError):
        signer_of().sign(sample_draft(), position(lane=LANE + 1), NOW)


def test_signer_shows_no_private_key() -> None:
    """
    Neither text of the signer can leak the key into a log.
    """
    private = LANE_KEY.private_bytes_raw()
    shown = repr(signer_of()) + str(vars(signer_of()))
    assert private.hex() not in shown
    assert to_base64url(private) not in shown


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"alg": "none", "kid": "k", "typ": RECEIPT_TYPE}, "no signature"),
        ({"alg": "HS256", "kid": "k", "typ": RECEIPT_TYPE}, "the public key as a secret"),
        ({"alg": "EdDSA", "kid": "k"}, "no type"),
        ({"alg": "EdDSA", "kid": "k", "typ": "JWT"}, "another type"),
        ({"alg": "EdDSA", "kid": "k", "typ": "tokenworks-key+jwt"}, "a certificate"),
        ({"alg": "EdDSA", "kid": "k", "typ": RECEIPT_TYPE, "jwk": {}}, "a key of its own"),
        ({"alg": "EdDSA", "kid": "k", "typ": RECEIPT_TYPE, "crit": ["b64"]}, "an extension"),
        ({"alg": "EdDSA", "kid": 1, "typ": RECEIPT_TYPE}, "kid is no text"),
    ],
)
def test_jws_header_is_refused(header: dict[str, object], reason: str) -> None:
    """
    Only exactly our header is read (RFC 8725: one algorithm, explicit type).
    """
    part = to_base64url(json.dumps(header).encode())
    with pytest.raises(JwsMalformedError):
        read_compact(f"{part}.e30.{'A' * 86}", RECEIPT_TYPE)
    assert reason


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a.b", "a.b.c.d", "é.e30.AA", "e30.e30.AA", " . . "],
)
def test_jws_that_is_none_is_refused(text: str) -> None:
    """
    Whatever is not three base64url parts with our header is malformed, never a crash.
    """
    with pytest.raises(JwsMalformedError):
        read_compact(text, RECEIPT_TYPE)


def test_second_spelling_of_a_signature_is_refused() -> None:
    """
    86 base64url characters have four bits to spare; only zeros are accepted in them.
    """
    jws = signer_of().sign(sample_draft(), position(), NOW)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = jws[:-1] + alphabet[alphabet.index(jws[-1]) + 1]
    assert urlsafe_b64decode(twin[-86:] + "==") == urlsafe_b64decode(jws[-86:] + "==")
    with pytest.raises(JwsMalformedError):
        read_compact(twin, RECEIPT_TYPE)


def test_certificate_says_lane_key_and_time() -> None:
    """
    The root's statement is read back as it was made, with its leeway.
    """
    text = issue_certificate(
        ROOT_KEY, LANE_KEY.public_key(), lane=LANE, valid_from=NOW, retired_at=None
    )
    certificate = read_certificate(text, ROOTS)
    assert (certificate.lane, certificate.not_after) == (LANE, None)
    assert certificate.kid == thumbprint(to_jwk(LANE_KEY.public_key()))
    start = int(NOW.timestamp()) - LEEWAY_S
    assert certificate.is_valid_at(start)
    assert not certificate.is_valid_at(start - 1)


def test_certificate_of_a_retired_key_ends() -> None:
    """
    What was signed before the end stays valid; what is dated later is not.
    """
    text = issue_certificate(
        ROOT_KEY,
        LANE_KEY.public_key(),
        lane=LANE,
        valid_from=NOW,
        retired_at=NOW + timedelta(days=1),
    )
    certificate = read_certificate(text, ROOTS)
    end = int((NOW + timedelta(days=1)).timestamp()) + LEEWAY_S
    assert certificate.is_valid_at(end)
    assert not certificate.is_valid_at(end + 1)


def test_certificate_by_a_stranger_is_refused() -> None:
    """
    Only a trusted root certifies, even when the stranger claims the root's kid.
    """
    text = issue_certificate(
        STRANGER_KEY, LANE_KEY.public_key(), lane=LANE, valid_from=NOW, retired_at=None
    )
    with pytest.raises(CertificateInvalidError):
        read_certificate(text, ROOTS)
    claimed = header_part(kid=next(iter(ROOTS)), jws_type="tokenworks-key+jwt").decode()
    _, payload, signature = text.split(".")
    with pytest.raises(CertificateInvalidError):
        read_certificate(f"{claimed}{payload}.{signature}", ROOTS)


@pytest.mark.parametrize(
    "change",
    [
        {"kid": "another"},
        {"iss": "another"},
        {"jwk": {"crv": "Ed25519", "kty": "OKP", "x": "AA"}},
        {"jwk": {"crv": "X25519", "kty": "OKP", "x": RFC_8037_PUBLIC}},
        {"jwk": {"crv": "Ed25519", "kty": "OKP", "x": RFC_8037_PUBLIC}},
        {"lane": "3"},
        {"not_before": True},
        {"may_do": "anything"},
    ],
)
def test_certificate_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    """
    Even under the root's signature, a key is what its kid, issuer and type say.
    """
    text = signer_of().certificate
    header, payload, _ = text.split(".")
    content = {**json.loads(from_base64url(payload)), **change}
    signed = sign_compact(ROOT_KEY, f"{header}.".encode(), json.dumps(content).encode())
    with pytest.raises(CertificateInvalidError):
        read_certificate(signed, ROOTS)
