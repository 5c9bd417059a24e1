"""
What can go wrong with rules, reviews and webhooks.

::

    InvalidError        InvalidRulesError, RulesLooserError, InvalidWebhookError,
                        PaymentOutsideWindowError, InvalidNoteError, RaiseNotPossibleError
    ForbiddenError      ApproverNotAllowedError, ReviewsFullError, RulesOwnerRequiredError
    NotFoundError       ReviewNotFoundError, WebhookNotFoundError
    ConflictError       ReviewDigestMismatchError, ReviewDecidedError, ReviewExpiredError,
                        SamePersonError
    UnavailableError    BrakeUnavailableError
"""

from __future__ import annotations

from tokenworks.foundation.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)


class InvalidRulesError(InvalidError):
    """
    The rules of the brake do not fit their schema.
    """

    code = "invalid_brake_rules"


class RulesLooserError(InvalidError):
    """
    A rule allows what an owner above forbids; it would have no effect.
    """

    code = "brake_rules_looser"


class InvalidWebhookError(InvalidError):
    """
    The webhook's address is malformed or leads where the hub may not go.
    """

    code = "invalid_webhook"


class PaymentOutsideWindowError(InvalidError):
    """
    The payment's id names a time that the books do not cover.
    """

    code = "id_outside_window"


class InvalidNoteError(InvalidError):
    """
    The note of a decision is too long.
    """

    code = "invalid_note"


class RaiseNotPossibleError(InvalidError):
    """
    No limit was named that could be raised.
    """

    code = "raise_not_possible"


class ApproverNotAllowedError(ForbiddenError):
    """
    Who decides is not an owner above the agent.
    """

    code = "approver_not_allowed"


class ReviewsFullError(ForbiddenError):
    """
    So many payments of the agent wait for people that no more may.
    """

    code = "reviews_full"


class RulesOwnerRequiredError(ForbiddenError):
    """
    Rules and webhooks are set by an owner above the agent.
    """

    code = "rules_owner_required"


class ReviewNotFoundError(NotFoundError):
    """
    There is no such review, or it is another's.
    """

    code = "review_not_found"


class WebhookNotFoundError(NotFoundError):
    """
    The party has no webhook.
    """

    code = "webhook_not_found"


class ReviewDigestMismatchError(ConflictError):
    """
    The payload that was named is not the one that waits.
    """

    code = "review_digest_mismatch"


class ReviewDecidedError(ConflictError):
    """
    The review ended before; a decision is never changed.
    """

    code = "review_decided"


class ReviewExpiredError(ConflictError):
    """
    Nobody decided in time; the payment was not made.
    """

    code = "review_expired"


class SamePersonError(ConflictError):
    """
    This person approved already, and two persons are needed.
    """

    code = "review_same_person"


class BrakeUnavailableError(UnavailableError):
    """
    The payment cannot be judged right now, so it is not allowed.
    """

    code = "brake_unavailable"
