"""
The fake hub's doors for agents, mandates, payments, reviews and escrows.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.responses import Response

from tests.console.fake_agents import Document
from tests.console.fake_hub import FakeHub
from tests.console.problems import problem


def serve_agents(app: FastAPI, hub: FakeHub) -> None:
    """
    Add what the pages about agents ask for.
    """
    _serve_tree(app, hub)
    _serve_names(app, hub)
    _serve_payments(app, hub)
    _serve_reviews(app, hub)
    _serve_escrows(app, hub)


def _serve_tree(app: FastAPI, hub: FakeHub) -> None:
    @app.get("/hub/v1/agents/tree", response_model=None)
    async def tree() -> Document:
        return hub.agents.tree()

    @app.get("/hub/v1/mandates/{mandate_id}", response_model=None)
    async def mandate(mandate_id: str) -> Document | Response:
        found = hub.agents.mandates.get(mandate_id)
        if found is None:
            return problem(404, "mandate_not_found", f"There is no mandate {mandate_id}.")
        return hub.agents.mandate(found)

    @app.post("/hub/v1/{kind}/{identifier}/{act}", response_model=None)
    async def change(request: Request, kind: str, identifier: str, act: str) -> Document | Response:
        hub.agents.done.append((request.url.path, await request.json()))
        if hub.agents.refusal:
            return problem(409, "mandate_conflict", hub.agents.refusal)
        if kind == "reviews":
            return hub.agents.decide(identifier, act, await request.json())
        if kind == "escrows":
            return hub.agents.arbitrate(identifier, await request.json())
        state = {"freeze": "frozen", "thaw": "active", "revoke": "revoked"}[act]
        rows = hub.agents.mandates.values() if kind == "mandates" else hub.agents.parties
        name = "mandate_id" if kind == "mandates" else "party_id"
        for row in rows:
            if row[name] == identifier:
                row["state"] = state
                if act == "revoke":
                    return hub.agents.mandate(row)
                label = row.get("label") or row["name"]
                kind = kind.removesuffix("s").replace("agent", "party")
                return {"kind": kind, "id": identifier, "name": label, "state": state}
        return problem(404, "not_found", "There is no such thing.")


def _serve_names(app: FastAPI, hub: FakeHub) -> None:
    @app.get("/hub/v1/parties/{party_id}", response_model=None)
    async def one_party(party_id: str) -> Document | Response:
        found = hub.agents.party(party_id)
        return found or problem(404, "party_not_found", f"There is no party {party_id}.")


def _serve_payments(app: FastAPI, hub: FakeHub) -> None:
    @app.get("/hub/v1/payments", response_model=None)
    async def payments(mandate: str = "", limit: int = 50, *, held: bool = False) -> Document:
        rows = [
            payment
            for payment in hub.agents.payments.values()
            if mandate in {"", payment["mandate_id"]}
            and held == (payment["state"] in {"held", "in_review"})
        ]
        rows.sort(key=lambda payment: payment["recorded_at"], reverse=True)
        return {"items": rows[:limit], "next_cursor": None}

    @app.get("/hub/v1/payments/{payment_id}", response_model=None)
    async def payment(payment_id: str) -> Document | Response:
        found = hub.agents.payments.get(payment_id)
        return found or problem(404, "payment_not_found", f"There is no payment {payment_id}.")

    @app.get("/hub/v1/payments/{payment_id}/receipt", response_model=None)
    async def receipt(payment_id: str) -> Document | Response:
        return problem(404, "receipt_not_found", f"There is no receipt of {payment_id}.")


def _serve_reviews(app: FastAPI, hub: FakeHub) -> None:
    @app.get("/hub/v1/reviews", response_model=None)
    async def reviews(state: str = "", limit: int = 50) -> Document:
        rows = [
            {name: value for name, value in row.items() if name != "decisions"}
            for row in hub.agents.reviews.values()
            if state in {"", row["state"]}
        ]
        return {"items": rows[::-1][:limit], "next_cursor": None}

    @app.get("/hub/v1/reviews/{review_id}", response_model=None)
    async def review(review_id: str) -> Document | Response:
        found = hub.agents.reviews.get(review_id)
        return found or problem(404, "review_not_found", f"There is no review {review_id}.")


def _serve_escrows(app: FastAPI, hub: FakeHub) -> None:
    @app.get("/hub/v1/escrows", response_model=None)
    async def escrows(limit: int = 50) -> Document:
        rows = [hub.agents.escrow(row) for row in hub.agents.escrows.values()]
        return {"items": rows[:limit], "next_cursor": None}

    @app.get("/hub/v1/escrows/{escrow_id}", response_model=None)
    async def escrow(escrow_id: str) -> Document | Response:
        found = hub.agents.escrows.get(escrow_id)
        return found or problem(404, "escrow_not_found", f"There is no escrow {escrow_id}.")

    @app.get("/hub/v1/escrows/{escrow_id}/result", response_model=None)
    async def result(escrow_id: str, milestone: str) -> Document | Response:
        if escrow_id not in hub.agents.escrows or not milestone:
            return problem(404, "escrow_not_found", f"There is no escrow {escrow_id}.")
        return {"words": 512, "status": 200}
