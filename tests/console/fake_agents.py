"""
Agents, mandates, payments, reviews and escrows of the fake hub, in the shapes of the hub API.

``test_contract.py`` compares every path and field here with the hub's own description.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

Document = dict[str, Any]
CURRENCY = "USD"
WALLET = "9sVt0mVJq3lKeFz1s4yWWl5cQXlCIr7H0AqIvbQ0b1E"


def identifier(name: str) -> str:
    """
    Return an id; the same name has the same.
    """
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def moment(at: datetime) -> str:
    """
    Return a time as the hub writes it.
    """
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def party(name: str) -> Document:
    """
    Return a reference to a party.
    """
    return {"party_id": identifier(name), "name": name}


def in_s(seconds: float) -> str:
    """
    Return the time so many seconds from now.
    """
    return moment(datetime.now(UTC) + timedelta(seconds=seconds))


@dataclass
class FakeAgents:
    """
    What the fake hub knows of agents; tests change it.
    """

    parties: list[Document] = field(default_factory=list)
    mandates: dict[str, Document] = field(default_factory=dict)
    terms: dict[str, Document] = field(default_factory=dict)
    payments: dict[str, Document] = field(default_factory=dict)
    reviews: dict[str, Document] = field(default_factory=dict)
    escrows: dict[str, Document] = field(default_factory=dict)
    strangers: set[str] = field(default_factory=set)  # payees whose names are known
    refusal: str = ""  # why the next actions are refused
    done: list[tuple[str, Document]] = field(default_factory=list)  # what was posted, where

    # ------------------------------------------------------------------ what tests do

    def add_party(self, name: str, level: str, *, parent: str | None = None) -> str:
        """
        Add an owner, a team or an agent; returns its id.
        """
        self.parties.append(
            {
                "party_id": identifier(name),
                "name": name,
                "level": level,
                "state": "active",
                "parent_id": identifier(parent) if parent else None,
                "limits": [],
            }
        )
        return identifier(name)

    def add_mandate(
        self,
        label: str,
        agent: str,
        *,
        limits: list[tuple[str, str, str, str, str]],
        parent: str | None = None,
        terms: Document | None = None,
        expires_s: float | None = None,
        state: str = "active",
    ) -> str:
        """
        Add a mandate with limits (window, whole, spent, held, left); returns its id.
        """
        mandate_id = identifier(f"mandate {label}")
        self.mandates[mandate_id] = {
            "mandate_id": mandate_id,
            "agent_id": identifier(agent),
            "label": label,
            "state": state,
            "parent_id": identifier(f"mandate {parent}") if parent else None,
            "depth": 2 if parent else 1,
            "currency": CURRENCY,
            "expires_at": in_s(expires_s) if expires_s is not None else None,
            "limits": [
                {
                    "per": window,
                    "unit": "payments" if window == "hour" else CURRENCY,
                    "amount": whole,
                    "spent": spent,
                    "held": held,
                    "remaining": left,
                    "resets_at": None if window == "ever" else in_s(3600),
                }
                for window, whole, spent, held, left in limits
            ],
        }
        self.terms[mandate_id] = {"currency": CURRENCY} | (terms or {})
        return mandate_id

    def pay(
        self,
        mandate_id: str,
        agent: str,
        payee: str,
        amount: str,
        *,
        state: str = "captured",
        action: str = "allow",
        reasons: list[Document] | None = None,
        ago_s: float = 5.0,
        resource: str = "GET https://data.example/v1/prices?day=today",
    ) -> str:
        """
        Add a payment; returns its id.
        """
        payment_id = str(uuid.uuid4())
        self.payments[payment_id] = {
            "payment_id": payment_id,
            "state": state,
            "scheme": "exact",
            "payer": WALLET,
            "payee": party(payee),
            "amount": amount if state == "captured" else "0",
            "currency": CURRENCY,
            "resource": resource,
            "recorded_at": in_s(-ago_s),
            "authorised": amount,
            "agent": party(agent),
            "organisation": party("acme"),
            "mandate_id": mandate_id,
            "brake": {
                "action": action,
                "reasons": reasons or [],
                "score_ppm": 120_000,
                "rules_version": 3,
                "review": None,
            },
            "review": None,
        }
        return payment_id

    def hold(
        self,
        amount: str = "12.5",
        *,
        agent: str = "scout",
        payee: str = "data.example",
        needed: int = 1,
        left_s: float = 900,
        reasons: list[Document] | None = None,
        description: str = "",
    ) -> str:
        """
        Add a payment that waits for a person; returns the review's id.
        """
        review_id = str(uuid.uuid4())
        rule = {
            "rule": "new_payee",
            "action": "hold",
            "text": f"The first payment to this payee is {amount} USD;"
            " the rule says at most 10 USD.",
            "figures": {"payee": identifier(payee), "amount": amount, "bound": "10"},
        }
        self.reviews[review_id] = {
            "review_id": review_id,
            "state": "pending",
            "digest": hashlib.sha256(review_id.encode()).hexdigest(),
            "agent": party(agent),
            "organisation": party("acme"),
            "payee": party(payee),
            "mandate_id": next(iter(self.mandates), None),
            "amount": amount,
            "currency": CURRENCY,
            "resource": "POST https://data.example/v1/report",
            "description": description,
            "reasons": reasons or [rule],
            "score_ppm": 1_340_000,
            "rules_version": 3,
            "approvals_needed": needed,
            "approved_by": [],
            "decisions": [],
            "created_at": in_s(-20),
            "expires_at": in_s(left_s),
            "decided_at": None,
            "note": "",
        }
        return review_id

    def fill(self) -> None:
        """
        Make a believable small world.
        """
        self.add_party("acme", "organisation")
        self.add_party("research", "team", parent="acme")
        self.add_party("orchestrator", "agent", parent="research")
        self.add_party("scout", "agent", parent="research")
        self.add_party("writer", "agent", parent="acme")
        root = self.add_mandate(
            "research budget",
            "orchestrator",
            limits=[
                ("day", "20", "6.4121", "1.2", "12.3879"),
                ("month", "200", "88.12", "1.2", "110.68"),
            ],
            terms={
                "amount_max": "2",
                "budgets": [
                    {"window": "day", "amount": "20"},
                    {"window": "month", "amount": "200"},
                ],
                "delegations_max": 2,
            },
        )
        scout = self.add_mandate(
            "look things up",
            "scout",
            parent="research budget",
            limits=[
                ("day", "5", "4.8312", "0.06", "0.1088"),
                ("hour", "600", "412", "3", "185"),
            ],
            terms={
                "amount_min": "0.0001",
                "amount_max": "0.1",
                "budgets": [{"window": "day", "amount": "5"}],
                "counts": [{"window": "hour", "payments": 600}],
                "payee_budgets": [{"window": "day", "amount": "1"}],
                "payees": [identifier("data.example"), identifier("maps.example")],
                "tools": ["call_model", "pay"],
                "models": ["smollm2@standard"],
                "not_after": in_s(86_400 * 5),
            },
            expires_s=86_400 * 5,
        )
        self.add_mandate(
            "one report",
            "writer",
            limits=[("ever", "40", "40", "0", "0")],
            terms={"reference": "report-17", "budgets": [{"window": "ever", "amount": "40"}]},
            expires_s=-3600,
        )
        for index in range(8):
            self.pay(
                scout if index % 3 else root,
                "scout" if index % 3 else "orchestrator",
                ("data.example", "maps.example")[index % 2],
                ("0.00184", "0.06", "0.0004")[index % 3],
                ago_s=20 + 37 * index,
                state="held" if index == 1 else "captured",
            )
        self.add_escrow("summarise", state="funded", ago_s=600)
        self.add_escrow("translate", state="disputed", payee="polyglot", ago_s=4_000)
        self.add_escrow("scrape", state="settled", payee="crawler", ago_s=9_000)

    # ------------------------------------------------------------------ what the hub knows

    def tree(self) -> Document:
        """
        Return the tree.
        """
        frozen: dict[str, bool] = {}
        for row in self.parties:
            above = frozen.get(row["parent_id"] or "", False)
            frozen[row["party_id"]] = above or row["state"] == "frozen"
        usable: dict[str, bool] = {}
        for row in self.mandates.values():
            above = usable.get(row["parent_id"] or "", True)
            own = row["state"] == "active" and not frozen[row["agent_id"]]
            usable[row["mandate_id"]] = above and own
        return {
            "as_of": in_s(0),
            "parties": [row | {"is_frozen": frozen[row["party_id"]]} for row in self.parties],
            "mandates": [
                row | {"is_usable": usable[row["mandate_id"]]} for row in self.mandates.values()
            ],
            "is_cut": False,
        }

    def decide(self, review_id: str, act: str, said: Document) -> Document:
        """
        Take one person's word on a review.
        """
        row = self.reviews[review_id]
        assert said["digest"] == row["digest"], "people decide on what they were shown"
        actor = f"01935c1d-{len(row['decisions'])}"
        row["decisions"].append(
            {
                "word": act,
                "actor": actor,
                "person": party("platform"),
                "scope": said.get("scope", "once"),
                "raised_per": said.get("raise_limit", {}).get("per"),
                "raised_to": said.get("raise_limit", {}).get("amount"),
                "note": said["note"],
                "digest": said["digest"],
                "decided_at": in_s(0),
            }
        )
        if act == "approve":
            row["approved_by"].append(actor)
        is_over = act == "deny" or len(row["approved_by"]) == row["approvals_needed"]
        if is_over:
            row["state"] = "denied" if act == "deny" else "approved"
            row["decided_at"] = in_s(0)
            row["note"] = said["note"]
        return row

    def arbitrate(self, escrow_id: str, said: Document) -> Document:
        """
        Take an arbiter's word.
        """
        row = self.escrows[escrow_id]
        for part in said["parts"]:
            for milestone in row["milestones"]:
                if milestone["name"] == part["milestone"]:
                    milestone["state"] = "decided"
        return self.escrow(row)

    def escrow(self, row: Document) -> Document:
        """
        Return an escrow as lists have it.
        """
        return {name: row[name] for name in row if name not in {"terms", "sides", "events"}}

    def names(self) -> dict[str, str]:
        """
        Return the name of every party and payee, by id.
        """
        paid = [payment["payee"] for payment in self.payments.values()]
        paid += [party(name) for name in self.strangers]
        return {row["party_id"]: row["name"] for row in [*self.parties, *paid]}

    def party(self, party_id: str) -> Document | None:
        """
        Return a party by its id.
        """
        name = self.names().get(party_id)
        if name is None:
            return None
        return {
            "party_id": party_id,
            "name": name,
            "kind": "buyer",
            "level": "organisation",
            "parent": None,
            "default_tier": "standard",
            "state": "active",
            "created_at": in_s(-86_400),
        }

    def mandate(self, row: Document) -> Document:
        """
        Return one mandate with its terms and history.
        """
        names = {party["party_id"]: party["name"] for party in self.parties}
        return {
            "mandate_id": row["mandate_id"],
            "agent": {"party_id": row["agent_id"], "name": names[row["agent_id"]]},
            "issuer": party("acme"),
            "organisation": party("acme"),
            "parent_id": row["parent_id"],
            "depth": row["depth"],
            "terms": self.terms[row["mandate_id"]],
            "state": row["state"],
            "label": row["label"],
            "created_at": in_s(-86_400),
            "expires_at": row["expires_at"],
            "revoked_at": in_s(0) if row["state"] == "revoked" else None,
            "status": "active" if row["state"] == "active" else f"mandate_{row['state']}",
            "limits": row["limits"],
            "chain": ["eyJhbGciOiJFZERTQSJ9.e30.c2ln"],
            "events": [
                {
                    "kind": "issued",
                    "happened_at": in_s(-86_400),
                    "actor": "key 01935c1d",
                    "details": {},
                }
            ],
        }

    def add_escrow(
        self, name: str, *, state: str = "funded", payee: str = "worker", ago_s: float = 60.0
    ) -> str:
        """
        Add an escrow with two milestones; returns its id.
        """
        escrow_id = identifier(f"escrow {name}")
        is_over = state == "settled"
        is_disputed = state == "disputed"
        digest = hashlib.sha256(name.encode()).hexdigest()
        submission = {
            "number": 1,
            "submitted_at": in_s(-ago_s / 2),
            "result_sha256": digest,
            "attestations": [
                {
                    "verifier": "ci",
                    "sha256": digest,
                    "claims": {"tests_passed": True},
                    "refusal": None,
                },
                {
                    "verifier": None,
                    "sha256": digest,
                    "claims": {},
                    "refusal": "This key is no verifier of the escrow.",
                },
            ],
            "verdict": {
                "is_met": not is_disputed,
                "share": "0/1" if is_disputed else "3/4",
                "error": "no_such_field: result has no field 'words'" if is_disputed else None,
                "engine": "cel 0.5.6",
            },
            "waits_for": [],
            "calls": [identifier(f"call {name}")],
            "metered": {
                "calls": 1,
                "input": 12,
                "output": 640,
                "charge": "0.0021",
                "currency": "USD",
            },
            "metered_sha256": digest,
        }
        decision = {
            "amount": "0.75",
            "ground": "condition_met",
            "reason": "",
            "decided_at": in_s(-ago_s / 3),
            "is_carried_out": True,
            "receipt": f"/hub/v1/payments/{escrow_id}/receipt?ordinal=0",
        }
        draft = {
            "name": "draft",
            "amount": "1",
            "condition": "result.status == 200 && result.words >= 500",
            "state": "decided" if is_over else "disputed" if is_disputed else "open",
            "submission": submission if is_over or is_disputed else None,
            "disputed_by": "payer" if is_disputed else None,
            "decision": decision if is_over else None,
        }
        final = draft | {
            "name": "final",
            "amount": "3",
            "condition": "result.attested.ci.tests_passed",
            "state": "decided" if is_over else "open",
            "submission": submission if is_over else None,
            "disputed_by": None,
            "decision": decision | {"amount": "3"} if is_over else None,
        }
        self.escrows[escrow_id] = {
            "escrow_id": escrow_id,
            "state": state,
            "payer_agent": identifier("orchestrator"),
            "organisation": identifier("acme"),
            "mandate": identifier("mandate research budget"),
            "payee": identifier(payee),
            "arbiter": None,
            "currency": CURRENCY,
            "amount": "4",
            "captured": "3.75" if is_over else "0",
            "terms_sha256": digest,
            "created_at": in_s(-ago_s),
            "submit_by": in_s(7_200),
            "decided_at": in_s(-ago_s / 3) if is_over else None,
            "cancel_asked_at": None,
            "milestones": [draft, final],
            "terms": {
                "milestones": [],
                "result_schema": {"type": "object"},
                "submit_by": in_s(7_200),
                "review_window_s": 600,
                "decide_by_s": 86_400,
                "verifiers": {"ci": WALLET},
            },
            "sides": ["arbiter"],
            "events": [
                {
                    "kind": "opened",
                    "occurred_at": in_s(-ago_s),
                    "actor": "wallet 9sVt0mVJ…",
                    "milestone": None,
                    "reason": "",
                    "evidence": [],
                },
                {
                    "kind": "submitted",
                    "occurred_at": in_s(-ago_s / 2),
                    "actor": "wallet c8Yp…",
                    "milestone": "draft",
                    "reason": "",
                    "evidence": [],
                },
            ],
        }
        self.strangers.add(payee)
        return escrow_id
