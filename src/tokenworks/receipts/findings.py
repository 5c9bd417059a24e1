"""
What a reader can find about a receipt or an addendum, and what is known of one that was read.

Codes are stable, messages are for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tokenworks.receipts.jws import to_base64url


class ProblemCode(StrEnum):
    """
    Every way a receipt or an addendum can fail, and remarks that are no failure.
    """

    UNREADABLE = "unreadable"
    DOCUMENT_MALFORMED = "document_malformed"
    JWS_MALFORMED = "jws_malformed"
    PAYLOAD_MALFORMED = "payload_malformed"
    KEY_UNKNOWN = "key_unknown"
    CERTIFICATE_INVALID = "certificate_invalid"
    CERTIFICATE_FOR_OTHER_LANE = "certificate_for_other_lane"
    KEY_NOT_VALID_THEN = "key_not_valid_then"
    ISSUER_DIFFERS = "issuer_differs"
    SIGNATURE_WRONG = "signature_wrong"
    ROOT_WRONG = "root_wrong"
    DISCLOSURE_MALFORMED = "disclosure_malformed"
    DISCLOSURE_NOT_COMMITTED = "disclosure_not_committed"
    DISCLOSURE_REPEATED = "disclosure_repeated"
    CALL_ID_DIFFERS = "call_id_differs"
    FIELD_DIFFERS = "field_differs"
    FIELD_NOT_DISCLOSED = "field_not_disclosed"
    FIELD_NOT_SHOWN = "field_not_shown"
    CHAIN_BROKEN = "chain_broken"
    CHAIN_FORKED = "chain_forked"
    TIME_RUNS_BACK = "time_runs_back"
    NOT_CONSECUTIVE = "not_consecutive"
    ADDENDUM_MISNUMBERED = "addendum_misnumbered"
    ADDENDUM_FORKED = "addendum_forked"
    ADDENDUM_OF_OTHER_RECEIPT = "addendum_of_other_receipt"
    ADDENDUM_SUPERSEDED = "addendum_superseded"
    RECEIPT_NOT_HERE = "receipt_not_here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """
    One finding: the code is stable, the message is for people.
    """

    code: ProblemCode
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """
    What is known about one receipt; trust the rest only when ``ok``.
    """

    source: str  # where it was read, e.g. ``receipts.jsonl:12``
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()  # remarks that leave the receipt valid
    view: str | None = None  # None here and below: it could not be read
    call_id: str | None = None
    lane: int | None = None
    sequence: int | None = None
    issued_at_s: int | None = None
    issuer: str | None = None
    kid: str | None = None
    previous: bytes | None = None
    root: bytes | None = None
    number: int | None = None  # of an addendum; a receipt has none
    fields: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def ok(self) -> bool:
        """
        Tell whether nothing is wrong.
        """
        return not self.problems

    def to_json(self) -> dict[str, object]:
        """
        Return the finding as plain JSON values.
        """
        return {
            "source": self.source,
            "ok": self.ok,
            "problems": [{"code": p.code.value, "message": p.message} for p in self.problems],
            "notes": [{"code": n.code.value, "message": n.message} for n in self.notes],
            "view": self.view,
            "call_id": self.call_id,
            "lane": self.lane,
            "seq": self.sequence,
            "iat": self.issued_at_s,
            "iss": self.issuer,
            "kid": self.kid,
            "root": None if self.root is None else to_base64url(self.root),
            "number": self.number,
            "fields": dict(self.fields),
        }


class UnusableError(Exception):
    """
    The document cannot be checked any further.
    """

    def __init__(self, code: ProblemCode, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(code=code, message=message)
