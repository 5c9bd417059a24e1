"""
A statement is good only when a certified lane's key signed exactly these bytes.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tokenworks.receipts.certificates import issue_certificate
from tokenworks.receipts.jws import thumbprint, to_jwk
from tokenworks.receipts.signing import LaneSigner
from tokenworks.receipts.statements import is_statement_good
from tokenworks.receipts.trust import TrustedKeys

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def _hub() -> tuple[LaneSigner, TrustedKeys]:
    root, key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    certificate = issue_certificate(root, key.public_key(), lane=1, valid_from=NOW, retired_at=None)
    root_jwk, lane_jwk = to_jwk(root.public_key()), to_jwk(key.public_key())
    keys = [
        {"kty": "OKP", "crv": "Ed25519", "x": root_jwk.x, "kind": "root"},
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": lane_jwk.x,
            "kind": "lane",
            "certificate": certificate,
        },
    ]
    signer = LaneSigner(key, lane=1, root_kid=thumbprint(root_jwk), certificate=certificate)
    return signer, TrustedKeys.from_json(json.dumps({"keys": keys}))


def test_statement_of_a_certified_lane_is_good() -> None:
    """
    Other bytes, other hubs' keys and what is no signature are not.
    """
    signer, keys = _hub()
    _, strangers = _hub()
    signature = signer.sign_statement(b"heads")
    assert is_statement_good(b"heads", signature, keys)
    assert not is_statement_good(b"other heads", signature, keys)
    assert not is_statement_good(b"heads", signature, strangers)
    assert not is_statement_good(b"heads", "no signature", keys)
