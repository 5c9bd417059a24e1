"""
A seller made of the official ``x402`` package alone; uvicorn runs ``app``.

Two requests at one price, ``GET /a`` and ``POST /b``, behind the package's own middleware with its
defaults, and the same behind ``/upfront``, which settles before it works. A handler takes
``WORK_S``, as an inference does, and counts how often it ran.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Final

from fastapi import FastAPI
from x402.http import FacilitatorConfig, HTTPFacilitatorClient, PaymentOption
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.http.types import RouteConfig
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.schemas import AssetAmount
from x402.server import x402ResourceServer

WORK_S: Final = 0.3
NETWORK: Final = os.environ["BASELINE_NETWORK"]

runs: Counter[str] = Counter()
app = FastAPI()


def _route(**flow: str) -> RouteConfig:
    price = AssetAmount(
        amount=os.environ["BASELINE_PRICE"],
        asset=os.environ["BASELINE_TOKEN"],
        extra={"name": "Baseline USD", "version": "2", **flow},
    )
    option = PaymentOption(
        scheme="exact", pay_to=os.environ["BASELINE_PAYEE"], price=price, network=NETWORK
    )
    return RouteConfig(accepts=[option], mime_type="application/json", description="work")


server = x402ResourceServer(
    HTTPFacilitatorClient(FacilitatorConfig(url=os.environ["BASELINE_URL"]))
)
server.register(NETWORK, ExactEvmServerScheme())
app.add_middleware(
    PaymentMiddlewareASGI,
    routes={
        "GET /a": _route(),
        "POST /b": _route(),
        "GET /upfront": _route(paymentFlow="upfront"),
    },
    server=server,
)


async def _work(name: str) -> dict[str, str]:
    runs[name] += 1
    await asyncio.sleep(WORK_S)
    return {"result": name}


@app.get("/a")
async def small() -> dict[str, str]:
    """
    Do a small piece of work.
    """
    return await _work("a")


@app.post("/b")
async def large() -> dict[str, str]:
    """
    Do a large piece of work.
    """
    return await _work("b")


@app.get("/upfront")
async def upfront() -> dict[str, str]:
    """
    Do a piece of work that was settled before.
    """
    return await _work("upfront")


@app.get("/runs")
async def count_runs() -> dict[str, int]:
    """
    Say how often each handler ran.
    """
    return dict(runs)
