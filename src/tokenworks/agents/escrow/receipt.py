"""
What a capture's receipt says of the escrow, so that either side can run it again; pure.

The receipt holds the condition itself, what the hub metered, and the hash of everything it was
evaluated over. Whoever has the result and the verifiers' statements needs no hub: ``tokenworks
escrow verify``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from tokenworks.agents.escrow.condition import condition_sha256
from tokenworks.agents.escrow.model import Decision, Escrow, Submission, Verdict
from tokenworks.foundation.identifiers import identifier_text
from tokenworks.foundation.money import ASSETS, quanta_to_text
from tokenworks.receipts.model import JsonValue

FIELD: Final = "escrow"
"""The receipt's field that holds it; seen by payer and payee."""


def receipt_details(escrow: Escrow, decision: Decision) -> dict[str, JsonValue]:
    """
    Return what stands in the receipt's field ``escrow`` for one decision.
    """
    milestone = escrow.terms.milestones[decision.milestone]
    submission = escrow.milestones[decision.milestone].submission
    scale = ASSETS[escrow.currency].scale
    return {
        "terms_sha256": escrow.terms_sha256,
        "milestone": milestone.name,
        "of": quanta_to_text(milestone.quanta, scale=scale),
        "condition": milestone.condition,
        "condition_sha256": condition_sha256(milestone.condition),
        "verifiers": dict(escrow.terms.verifiers),
        "ground": decision.ground.value,
        "reason": decision.reason,
        "decided_at": decision.decided_at.isoformat(),
        "submission": None if submission is None else _submission(submission),
    }


def _submission(submission: Submission) -> Mapping[str, JsonValue]:
    return {
        "number": submission.number,
        "submitted_at": submission.submitted_at.isoformat(),
        "result_sha256": submission.result_sha256,
        "calls": [identifier_text(call_id) for call_id in submission.calls],
        "metered": cast("JsonValue", submission.metered),
        "metered_sha256": submission.metered_sha256,
        "attestations": [
            {
                "verifier": attestation.verifier,
                "sha256": attestation.sha256,
                "refusal": attestation.refusal,
            }
            for attestation in submission.attestations
        ],
        "verdict": None if submission.verdict is None else _verdict(submission.verdict),
    }


def _verdict(verdict: Verdict) -> Mapping[str, JsonValue]:
    return {
        "is_met": verdict.is_met,
        "share": f"{verdict.share.part}/{verdict.share.whole}",
        "error": verdict.error,
        "engine": verdict.engine,
    }
