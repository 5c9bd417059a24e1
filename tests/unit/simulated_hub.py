"""
SIMULATION of a hub's API for organisations, agents and mandates beside its facilitator.

Knows just what the suite opens; each ``flaw`` leaves one rule of mandates out.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.unit.simulated_facilitator import (
    PAYEE_KEY,
    Document,
    RefusedError,
    SimulatedFacilitator,
)
from tokenworks.conformance.escrows import HARMLESS
from tokenworks.conformance.rails import from_base64url

QUANTA_PER_UNIT: Final = 10**9
DEPTH_MAX: Final = 8
API: Final = "/hub/v1/"


@dataclass(kw_only=True)
class SimulatedMandate:
    """
    A mandate and what was spent of it.
    """

    organisation: str
    parent: SimulatedMandate | None
    depth: int
    delegations: int
    budget: int | None
    spent: int = 0
    is_revoked: bool = False

    def chain(self) -> list[SimulatedMandate]:
        """
        Return it and those above it.
        """
        return [self, *(self.parent.chain() if self.parent is not None else [])]


class SimulatedHub(SimulatedFacilitator):
    """
    Answer like a hub: the facilitator below ``/x402``, the API below ``/hub/v1``.
    """

    def __init__(self, now_s: int, *, flaws: frozenset[str] = frozenset()) -> None:
        super().__init__(now_s, flaws=flaws)
        self._owners: dict[str, str] = {}
        """Agent -> organisation."""
        self.mandates: dict[str, SimulatedMandate] = {}
        self._watched: set[str] = set()
        """Organisations whose payments wait for a person."""
        self._waiting: dict[str, str] = {}
        self._approved: set[str] = set()
        self._escrows: dict[str, Document] = {}

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """
        Answer one request.
        """
        path = request.url.path
        if not path.startswith(API):
            return await super().__call__(request)
        if request.headers.get("authorization") not in {"Bearer admin", f"Bearer {PAYEE_KEY}"}:
            return httpx.Response(401, json={"code": "invalid_api_key"})
        try:
            made = self._open(path.removeprefix(API), json.loads(request.content or b"{}"))
        except RefusedError as error:
            return httpx.Response(403, json={"code": str(error)})
        return httpx.Response(201, json=made)

    # ------------------------------------------------------------------ API

    def _open(self, path: str, body: Document) -> Document:
        if path.startswith("escrows"):
            return self._escrow(path, body)
        if path.endswith("/brake"):
            if body["rules"]["new_payee"]["action"] == "hold":
                self._watched.add(path.split("/")[1])
            return {}
        if path == "reviews":
            return {
                "items": [
                    {"review_id": nonce, "digest": f"digest-{nonce}", "resource": resource}
                    for nonce, resource in self._waiting.items()
                ]
            }
        if path.endswith("/approve"):
            return self._approve(path.split("/")[1], body["digest"])
        if path.endswith("/revoke"):
            self.mandates[path.split("/")[1]].is_revoked = True
            return {}
        opens: dict[str, Callable[[Document], Document]] = {
            "parties": self._party,
            "deposits": self._deposit,
            "keys": lambda _: {"secret": PAYEE_KEY},
            "agents": self._agent,
            "mandates": self._mandate,
        }
        return opens[path](body)

    def _party(self, body: Document) -> Document:
        self.balances[body["name"]] = 0
        return {"party_id": str(uuid.uuid4()), "name": body["name"]}

    def _deposit(self, body: Document) -> Document:
        self.balances[body["party"]] += _quanta(body["amount"])
        return {}

    def _agent(self, body: Document) -> Document:
        self._owners[body["name"]] = body["owner"]
        return {"name": body["name"]}

    def _mandate(self, body: Document) -> Document:
        terms = body["terms"]
        parent = self.mandates[body["parent"]] if "parent" in body else None
        budgets = terms.get("budgets", [])
        made = SimulatedMandate(
            organisation=self._owners[body["agent"]],
            parent=parent,
            depth=1 if parent is None else parent.depth + 1,
            delegations=terms["delegations_max"],
            budget=_quanta(budgets[0]["amount"]) if budgets else None,
        )
        if parent is not None and "widens" not in self._flaws:
            self._check_narrower(made, parent)
        if made.depth > DEPTH_MAX and "endless" not in self._flaws:
            raise RefusedError("mandate_too_deep")
        mandate_id = str(uuid.uuid4())
        self.mandates[mandate_id] = made
        return {"mandate_id": mandate_id}

    def _check_narrower(self, made: SimulatedMandate, parent: SimulatedMandate) -> None:
        is_wider = made.budget is not None and parent.budget is not None
        if is_wider and (made.budget or 0) > (parent.budget or 0):
            raise RefusedError("mandate_not_attenuated")
        if made.delegations >= parent.delegations and "endless" not in self._flaws:
            raise RefusedError("mandate_too_deep")

    def _approve(self, nonce: str, digest: str) -> Document:
        if digest != f"digest-{nonce}" and "any_digest" not in self._flaws:
            raise RefusedError("review_digest_mismatch")
        self._approved.add(nonce)
        return {}

    # ------------------------------------------------------------------ escrows

    def _escrow(self, path: str, body: Document) -> Document:
        if path == "escrows":
            condition = body["terms"]["milestones"][0]["condition"]
            is_harmless = condition == HARMLESS or "attested" in condition
            if not is_harmless and "evaluates_anything" not in self._flaws:
                raise RefusedError("condition_invalid")
            escrow_id = str(uuid.uuid4())
            self._escrows[escrow_id] = body["terms"]
            return {"escrow_id": escrow_id}
        escrow_id = path.split("/")[1]
        terms = self._escrows[escrow_id]
        if "attested" not in terms["milestones"][0]["condition"]:
            return {"captured": "0.001"}
        is_good = any(self._believes(text, escrow_id, terms, body) for text in body["attestations"])
        return {"captured": "0.001" if is_good else "0"}

    def _believes(self, text: str, escrow_id: str, terms: Document, body: Document) -> bool:
        if "believes_anyone" in self._flaws:
            return True
        head, claims, signature = text.split(".")
        said = json.loads(from_base64url(claims))
        canonical = json.dumps(body["result"], sort_keys=True, separators=(",", ":"))
        if said["result_sha256"] != hashlib.sha256(canonical.encode()).hexdigest():
            return False
        key = Ed25519PublicKey.from_public_bytes(from_base64url(terms["verifiers"]["tests"]))
        try:
            key.verify(from_base64url(signature), f"{head}.{claims}".encode())
        except InvalidSignature:
            return False
        return said["escrow"] == escrow_id

    # ------------------------------------------------------------------ spending

    def _look_at(self, nonce: str, url: str) -> None:
        if nonce in self._approved or ("approves_all" in self._flaws and self._approved):
            return
        self._waiting[nonce] = url
        raise RefusedError("payment_in_review")

    def _account(self, said: Document) -> str:
        if "mandate" not in said:
            return super()._account(said)
        return self.mandates[said["mandate"]].organisation

    def _hold(self, said: Document, amount: int) -> None:
        if self._account(said) in self._watched:
            self._look_at(said["jti"], said["url"])
        chain = self.mandates[said["mandate"]].chain() if "mandate" in said else []
        for link in chain:
            if link.is_revoked and "never_revokes" not in self._flaws:
                raise RefusedError("mandate_revoked")
            is_own = link is chain[0] or "budgets_are_private" not in self._flaws
            if is_own and link.budget is not None and link.spent + amount > link.budget:
                raise RefusedError("limit_exceeded")
        super()._hold(said, amount)
        for link in chain:
            link.spent += amount


def _quanta(text: Any) -> int:  # noqa: ANN401 - whatever JSON has
    return int(Decimal(text) * QUANTA_PER_UNIT)
