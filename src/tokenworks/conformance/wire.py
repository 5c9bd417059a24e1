"""
Attacks with requests that are no requests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final, TypeAlias, cast

from tokenworks.conformance.facilitator import Answer
from tokenworks.conformance.ground import Ground, count_reasons
from tokenworks.conformance.model import Attack, Check, Group, JsonObject, Outcome, failed, survived

OVERSIZED_BYTES: Final = 8 * 1024 * 1024
NESTED_DEPTH: Final = 100_000

Body: TypeAlias = "Callable[[JsonObject], bytes]"


def _without(*path: str) -> Body:
    """
    Return a body from which a member was taken.
    """

    def body(document: JsonObject) -> bytes:
        changed = json.loads(json.dumps(document))
        parent = changed
        for name in path[:-1]:
            parent = parent[name]
        del parent[path[-1]]
        return json.dumps(changed).encode()

    return body


def _with(value: object, *path: str) -> Body:
    """
    Return a body in which a member was replaced.
    """

    def body(document: JsonObject) -> bytes:
        changed = json.loads(json.dumps(document))
        parent = changed
        for name in path[:-1]:
            parent = parent[name]
        parent[path[-1]] = value
        return json.dumps(changed).encode()

    return body


def _version(value: object) -> Body:
    """
    Return a body that speaks another version, on its envelope and in its payload.
    """

    def body(document: JsonObject) -> bytes:
        payment = {**cast("JsonObject", document["paymentPayload"]), "x402Version": value}
        changed = {**document, "x402Version": value, "paymentPayload": payment}
        return json.dumps(changed).encode()

    return body


def _bytes(content: bytes) -> Body:
    return lambda _: content


def _oversized(document: JsonObject) -> bytes:
    return json.dumps({**document, "padding": "x" * OVERSIZED_BYTES}).encode()


def _refused_bodies(bodies: dict[str, Body], loss: str) -> Attack:
    async def attack(ground: Ground) -> Outcome:
        wallet = await ground.purse.funded()
        accepted: list[str] = []
        broken: list[str] = []
        answers: list[Answer] = []
        for name, body in bodies.items():
            content = body(ground.order(wallet, ground.sale_at("wire")).to_document())
            for path in ("/verify", "/settle"):
                answer = await ground.facilitator.send(path, content)
                answers.append(answer)
                if answer.is_valid or answer.is_settled:
                    accepted.append(f"{name} at {path}")
                elif answer.is_fault:
                    broken.append(f"{name} at {path}")
        evidence = {
            "sent": len(answers),
            "accepted": accepted,
            "broke_on": broken,
            "reasons": count_reasons(answers),
        }
        if accepted:
            return failed(f"{loss}: {', '.join(accepted)}.", **evidence)
        if broken:
            return failed(
                f"{len(broken)} of {len(answers)} were answered with a fault (5xx or nothing).",
                **evidence,
            )
        return survived(f"All {len(answers)} were refused.", **evidence)

    return attack


WRONG_VERSIONS: Final[dict[str, Body]] = {
    "version 3": _version(3),
    "version 0": _version(0),
    "version as text": _version("two"),
    "no version": _version(None),
}
MALFORMED: Final[dict[str, Body]] = {
    "nothing": _bytes(b""),
    "no JSON": _bytes(b"{"),
    "no UTF-8": _bytes(b'{"x402Version": "\xff"}'),
    "a list": _bytes(b"[]"),
    "a number": _bytes(b"2"),
    "no payload": _without("paymentPayload"),
    "no requirements": _without("paymentRequirements"),
    "no amount": _without("paymentRequirements", "amount"),
    "no payee": _without("paymentRequirements", "payTo"),
    "no signature": _without("paymentPayload", "payload"),
    "a payload that is text": _with("eyJ9", "paymentPayload", "payload"),
    "a payload that is empty": _with({}, "paymentPayload", "payload"),
    "requirements that are a list": _with([], "paymentRequirements"),
    "a price that is a list": _with(["1"], "paymentRequirements", "amount"),
}

CHECKS: Final = (
    Check(
        check_id="wrong-version",
        group=Group.WIRE,
        proves="Only the version that is spoken is understood.",
        attack=_refused_bodies(WRONG_VERSIONS, "Another version was taken for version 2"),
    ),
    Check(
        check_id="malformed-request",
        group=Group.WIRE,
        proves="What is no request is refused as the caller's fault, and nothing breaks.",
        attack=_refused_bodies(MALFORMED, "What is no request was accepted"),
    ),
    Check(
        check_id="oversized-request",
        group=Group.WIRE,
        proves="A request of eight megabytes is refused unread.",
        attack=_refused_bodies({"8 MiB": _oversized}, "Eight megabytes were read and accepted"),
    ),
    # The last of all: it ends processes whose JSON decoder has no bound of its own.
    Check(
        check_id="nested-request",
        group=Group.WIRE,
        proves="A request nested a hundred thousand deep is refused, and nobody dies of it.",
        attack=_refused_bodies(
            {"deep nesting": _bytes(b"[" * NESTED_DEPTH)}, "A bottomless request was accepted"
        ),
    ),
)
