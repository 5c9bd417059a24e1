"""
A seller in a test: answers 402 with an offer, then as it is told; notes what it was sent.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any, Final, cast

import httpx

from tokenworks.sdk.signing import from_base64url, to_base64url

NETWORK: Final = "hub:0123456789abcdef"
PAYEE: Final = "019c0000-0000-7000-8000-000000000001"

Answer = Callable[[httpx.Request], httpx.Response]


def offer(request: httpx.Request, **changes: object) -> dict[str, Any]:
    """
    Return one way to pay for a request, with some members changed.
    """
    binding: dict[str, object] = {
        "method": request.method,
        "url": str(request.url),
        "bodySha256": to_base64url(hashlib.sha256(request.content).digest()),
    }
    binding |= cast("dict[str, object]", changes.pop("binding", {}))
    extra = {"name": "USD", "decimals": 9, "binding": binding}
    return {
        "scheme": "upto",
        "network": NETWORK,
        "amount": "1000",
        "asset": "USD",
        "payTo": PAYEE,
        "maxTimeoutSeconds": 60,
        "extra": extra,
        **changes,
    }


def header_of(document: dict[str, Any]) -> str:
    """
    Return a JSON document as an x402 header.
    """
    return base64.b64encode(json.dumps(document).encode()).decode()


def payment_required(*accepts: dict[str, Any], error: str | None = None) -> httpx.Response:
    """
    Return a 402 that offers these ways to pay.
    """
    document: dict[str, Any] = {"x402Version": 2, "accepts": list(accepts)}
    if error is not None:
        document["error"] = error
    return httpx.Response(402, headers={"PAYMENT-REQUIRED": header_of(document)}, json={})


def paid(amount: str | None = "700", *, status: int = 200, **more: object) -> httpx.Response:
    """
    Return an answer that says what was charged.
    """
    document: dict[str, Any] = {"success": True, "transaction": "t", "network": NETWORK, **more}
    if amount is not None:
        document["amount"] = amount
    return httpx.Response(
        status, headers={"PAYMENT-RESPONSE": header_of(document)}, json={"ok": True}
    )


def refused(reason: str, *, status: int = 402) -> httpx.Response:
    """
    Return an answer that says the payment was not made.
    """
    document = {"success": False, "errorReason": reason, "transaction": "", "network": NETWORK}
    return httpx.Response(status, headers={"PAYMENT-RESPONSE": header_of(document)}, json={})


def claims_of(request: httpx.Request) -> dict[str, Any]:
    """
    Return what the wallet signed in a paid request.
    """
    payload = json.loads(base64.b64decode(request.headers["PAYMENT-SIGNATURE"]))
    return json.loads(from_base64url(payload["payload"]["authorization"].split(".")[1]))


class Seller:
    """
    Answer unpaid requests with an offer and paid ones with the next scripted answer.

    Args:
        answers: For paid requests, in order; the last one stands for all that follow. An
            exception is raised instead of an answer.
        changes: Of the offer.
    """

    def __init__(self, *answers: httpx.Response | Exception, **changes: object) -> None:
        self.answers = list(answers or (paid(),))
        self.changes = changes
        self.unpaid = 0
        self.paid: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """
        Answer one request.
        """
        if "PAYMENT-SIGNATURE" not in request.headers:
            self.unpaid += 1
            return payment_required(offer(request, **self.changes))
        self.paid.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer
