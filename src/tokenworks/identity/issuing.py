"""
Rules of a new key; pure.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from tokenworks.identity.errors import InvalidKeyError
from tokenworks.identity.model import ROLES_BY_KIND, Party, Role

LABEL_LENGTH_MAX: Final = 200
KEY_MODELS_MAX: Final = 1_000
REQUESTS_PER_MINUTE_MAX: Final = 1_000_000
ROTATION_GRACE_MAX: Final = timedelta(days=30)

_MODEL_NAME: Final = re.compile(r"[!-~]{1,200}")


def check_label(label: str) -> None:
    """
    Refuse a label that is long or not printable.

    Raises:
        InvalidKeyError: With the rule.
    """
    if len(label) > LABEL_LENGTH_MAX or not label.isprintable():
        message = f"A label is at most {LABEL_LENGTH_MAX} printable characters."
        raise InvalidKeyError(message, param="label")


def check_models(models: frozenset[str] | None) -> None:
    """
    Refuse an empty or endless list of models, and names that cannot be sent.

    Raises:
        InvalidKeyError: With the rule.
    """
    if models is None:
        return
    if not 1 <= len(models) <= KEY_MODELS_MAX:
        message = f"A key lists 1 to {KEY_MODELS_MAX} models, or none to allow every model."
        raise InvalidKeyError(message, param="models")
    if not all(_MODEL_NAME.fullmatch(model) for model in models):
        message = "A model is 1 to 200 printable ASCII characters without spaces."
        raise InvalidKeyError(message, param="models")


def check_rate(requests_per_minute: int | None) -> None:
    """
    Refuse a rate below one request a minute.

    Raises:
        InvalidKeyError: With the rule.
    """
    if requests_per_minute is not None and not (
        1 <= requests_per_minute <= REQUESTS_PER_MINUTE_MAX
    ):
        message = f"Requests a minute are 1 to {REQUESTS_PER_MINUTE_MAX}."
        raise InvalidKeyError(message, param="requests_per_minute")


def check_expiry(expires_at: datetime | None, *, now: datetime) -> None:
    """
    Refuse an expiry without a time zone or in the past.

    Raises:
        InvalidKeyError: With the rule.
    """
    if expires_at is None:
        return
    if expires_at.tzinfo is None:
        message = "The expiry must name its time zone."
        raise InvalidKeyError(message, param="expires_at")
    if expires_at <= now:
        message = "The expiry is in the past."
        raise InvalidKeyError(message, param="expires_at")


def check_role(role: Role, party: Party) -> None:
    """
    Refuse a role that does not suit the party's kind.

    Raises:
        InvalidKeyError: With the rule.
    """
    allowed = ROLES_BY_KIND[party.kind]
    if role not in allowed:
        names = " or ".join(sorted(allowed))
        message = f"A key of {party.name!r} (a {party.kind}) has the role {names}, not {role}."
        raise InvalidKeyError(message, param="role")


def check_grace(grace: timedelta) -> None:
    """
    Refuse a grace below zero or beyond ``ROTATION_GRACE_MAX``.

    Raises:
        InvalidKeyError: With the rule.
    """
    if not timedelta(0) <= grace <= ROTATION_GRACE_MAX:
        message = f"The grace of a rotation is 0 to {ROTATION_GRACE_MAX.days} days."
        raise InvalidKeyError(message, param="grace")
