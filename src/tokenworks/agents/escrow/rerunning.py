"""
Run a receipt's condition again, without the hub: either side, at any time.

The receipt's signature is checked elsewhere (``receipts.verify``); here everything it says about
the condition is computed anew from the result and the verifiers' statements, and compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from tokenworks.agents.escrow.attestation import judge_attestation
from tokenworks.agents.escrow.condition import condition_sha256
from tokenworks.agents.escrow.errors import ResultInvalidError
from tokenworks.agents.escrow.evaluating import evaluate
from tokenworks.agents.escrow.model import Ground, Share, Verdict
from tokenworks.agents.escrow.ports import Evaluator
from tokenworks.agents.escrow.result import check_result, sha256_hex
from tokenworks.foundation.money import ASSETS, quanta_from_text


class _SaidAttestation(msgspec.Struct, frozen=True):
    verifier: str | None
    sha256: str
    refusal: str | None


class _SaidVerdict(msgspec.Struct, frozen=True):
    is_met: bool
    share: str
    error: str | None
    engine: str


class _SaidSubmission(msgspec.Struct, frozen=True):
    result_sha256: str
    attestations: list[_SaidAttestation]
    verdict: _SaidVerdict | None
    calls: list[str] = []
    metered: dict[str, Any] | None = None
    metered_sha256: str | None = None


class _Said(msgspec.Struct, frozen=True):
    milestone: str
    of: str
    condition: str
    condition_sha256: str
    verifiers: dict[str, str]
    ground: str
    decided_at: datetime
    submission: _SaidSubmission | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """
    What came out, and where it differs from the receipt.
    """

    verdict: Verdict
    problems: tuple[str, ...]


async def rerun(
    receipt: Mapping[str, Any],
    result: object,
    attestations: Sequence[str],
    evaluator: Evaluator,
) -> Rerun:
    """
    Evaluate a receipt's condition again and compare.

    Args:
        receipt: The document's member ``receipt``.
        result: What was submitted, as ``read_strictly`` gave it.
        attestations: The verifiers' statements that were handed in (JWS).
        evaluator: The reader's own.

    Raises:
        ResultInvalidError: The receipt is of no escrow, or the result is none.
        EvaluatorUnavailableError: There is no verdict now.
    """
    try:
        said = msgspec.convert(receipt.get("escrow"), type=_Said)
        escrow_id = UUID(str(receipt.get("call_id")))
    except (msgspec.ValidationError, ValueError) as error:
        raise ResultInvalidError("This is no receipt of an escrow.", param="receipt") from error
    content = check_result(result)
    judged = [
        judge_attestation(
            jws,
            escrow_id=escrow_id,
            milestone=said.milestone,
            result_sha256=sha256_hex(content),
            verifiers=said.verifiers,
            now=said.decided_at,
        )
        for jws in attestations
    ]
    metered = None if said.submission is None else said.submission.metered
    judgement = await evaluate(evaluator, said.condition, content, judged, metered)
    problems = [
        *_hash_problems(said, judgement.verdict),
        *_metered_problems(said, judgement.verdict),
        *_statement_problems(said, [(item.sha256, item.refusal) for item in judged]),
        *_verdict_problems(said, judgement.verdict),
        *_amount_problems(said, judgement.verdict.share, receipt),
    ]
    return Rerun(verdict=judgement.verdict, problems=tuple(problems))


def _hash_problems(said: _Said, verdict: Verdict) -> list[str]:
    problems: list[str] = []
    if said.condition_sha256 != condition_sha256(said.condition):
        problems.append("the receipt's condition is not the one its hash names")
    if said.submission is None:
        problems.append("nothing was submitted for this part, by the receipt")
    elif said.submission.result_sha256 != verdict.result_sha256:
        problems.append("the result is not the one that was submitted: its hash differs")
    return problems


def _metered_problems(said: _Said, verdict: Verdict) -> list[str]:
    if said.submission is None:
        return []
    problems: list[str] = []
    if said.submission.metered_sha256 != verdict.metered_sha256:
        problems.append("what was metered is not what its hash names")
    counted = (said.submission.metered or {}).get("calls", 0)
    if counted != len(set(said.submission.calls)):
        problems.append(f"{counted} calls were metered, the receipt names others")
    return problems


def _statement_problems(said: _Said, found: Sequence[tuple[str, str | None]]) -> list[str]:
    if said.submission is None:
        return []
    named = {(item.sha256, item.refusal) for item in said.submission.attestations}
    missing = named - set(found)
    more = set(found) - named
    problems = [f"the statement {sha256} is missing, or judged otherwise" for sha256, _ in missing]
    return problems + [f"the statement {sha256} is not the receipt's" for sha256, _ in more]


def _verdict_problems(said: _Said, verdict: Verdict) -> list[str]:
    recorded = None if said.submission is None else said.submission.verdict
    if recorded is None:
        return []  # silence or an arbiter decided: there is no verdict to compare with
    problems: list[str] = []
    share = f"{verdict.share.part}/{verdict.share.whole}"
    if (recorded.share, recorded.error) != (share, verdict.error):
        problems.append(f"the condition comes to {share}, the receipt says {recorded.share}")
    if recorded.engine != verdict.engine:
        problems.append(f"evaluated by {verdict.engine}, the hub used {recorded.engine}")
    return problems


def _amount_problems(said: _Said, share: Share, receipt: Mapping[str, Any]) -> list[str]:
    if said.ground != Ground.CONDITION_MET:
        return []
    scale = ASSETS[str(receipt["currency"])].scale
    due = share.of_quanta(quanta_from_text(said.of, scale=scale))
    paid = quanta_from_text(str(receipt["amount"]), scale=scale)
    return [] if due == paid else [f"{paid} quanta were paid, the share is worth {due}"]
