"""
What both sides agree to: read, checked and named by one hash; pure.

The payer's wallet signs ``escrow:<hash>`` as the URL it pays for, so the hash is over the terms
*as they were sent*, in RFC 8785's form: nobody has to guess how the hub would write them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from tokenworks.agents.escrow.attestation import is_public_key
from tokenworks.agents.escrow.condition import check_condition
from tokenworks.agents.escrow.errors import ConditionInvalidError, TermsInvalidError
from tokenworks.agents.escrow.model import (
    MILESTONES_MAX,
    VERIFIERS_MAX,
    EscrowTerms,
    Milestone,
)
from tokenworks.agents.escrow.result import canonical, check_schema, sha256_hex
from tokenworks.foundation.money import QUANTA_MAX, Asset, quanta_from_text

METHOD: Final = "ESCROW"
"""The method that a wallet signs for an escrow."""

TERMS_BYTES_MAX: Final = 192 * 1024
SUBMIT_BY_MAX: Final = timedelta(days=366)
WINDOW_S_MAX: Final = 90 * 86_400
DECIDE_BY_S_MIN: Final = 60
"""So long, at least, a payer has to dispute what no verifier speaks about."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_VERIFIER: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class _MilestoneIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    amount: str
    condition: str


class _TermsIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    milestones: list[_MilestoneIn]
    result_schema: dict[str, Any]
    submit_by: datetime
    decide_by_s: int
    review_window_s: int = 0
    verifiers: dict[str, str] = {}
    arbiter: UUID | None = None


def terms_sha256(terms: Mapping[str, object]) -> str:
    """
    Return the hash that names terms, hexadecimal.
    """
    return sha256_hex(canonical(terms))


def terms_url(sha256: str) -> str:
    """
    Return the URL that a wallet signs for these terms.
    """
    return f"escrow:{sha256}"


def read_terms(terms: Mapping[str, object], asset: Asset) -> EscrowTerms:
    """
    Return terms as they are meant; ``check_terms`` and ``check_time`` judge them when they are new.

    Args:
        terms: JSON, as ``read_strictly`` gave it.
        asset: The money the amounts are in.

    Raises:
        TermsInvalidError: They are not of the form of terms.
    """
    try:
        content = msgspec.convert(terms, type=_TermsIn, strict=True)
    except msgspec.ValidationError as error:
        raise _invalid(f"The terms are not as they must be: {error}.", "terms") from error
    if content.submit_by.tzinfo is None:
        raise _invalid("submit_by names its offset, such as 2026-12-31T00:00:00Z.", "submit_by")
    return EscrowTerms(
        milestones=tuple(
            Milestone(
                name=item.name,
                quanta=quanta_from_text(item.amount, scale=asset.scale),
                condition=item.condition,
            )
            for item in content.milestones
        ),
        result_schema=content.result_schema,
        submit_by=content.submit_by.astimezone(UTC),
        review_window_s=content.review_window_s,
        decide_by_s=content.decide_by_s,
        verifiers=content.verifiers,
        arbiter_id=content.arbiter,
    )


def check_terms(terms: EscrowTerms) -> None:
    """
    Refuse terms that contradict themselves.

    Raises:
        TermsInvalidError: ``param`` says where.
        ConditionInvalidError: A condition breaks a rule.
    """
    if not 0 <= terms.review_window_s <= WINDOW_S_MAX:
        raise _invalid(f"review_window_s is 0 to {WINDOW_S_MAX}.", "review_window_s")
    if not DECIDE_BY_S_MIN <= terms.decide_by_s <= WINDOW_S_MAX:
        raise _invalid(f"decide_by_s is {DECIDE_BY_S_MIN} to {WINDOW_S_MAX}.", "decide_by_s")
    _check_verifiers(terms.verifiers)
    check_schema(terms.result_schema)
    _check_milestones(terms)


def check_time(terms: EscrowTerms, now: datetime) -> None:
    """
    Refuse terms whose time is over, or too far away.

    Raises:
        TermsInvalidError: ``submit_by`` is past, or more than a year ahead.
    """
    if terms.submit_by <= now:
        raise _invalid("submit_by is over.", "submit_by")
    if terms.submit_by > now + SUBMIT_BY_MAX:
        raise _invalid(f"submit_by is at most {SUBMIT_BY_MAX.days} days ahead.", "submit_by")


def _check_milestones(terms: EscrowTerms) -> None:
    if not 1 <= len(terms.milestones) <= MILESTONES_MAX:
        raise _invalid(f"There are 1 to {MILESTONES_MAX} milestones.", "milestones")
    names = [milestone.name for milestone in terms.milestones]
    if len(set(names)) != len(names):
        raise _invalid("Each milestone has a name of its own.", "milestones")
    for milestone in terms.milestones:
        if not _NAME.fullmatch(milestone.name):
            message = "A milestone's name is small letters, digits, dots and dashes, up to 63."
            raise _invalid(message, "milestones")
        if milestone.quanta <= 0:
            raise _invalid(f"Milestone {milestone.name!r} is worth something.", "milestones")
        try:
            check_condition(milestone.condition, terms.verifiers.keys())
        except ConditionInvalidError as error:
            message = f"Milestone {milestone.name!r}: {error.message}"
            raise ConditionInvalidError(message, param="milestones") from error
    if sum(milestone.quanta for milestone in terms.milestones) > QUANTA_MAX:
        raise _invalid("The amounts are more than the ledger can move at once.", "milestones")


def _check_verifiers(verifiers: Mapping[str, str]) -> None:
    if len(verifiers) > VERIFIERS_MAX:
        raise _invalid(f"There are at most {VERIFIERS_MAX} verifiers.", "verifiers")
    if len(set(verifiers.values())) != len(verifiers):
        raise _invalid("Each verifier has a key of its own.", "verifiers")
    for name, address in verifiers.items():
        if not _VERIFIER.fullmatch(name):
            message = "A verifier's name is small letters, digits and underscores, up to 63."
            raise _invalid(message, "verifiers")
        if not is_public_key(address):
            message = f"The key of verifier {name!r} is no Ed25519 public key in base64url."
            raise _invalid(message, "verifiers")


def _invalid(message: str, param: str) -> TermsInvalidError:
    return TermsInvalidError(message, param=param)
