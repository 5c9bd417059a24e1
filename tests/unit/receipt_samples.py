"""
Receipts to test with: fixed keys, a lane, documents as a reader would have them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tokenworks.receipts.certificates import issue_certificate
from tokenworks.receipts.draft import draft
from tokenworks.receipts.jws import thumbprint, to_jwk
from tokenworks.receipts.model import ChainPosition, Draft, JsonValue, link_after
from tokenworks.receipts.signing import LaneSigner
from tokenworks.receipts.trust import TrustedKeys
from tokenworks.receipts.views import present, readers_of

NOW = datetime(2026, 3, 4, 5, 6, 7, 890000, tzinfo=UTC)
CALL_ID = UUID("019c0000-0000-7000-8000-000000000001")
SUPPLIER = UUID("019c0000-0000-7000-8000-00000000000a")
RIGHTS_HOLDER = UUID("019c0000-0000-7000-8000-00000000000b")
SALT_KEY = bytes(range(32))
GENESIS = bytes(32)
LANE = 3

ROOT_KEY = Ed25519PrivateKey.from_private_bytes(b"r" * 32)
LANE_KEY = Ed25519PrivateKey.from_private_bytes(b"l" * 32)
STRANGER_KEY = Ed25519PrivateKey.from_private_bytes(b"s" * 32)

FIELDS: dict[str, JsonValue] = {
    "model": "smollm2",
    "tier": "standard",
    "usage": {"input": 120, "cache_read": 20, "output": 256},
    "charge": "0.000858",
    "currency": "USD",
    "energy": {"status": "pending"},
    "attempt.1": {"supplier": str(SUPPLIER), "upstream_model": "m", "payable": "0.0004"},
    "leg.1": {"payee": str(SUPPLIER), "amount": "0.0004"},
    "leg.2": {"payee": str(RIGHTS_HOLDER), "amount": "0.00001"},
    "margin": "0.000448",
}

Document = dict[str, Any]


def signer_of(
    private: Ed25519PrivateKey = LANE_KEY,
    *,
    root: Ed25519PrivateKey = ROOT_KEY,
    lane: int = LANE,
    certified_lane: int | None = LANE,
    valid_from: datetime = NOW - timedelta(days=1),
    retired_at: datetime | None = None,
) -> LaneSigner:
    """
    Return a signer and its certificate; the defaults are all right.
    """
    certificate = issue_certificate(
        root,
        private.public_key(),
        lane=certified_lane,
        valid_from=valid_from,
        retired_at=retired_at,
    )
    root_kid = thumbprint(to_jwk(root.public_key()))
    return LaneSigner(private, lane=lane, root_kid=root_kid, certificate=certificate)


def sample_draft(
    fields: Mapping[str, JsonValue] = FIELDS,
    *,
    call_id: UUID = CALL_ID,
) -> Draft:
    """
    Return a draft under the fixed salt key.
    """
    return draft(call_id, fields, readers_of(fields), SALT_KEY)


def position(sequence: int = 0, previous: bytes = GENESIS, lane: int = LANE) -> ChainPosition:
    """
    Return a place in the chain.
    """
    return ChainPosition(lane=lane, sequence=sequence, previous=previous)


def to_document(
    content: Draft,
    view: str = "auditor",
    *,
    place: ChainPosition | None = None,
    signer: LaneSigner | None = None,
    at: datetime = NOW,
) -> Document:
    """
    Return a signed document after a round trip through JSON, as a reader has it.
    """
    signer = signer or signer_of()
    jws = signer.sign(content, place or position(), at)
    document = present(content, view, jws, certificate=signer.certificate)
    return json.loads(msgspec.json.encode(document))


def trusted_keys() -> TrustedKeys:
    """
    Return the fixed root as the only trusted key.
    """
    return TrustedKeys([to_jwk(ROOT_KEY.public_key())])


@dataclass
class Lane:
    """
    A lane that hands out positions as the ledger does.
    """

    sequence: int = 0
    previous: bytes = GENESIS

    def append(self, content: Draft, view: str = "auditor", *, at: datetime = NOW) -> Document:
        """
        Sign ``content`` at the next position.
        """
        place = position(self.sequence, self.previous)
        document = to_document(content, view, place=place, at=at)
        self.sequence += 1
        self.previous = link_after(self.previous, content.root)
        return document


def sample_lane(length: int) -> list[Document]:
    """
    Return consecutive receipts of one lane.
    """
    lane = Lane()
    return [
        lane.append(
            sample_draft({**FIELDS, "charge": f"0.{number + 1}"}, call_id=UUID(int=number)),
            at=NOW + timedelta(seconds=number),
        )
        for number in range(length)
    ]


def altered(document: Document) -> Document:
    """
    Return a deep copy to change.
    """
    return copy.deepcopy(document)
