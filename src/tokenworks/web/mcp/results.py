"""
Answers of the hub's doors as results of tools, x402's MCP transport included.

What asks for a payment is ``isError`` with ``PaymentRequired`` as structured content and as text;
what became of a payment stands in ``_meta["x402/payment-response"]``. A refusal that is no offer
is a code and a sentence, so that nobody pays anew where the same payment goes on.
"""

from __future__ import annotations

import json
from typing import Any, Final

import httpx
from mcp.types import CallToolResult, TextContent

from tokenworks.sdk import MalformedOfferError
from tokenworks.sdk.model import (
    X402_VERSION,
    JsonObject,
    from_payment_response,
    object_of,
    read_header,
    refusal_in,
    to_units,
)
from tokenworks.sdk.paying import REQUIRED_HEADER, RESPONSE_HEADER
from tokenworks.web.mcp.words import Outcome

RESPONSE_META: Final = "x402/payment-response"


def answered(content: Outcome, *, response: JsonObject | None = None) -> CallToolResult:
    """
    Return what a tool has to say.
    """
    return CallToolResult(
        content=[TextContent(type="text", text=json.dumps(content, ensure_ascii=False))],
        structured_content=content,
        **_meta(response),
    )


def refused(code: str, message: str, *, response: JsonObject | None = None) -> CallToolResult:
    """
    Return a refusal that a model can read.
    """
    return CallToolResult(
        content=[TextContent(type="text", text=f"{code}: {message}")],
        is_error=True,
        **_meta(response),
    )


def required(document: JsonObject, *, response: JsonObject | None = None) -> CallToolResult:
    """
    Return what has to be paid, as x402's MCP transport says it.
    """
    return CallToolResult(
        content=[TextContent(type="text", text=json.dumps(document))],
        structured_content=dict(document),
        is_error=True,
        **_meta(response),
    )


def asking(url: str, asked: JsonObject, error: str) -> CallToolResult:
    """
    Return what has to be paid for a direct payment.
    """
    return required(
        {
            "x402Version": X402_VERSION,
            "error": error,
            "resource": {"url": url, "description": "A payment", "mimeType": "application/json"},
            "accepts": [asked],
        }
    )


def completion(answer: httpx.Response) -> CallToolResult:
    """
    Return a bought completion, what it would cost, or why there is none.
    """
    if not answer.is_success:
        return refusal(answer)
    document = object_of(answer.content) or {}
    response = _response_of(answer)
    content = {
        "text": str(document["choices"][0]["message"].get("content") or ""),
        "charge": answer.headers.get("x-tokenworks-charge", "0"),
        "currency": answer.headers.get("x-tokenworks-currency", ""),
        "payment_id": answer.headers.get("x-tokenworks-call-id", ""),
        "model": document.get("model"),
        "usage": dict(document.get("usage") or {}),
    }
    return answered(content, response=response)


def settlement(answer: httpx.Response) -> CallToolResult:
    """
    Return what became of a direct payment.
    """
    document = object_of(answer.content) or {}
    if document.get("success") is not True:
        reason = document.get("errorReason")
        if reason is None:
            return refusal(answer)
        message = document.get("errorMessage") or "The payment was refused."
        return refused(str(reason), str(message), response=document)
    amount = document.get("amount")
    content = {
        "payment_id": document.get("transaction"),
        "amount": None if amount is None else format(to_units(int(amount)), "f"),
    }
    return answered(content, response=document)


def refusal(answer: httpx.Response) -> CallToolResult:
    """
    Return a door's refusal: what it asks where it asks for a payment, else its code and words.
    """
    response = _response_of(answer)
    asked = answer.headers.get(REQUIRED_HEADER)
    if asked is not None:
        return required(read_header(asked, REQUIRED_HEADER), response=response)
    said = refusal_in(object_of(answer.content) or {})
    message = said.get("detail") or said.get("message") or f"The hub said {answer.status_code}."
    return refused(str(said.get("code") or "unknown"), str(message), response=response)


def _response_of(answer: httpx.Response) -> JsonObject | None:
    header = answer.headers.get(RESPONSE_HEADER)
    if header is None:
        return None
    try:
        return from_payment_response(header).document
    except MalformedOfferError:
        return None


def _meta(response: JsonObject | None) -> dict[str, Any]:
    return {} if response is None else {"_meta": {RESPONSE_META: dict(response)}}
