"""
SIMULATION of a facilitator of a hub's network, in memory, with one law missing at will.

Careful by default. Each ``flaw`` leaves one rule out, so that the suite must find it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Final

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tokenworks.conformance.rails import from_base64url

NETWORK: Final = "hub:simulation000000"
PAYEE: Final = "019a0000-0000-7000-8000-000000000001"
PAYEE_KEY: Final = "payee"
BODY_BYTES_MAX: Final = 1024 * 1024
SCHEMES: Final = frozenset({"exact", "upto"})
DIGITS: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
AMOUNT_MAX: Final = 2**63 - 1
CLOCK_SKEW_S: Final = 60

Document = dict[str, Any]


class RefusedError(Exception):
    """
    The payment is not good; the message is its reason.
    """


class SimulatedFacilitator:
    """
    Answer like a facilitator; money is a dictionary.

    Args:
        now_s: The time.
        flaws: Which rules are left out.
    """

    def __init__(self, now_s: int, *, flaws: frozenset[str] = frozenset()) -> None:
        self._now_s = now_s
        self._flaws = flaws
        self._settlements = 0
        self._is_dead = False
        self.balances: dict[str, int] = {}
        self.claims: dict[str, int] = {}
        """Nonce -> what is held for it."""
        self.receipts: dict[str, Document] = {}

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """
        Answer one request.
        """
        if self._is_dead:
            raise httpx.ConnectError("refused", request=request)
        path = request.url.path
        if path == "/supported":
            kind = {"x402Version": 2, "scheme": "exact", "network": NETWORK}
            return httpx.Response(200, json={"kinds": [kind], "extensions": [], "signers": {}})
        try:
            body = self._read(request)
        except RefusedError as error:
            return httpx.Response(400, json={"code": str(error)})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if "nested_is_fatal" in self._flaws and request.content.startswith(b"[["):
                self._is_dead = True
                raise httpx.RemoteProtocolError("gone", request=request) from None
            is_careless = "faults_on_malformed" in self._flaws
            return httpx.Response(500 if is_careless else 400, json={"code": "malformed"})
        settle = path == "/settle"
        try:
            body["is_payee"] = request.headers.get("authorization") == f"Bearer {PAYEE_KEY}"
            done = await (self._settle(body) if settle else self._verify(body))
        except RefusedError as error:
            return httpx.Response(200, json=_refusal(str(error), settle=settle))
        return httpx.Response(200, json=done)

    # ------------------------------------------------------------------ reading

    def _read(self, request: httpx.Request) -> Document:
        if len(request.content) > BODY_BYTES_MAX and "reads_anything" not in self._flaws:
            raise RefusedError("too_large")
        document = json.loads(request.content)
        payment, requirements = document["paymentPayload"], document["paymentRequirements"]
        if "any_version" not in self._flaws and (
            document["x402Version"] != 2 or payment["x402Version"] != 2
        ):
            raise RefusedError("invalid_x402_version")
        words = ("scheme", "network", "asset", "amount", "payTo")
        if not all(isinstance(requirements[word], str) for word in words):
            raise RefusedError("invalid_payment_requirements")
        signed = payment["payload"]["authorization"]
        return {"signed": signed, "requirements": requirements, "echo": payment["accepted"]}

    def _claims(self, body: Document) -> Document:
        head, claims, signature = body["signed"].split(".")
        header = json.loads(from_base64url(head))
        said = json.loads(from_base64url(claims))
        if header["alg"] == "none":
            if "alg_none" not in self._flaws:
                raise RefusedError("authorisation_signature")
            return said
        key = Ed25519PublicKey.from_public_bytes(from_base64url(said["iss"]))
        try:
            key.verify(from_base64url(signature), f"{head}.{claims}".encode())
        except InvalidSignature as error:
            if "no_signature" not in self._flaws:
                raise RefusedError("authorisation_signature") from error
        return said

    # ------------------------------------------------------------------ judging

    def _judge(self, body: Document, *, is_settling: bool = False) -> tuple[Document, int]:
        said = self._claims(body)
        asked = body["echo"] if "echo_counts" in self._flaws else body["requirements"]
        binding = asked["extra"]["binding"]
        self._check_times(said)
        pairs = (
            ("no_network", said["aud"], asked["network"]),
            ("no_network", said["aud"], NETWORK),
            ("no_scheme", asked["scheme"] in SCHEMES, True),
            ("no_scheme", said["scheme"], asked["scheme"]),
            ("no_asset", said["asset"], asked["asset"]),
            ("no_payee", said["pay_to"], asked["payTo"]),
            ("no_resource", said["url"], binding["url"]),
            ("no_resource", said["method"], binding["method"]),
            ("no_body", said["body_sha256"], binding["bodySha256"]),
            ("no_amount", said["amount"], asked["amount"]),
        )
        is_less = is_settling and asked["scheme"] == "upto" and asked["amount"] in {"0", "1"}
        if is_less and not body["is_payee"] and "payer_ends_cheaply" not in self._flaws:
            raise RefusedError("unauthorized_server")
        for flaw, left, right in pairs:
            if flaw == "no_amount" and is_less:
                continue
            if left != right and flaw not in self._flaws:
                raise RefusedError(f"mismatch:{flaw}")
        if is_less:
            return said, int(asked["amount"])
        return said, self._amount(said["amount"])

    def _check_times(self, said: Mapping[str, int]) -> None:
        if said["exp"] <= self._now_s and "no_expiry" not in self._flaws:
            raise RefusedError("authorisation_expired")
        if said["iat"] > self._now_s + CLOCK_SKEW_S and "no_start" not in self._flaws:
            raise RefusedError("authorisation_not_yet_valid")
        if said["exp"] <= said["iat"] and "no_order" not in self._flaws:
            raise RefusedError("authorisation_malformed")

    def _amount(self, text: str) -> int:
        if "loose_numbers" in self._flaws:
            try:
                return int(text)
            except ValueError as error:
                raise RefusedError("amount") from error
        if "wraps_around" in self._flaws and text.isdecimal() and len(text) > 18:
            return int(text[-3:])
        if "negative" in self._flaws and text.startswith("-"):
            return int(text)
        if not DIGITS.fullmatch(text) or int(text) > AMOUNT_MAX:
            raise RefusedError("amount")
        return int(text)

    # ------------------------------------------------------------------ acting

    async def _verify(self, body: Document) -> Document:
        said, amount = self._judge(body)
        nonce = said["jti"]
        if nonce in self.claims and "no_claim" not in self._flaws:
            raise RefusedError("payment_already_claimed")
        self._hold(said, amount)
        return {"isValid": True, "payer": said["iss"]}

    async def _settle(self, body: Document) -> Document:
        said, amount = self._judge(body, is_settling=True)
        nonce = said["jti"]
        if nonce in self.receipts and "pays_again" not in self._flaws:
            if "forgets_receipts" in self._flaws:
                raise RefusedError("transaction_failed")
            return self.receipts[nonce]
        if "settle_race" in self._flaws:
            await asyncio.sleep(0)
        if amount == 0:
            self._give_back(said)
        elif nonce not in self.claims:
            self._hold(said, amount)
        if self.balances.get(self._account(said), 0) < amount and "no_claim" in self._flaws:
            raise RefusedError("insufficient_funds")
        self._settlements += 1
        paid = 0 if "rounds_dust" in self._flaws and amount < 10 else amount
        receipt = {
            "success": True,
            "payer": said["iss"],
            "transaction": f"transaction-{self._settlements}",
            "network": NETWORK,
            "amount": str(paid),
        }
        if "no_claim" in self._flaws:
            self.balances[self._account(said)] -= amount
        self.receipts[nonce] = receipt
        return receipt

    def _hold(self, said: Document, amount: int) -> None:
        account = self._account(said)
        if self.balances.get(account, 0) < amount:
            raise RefusedError("insufficient_funds")
        if "no_claim" in self._flaws:
            return
        if "no_hold" not in self._flaws:
            self.balances[account] -= amount
        self.claims[said["jti"]] = amount

    def _give_back(self, said: Document) -> None:
        held = self.claims.get(said["jti"], 0)
        if "keeps_what_failed" not in self._flaws:
            self.balances[self._account(said)] += held

    def _account(self, said: Document) -> str:
        """
        Return whose money a payment spends.
        """
        return str(said["iss"])


def _refusal(reason: str, *, settle: bool) -> Document:
    if settle:
        return {"success": False, "errorReason": reason, "transaction": "", "network": NETWORK}
    return {"isValid": False, "invalidReason": reason}
