"""
The attacks on a seller that uses the official middleware with its defaults.

These are what a facilitator alone cannot show: how often the seller's handler really ran.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any, Final

import httpx

from benchmarks.x402_baseline.processes import BaselineError
from tokenworks.conformance.evm_rail import EvmRail
from tokenworks.conformance.ground import EARLY_S, LIFETIME_S
from tokenworks.conformance.rails import Sale, Times, Wallet

REQUIRED_HEADER: Final = "payment-required"
PAYMENT_HEADER: Final = "payment-signature"
TIMEOUT_S: Final = 60.0


class Attacker:
    """
    A payer that knows a seller.
    """

    def __init__(self, client: httpx.AsyncClient, rail: EvmRail, now_s: int) -> None:
        self._client = client
        self._rail = rail
        self._times = Times(since_s=now_s - EARLY_S, until_s=now_s + LIFETIME_S)

    async def offer(self, method: str, path: str) -> dict[str, Any]:
        """
        Return what the seller asks for a request.
        """
        answer = await self._client.request(method, path)
        if answer.status_code != httpx.codes.PAYMENT_REQUIRED:
            message = f"{method} {path} asks for no payment: {answer.status_code} {answer.text}"
            raise BaselineError(message)
        return json.loads(b64decode(answer.headers[REQUIRED_HEADER]))

    def pay(self, wallet: Wallet, offer: dict[str, Any]) -> str:
        """
        Return a new payment as the header carries it.
        """
        terms = offer["accepts"][0]
        sale = Sale(
            scheme=terms["scheme"],
            network=terms["network"],
            asset=terms["asset"],
            amount=terms["amount"],
            pay_to=terms["payTo"],
            method="",
            url=offer["resource"]["url"],
            timeout_s=terms["maxTimeoutSeconds"],
            extra=terms["extra"],
        )
        payment = {
            "x402Version": 2,
            "resource": offer["resource"],
            "accepted": terms,
            "payload": self._rail.sign(wallet, sale, self._times),
        }
        return b64encode(json.dumps(payment).encode()).decode()

    async def spend(self, method: str, path: str, payments: Sequence[str]) -> dict[str, Any]:
        """
        Send payments at once and return what they bought.
        """
        before = await self._runs()
        sent = (
            self._client.request(method, path, headers={PAYMENT_HEADER: payment})
            for payment in payments
        )
        answers = await asyncio.gather(*sent)
        served = [answer for answer in answers if answer.status_code == httpx.codes.OK]
        after = await self._runs()
        name = path.strip("/")
        return {
            "sent": len(payments),
            "handlers_ran": after.get(name, 0) - before.get(name, 0),
            "answered_200": len(served),
            "answered_402": sum(a.status_code == httpx.codes.PAYMENT_REQUIRED for a in answers),
        }

    async def _runs(self) -> dict[str, int]:
        return (await self._client.get("/runs")).json()


async def attack_seller(
    url: str,
    rail: EvmRail,
    *,
    rich: Wallet,
    poor: Sequence[Wallet],
    in_parallel: int,
    now_s: int,
) -> list[dict[str, Any]]:
    """
    Run the attacks and return a row for each.

    Args:
        url: The seller.
        rail: Signs.
        rich: A wallet for everything but the overdraft.
        poor: Two wallets with the money of exactly one payment.
        in_parallel: How many requests at once.
        now_s: The time.
    """
    limits = httpx.Limits(max_connections=in_parallel, max_keepalive_connections=in_parallel)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as client:
        attacker = Attacker(client, rail, now_s)
        offer_a = await attacker.offer("GET", "/a")
        offer_upfront = await attacker.offer("GET", "/upfront")
        rows = [
            await _row(attacker, "honest", "GET", "/a", [attacker.pay(rich, offer_a)]),
            await _row(
                attacker, "duplicate", "GET", "/a", [attacker.pay(rich, offer_a)] * in_parallel
            ),
            await _row(
                attacker,
                "duplicate",
                "GET",
                "/upfront",
                [attacker.pay(rich, offer_upfront)] * in_parallel,
            ),
            await _row(
                attacker,
                "overdraft",
                "GET",
                "/a",
                [attacker.pay(poor[0], offer_a) for _ in range(in_parallel)],
            ),
            await _row(
                attacker,
                "overdraft",
                "GET",
                "/upfront",
                [attacker.pay(poor[1], offer_upfront) for _ in range(in_parallel)],
            ),
            await _row(attacker, "other_resource", "POST", "/b", [attacker.pay(rich, offer_a)]),
        ]
    if rows[0]["answered_200"] != 1:
        message = f"an honest payment was not served: {rows[0]}"
        raise BaselineError(message)
    return rows


async def _row(
    attacker: Attacker, attack: str, method: str, path: str, payments: Sequence[str]
) -> dict[str, Any]:
    flow = "upfront" if path == "/upfront" else "authorization"
    figures = await attacker.spend(method, path, payments)
    return {"attack": attack, "flow": flow, "bought": f"{method} {path}", **figures}
