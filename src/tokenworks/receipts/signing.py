"""
Sign a receipt once its place in the chain is durable.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tokenworks.receipts.jws import (
    RECEIPT_TYPE,
    STATEMENT_TYPE,
    JwsType,
    header_part,
    issuer_of,
    sign_compact,
    thumbprint,
    to_base64url,
    to_jwk,
)
from tokenworks.receipts.model import (
    DIGEST_ALGORITHM,
    LINK_BYTES,
    ChainPosition,
    Draft,
    ReceiptPayload,
)

_encode = msgspec.json.Encoder().encode


class LaneSigner:
    """
    Signs the receipts of one lane.

    Ed25519 is deterministic: the same draft, position and time give the same bytes, so a
    receipt is signed again on demand instead of being stored.

    Args:
        private_key: The lane's key.
        lane: The only lane whose positions it signs.
        root_kid: The root key that certified it.
        certificate: The root's statement about it, to travel with a receipt.
    """

    def __init__(
        self, private_key: Ed25519PrivateKey, *, lane: int, root_kid: str, certificate: str
    ) -> None:
        self._private_key: Final = private_key
        self.lane: Final = lane
        self.kid: Final = thumbprint(to_jwk(private_key.public_key()))
        self.certificate: Final = certificate
        self._issuer: Final = issuer_of(root_kid)
        self._header: Final = header_part(kid=self.kid, jws_type=RECEIPT_TYPE)

    def sign(self, draft: Draft, position: ChainPosition, ledger_time: datetime) -> str:
        """
        Return the receipt's compact JWS; call it only after the ledger's commit.
        """
        assert position.lane == self.lane, "a lane's key signs only for its lane"
        assert len(position.previous) == LINK_BYTES, "a link is 32 bytes"
        assert ledger_time.tzinfo is not None, "time carries its zone"
        payload = ReceiptPayload(
            issuer=self._issuer,
            issued_at_s=int(ledger_time.timestamp()),
            call_id=draft.call_id,
            lane=position.lane,
            sequence=position.sequence,
            previous=to_base64url(position.previous),
            root=to_base64url(draft.root),
            digest_algorithm=DIGEST_ALGORITHM,
            digests=draft.digests,
        )
        return sign_compact(self._private_key, self._header, _encode(payload))

    @property
    def issuer(self) -> str:
        """
        Return the hub's name: its root key's thumbprint as a URI.
        """
        return self._issuer

    def sign_statement(self, payload: bytes, *, jws_type: JwsType = STATEMENT_TYPE) -> str:
        """
        Return the compact JWS of another statement of this lane's writer, e.g. a checkpoint.
        """
        header = header_part(kid=self.kid, jws_type=jws_type)
        return sign_compact(self._private_key, header, payload)
