"""
From a submission to a verdict: what counts, what the condition says, whether that is the last word.

The same for the hub, for ``escrow check-condition`` and for whoever runs a receipt again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from tokenworks.agents.escrow.attestation import attested_claims
from tokenworks.agents.escrow.condition import (
    condition_sha256,
    presence_asked,
    tokens_of,
    verifiers_named,
)
from tokenworks.agents.escrow.model import Attestation, JsonObject, Share, Verdict
from tokenworks.agents.escrow.ports import Evaluator
from tokenworks.agents.escrow.result import document_of, sha256_hex
from tokenworks.agents.escrow.totalling import metered_sha256

NOTHING: Final = Share(part=0, whole=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """
    A verdict, and whether a verifier that has not spoken could still change it.
    """

    verdict: Verdict
    is_final: bool
    silent: frozenset[str]  # verifiers that the condition asks for and that have not spoken


async def evaluate(
    evaluator: Evaluator,
    condition: str,
    result: bytes,
    attestations: Sequence[Attestation],
    metered: JsonObject | None = None,
) -> Judgement:
    """
    Return what a condition says of a canonical result, the statements about it and its calls.

    Not met is final unless it may be a verifier's silence that makes it so: the condition asks
    for one that said nothing, and it was this very name that was missing, or the condition asks
    whether it spoke. With a statement that was refused nobody waits for another.

    Raises:
        EvaluatorUnavailableError: There is no verdict now.
    """
    judgement = await evaluate_claims(
        evaluator, condition, result, attested_claims(attestations), metered
    )
    has_refused = any(item.refusal is not None for item in attestations)
    return replace(judgement, is_final=judgement.is_final or has_refused)


async def evaluate_claims(
    evaluator: Evaluator,
    condition: str,
    result: bytes,
    claims: Mapping[str, JsonObject],
    metered: JsonObject | None = None,
) -> Judgement:
    """
    Return what a condition says of a canonical result, what verifiers claim and what was metered.

    Raises:
        EvaluatorUnavailableError: There is no verdict now.
    """
    content: dict[str, Any] = msgspec.json.decode(result)
    evaluation = await evaluator.evaluate(condition, document_of(content, claims, metered))
    verdict = Verdict(
        share=evaluation.share or NOTHING,
        error=evaluation.error,
        condition_sha256=condition_sha256(condition),
        result_sha256=sha256_hex(result),
        engine=evaluator.engine,
        metered_sha256=None if metered is None else metered_sha256(metered),
    )
    silent = verifiers_named(tokens_of(condition)) - claims.keys()
    is_missed = any(verdict.error == f"KeyError: {name!r}" for name in silent)
    might_change = bool(silent) and (is_missed or presence_asked(condition))
    return Judgement(
        verdict=verdict, is_final=verdict.is_met or not might_change, silent=frozenset(silent)
    )
