"""
From rules and score to a decision: the score may only add scrutiny.

Law: the decision is never below what the rules say, and a score alone never denies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokenworks.agents.brake.model import Action, Decision, Reason
from tokenworks.agents.brake.rule_sets import RuleSet
from tokenworks.agents.brake.rules import strictest
from tokenworks.agents.brake.scoring import Score

_MEANINGS: Final = {
    "amount": "the amount",
    "pace": "the pace of payments",
    "novelty": "the share of new payees",
    "rarity": "a payee that is seldom paid",
}


def decide(
    reasons: Sequence[Reason], score: Score, chain: Sequence[RuleSet], *, rules_version: int
) -> Decision:
    """
    Return what happens to a payment.
    """
    spoken = list(reasons)
    bounds = [
        rules.score.above_ppm for rules in chain if rules.score is not None and rules.score.is_on
    ]
    bound = min(bounds, default=None)
    if bound is not None and score.ppm >= bound:
        spoken.append(
            Reason(
                rule="score",
                action=Action.HOLD,
                text=(
                    f"Unusual for this agent, most of all {_MEANINGS[score.feature]}:"
                    f" {score.z_milli / 1000:.1f} robust deviations from what it does."
                ),
                figures={
                    "feature": score.feature,
                    "z_milli": score.z_milli,
                    "score_ppm": score.ppm,
                    "bound": bound,
                },
            )
        )
    return Decision(
        action=strictest([reason.action for reason in spoken]),
        reasons=tuple(spoken),
        score_ppm=score.ppm,
        rules_version=rules_version,
    )
