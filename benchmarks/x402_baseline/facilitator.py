"""
A facilitator made of the official ``x402`` package alone; uvicorn runs ``app``.

The shape is that of the package's own example: parse, ask the facilitator, dump. Its mechanisms
are synchronous, so its synchronous class answers from threads, which is the fastest it can be
served in one process. An exception is answered with 500, as in the example.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from x402 import x402FacilitatorSync
from x402.mechanisms.evm import FacilitatorWeb3Signer
from x402.mechanisms.evm.exact import register_exact_evm_facilitator
from x402.schemas import PaymentRequirements, parse_payment_payload

signer = FacilitatorWeb3Signer(
    private_key=os.environ["BASELINE_KEY"], rpc_url=os.environ["BASELINE_RPC"]
)
facilitator = x402FacilitatorSync()
register_exact_evm_facilitator(facilitator, signer, networks=os.environ["BASELINE_NETWORK"])
app = FastAPI()


class Question(BaseModel):
    """
    The body of verify and settle.
    """

    paymentPayload: dict[str, Any]  # noqa: N815 - as on the wire
    paymentRequirements: dict[str, Any]  # noqa: N815 - as on the wire


@app.post("/verify")
def verify(question: Question) -> dict[str, Any]:
    """
    Say whether a payment is good.
    """
    return _answer(question, facilitator.verify)


@app.post("/settle")
def settle(question: Question) -> dict[str, Any]:
    """
    Make a payment on the chain.
    """
    return _answer(question, facilitator.settle)


@app.get("/supported")
def supported() -> dict[str, Any]:
    """
    Say what is settled.
    """
    return facilitator.get_supported().model_dump(by_alias=True, exclude_none=True)


def _answer(question: Question, ask: Callable[..., BaseModel]) -> dict[str, Any]:
    try:
        payload = parse_payment_payload(question.paymentPayload)
        requirements = PaymentRequirements.model_validate(question.paymentRequirements)
        return ask(payload, requirements).model_dump(by_alias=True, exclude_none=True)
    except Exception as error:
        raise HTTPException(status_code=500, detail=str(error)) from error
