"""
What can go wrong on the client's side.

::

    SdkError
    |-- WalletFileError         the key file is missing, malformed or readable by others
    |-- MalformedOfferError     the seller's 402 cannot be read
    |-- NothingPayableError     nothing on offer can be paid with this wallet
    |-- BindingMismatchError    the seller wants a signature for another request
    |-- SpendCapError           the local cap refuses; nothing was signed
    |-- PaymentRefusedError     the seller or the hub refused what was signed
    |-- PaymentInReviewError    a person looks at it; the same signature goes on later
    |-- PaymentUncertainError   no answer came: it may or may not be paid, and is counted as paid
    |-- AnswerLostError         it is paid, but the answer went missing
    `-- HubError                the hub API refused a request
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import httpx


class SdkError(Exception):
    """
    Anything below; ``code`` is for programs, the message for people.
    """

    code: ClassVar[str] = "sdk_error"


class WalletFileError(SdkError):
    """
    The wallet's file cannot be used.
    """

    code = "wallet_file"


class MalformedOfferError(SdkError):
    """
    The seller answered 402 with something that is no offer of x402 version 2.
    """

    code = "malformed_offer"


class NothingPayableError(SdkError):
    """
    None of the ways to pay that the seller offers is one of this wallet.
    """

    code = "nothing_payable"


class BindingMismatchError(SdkError):
    """
    The seller asks to sign for a request that is not the one that was sent.
    """

    code = "binding_mismatch"


class SpendCapError(SdkError):
    """
    The local cap is smaller than what is asked; nothing was signed.
    """

    code = "spend_cap"

    def __init__(self, message: str, *, asked: int, left: int) -> None:
        super().__init__(message)
        self.asked = asked
        self.left = left


class PaymentRefusedError(SdkError):
    """
    What was signed was refused; ``reason`` is the seller's or the hub's code.
    """

    code = "payment_refused"

    def __init__(self, message: str, *, reason: str, response: httpx.Response) -> None:
        super().__init__(message)
        self.reason = reason
        self.response = response


class PaymentInReviewError(SdkError):
    """
    The money is held and a person decides; see ``wait_for_review``.
    """

    code = "payment_in_review"

    def __init__(self, message: str, *, review_id: str, request: httpx.Request) -> None:
        super().__init__(message)
        self.review_id = review_id
        self.request = request  # with its signature: sent again, it goes on


class PaymentUncertainError(SdkError):
    """
    Nobody answered the signed request, nor its repeats.

    It counts as spent. Send ``request`` again (the same signature) to learn what became of it.
    """

    code = "payment_uncertain"

    def __init__(self, message: str, *, payment_id: str, request: httpx.Request) -> None:
        super().__init__(message)
        self.payment_id = payment_id
        self.request = request


class AnswerLostError(SdkError):
    """
    A repeat found the payment settled: it is paid once, and its answer is gone.
    """

    code = "answer_lost"

    def __init__(self, message: str, *, payment_id: str, response: httpx.Response) -> None:
        super().__init__(message)
        self.payment_id = payment_id
        self.response = response


class HubError(SdkError):
    """
    The hub API's problem document.
    """

    code = "hub_refused"

    def __init__(
        self, message: str, *, status: int, reason: str, details: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.details = dict(details or {})
