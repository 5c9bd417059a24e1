"""
The client's side: a wallet that signs, clients of the hub, an HTTP transport that pays.

Owns: keys of an agent on the agent's own machine, what is signed with them, a local cap on
spending, what is done with a 402. Does not own: any rule of the hub. It imports nothing of the
rest of the package, so that an agent's process needs httpx and cryptography only.

Invariants: nothing is signed that exceeds the local cap or pays for another request than the
one that was sent; one request is signed for once, whatever happens to the connection; a timeout
is no failure; the mandate at the hub is what bounds an agent, this cap is a belt beside it.
"""

from tokenworks.sdk.async_client import AsyncHubClient
from tokenworks.sdk.client import HubClient
from tokenworks.sdk.errors import (
    AnswerLostError,
    BindingMismatchError,
    HubError,
    MalformedOfferError,
    NothingPayableError,
    PaymentInReviewError,
    PaymentRefusedError,
    PaymentUncertainError,
    SdkError,
    SpendCapError,
    WalletFileError,
)
from tokenworks.sdk.model import (
    Binding,
    ChatAnswer,
    PaymentRequired,
    Quote,
    Requirements,
    Settlement,
)
from tokenworks.sdk.repeating import Backoff
from tokenworks.sdk.spending import SpendCap
from tokenworks.sdk.transport import (
    AsyncPayingTransport,
    PayingTransport,
    settlement_of,
    wait_for_review,
    wait_for_review_async,
    wrap,
    wrap_async,
)
from tokenworks.sdk.wallet import Wallet

__all__ = [
    "AnswerLostError",
    "AsyncHubClient",
    "AsyncPayingTransport",
    "Backoff",
    "Binding",
    "BindingMismatchError",
    "ChatAnswer",
    "HubClient",
    "HubError",
    "MalformedOfferError",
    "NothingPayableError",
    "PayingTransport",
    "PaymentInReviewError",
    "PaymentRefusedError",
    "PaymentRequired",
    "PaymentUncertainError",
    "Quote",
    "Requirements",
    "SdkError",
    "Settlement",
    "SpendCap",
    "SpendCapError",
    "Wallet",
    "WalletFileError",
    "settlement_of",
    "wait_for_review",
    "wait_for_review_async",
    "wrap",
    "wrap_async",
]
