"""
How well the brake tells attacks from an agent's usual payments, and what a judgement costs.

SIMULATION: a synthetic stream with labels, about 20,500 payments of one agent over ten days with
three injected attacks, in the manner of the report that the score was designed after. A simulated
person who is always right approves what was held wrongly, so that it is learned from, and denies
the rest. What it shows is how detectors differ on such streams, not how often real agents are
attacked. No database: the pure parts of ``agents.brake`` in one process; times are of the
processor, so that a busy machine does not count.
"""

from __future__ import annotations

import hashlib
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from tokenworks.agents.brake.deciding import decide
from tokenworks.agents.brake.model import Action, Decision, Subject
from tokenworks.agents.brake.profile import MASK_64, Profile, mark_of, resource_number
from tokenworks.agents.brake.rule_documents import default_rules
from tokenworks.agents.brake.rule_sets import RuleSet
from tokenworks.agents.brake.rules import Picture, judge_rules
from tokenworks.agents.brake.scoring import (
    PACE_PAYMENTS,
    PPM,
    features_of,
    learn,
    score_of,
)

MARK_KEY: Final = b"benchmark"
SEEDS: Final = (1, 2, 3, 4, 5)
USUAL_PAYMENTS: Final = 20_000
LOOP_PAYMENTS: Final = 400
LARGE_PAYMENTS: Final = 40
SALAMI_PAYMENTS: Final = 60
USUAL_PAYEES: Final = 100
NEW_PAYEE_SHARE: Final = 0.004  # of usual payments: agents do find new shops
DAY_S: Final = 86_400
START: Final = datetime(2026, 3, 2, tzinfo=UTC)
DOLLAR: Final = 10**9

FIELD_REPORT: Final = {
    "max robust-z over 4 features, 1 seed": {
        "loop": 0.95,
        "new_payee_large": 1.00,
        "salami": 1.00,
        "false_positives": 0.031,
    },
    "river HalfSpaceTrees 0.26.1, 1 seed": {
        "loop": 0.00,
        "new_payee_large": 1.00,
        "salami": 0.96,
        "false_positives": 0.004,
    },
    "sklearn IsolationForest, 1 seed": {
        "loop": 0.02,
        "new_payee_large": 1.00,
        "salami": 1.00,
        "false_positives": 0.042,
    },
}
"""What others measured on a stream of this kind; a stream of their own, so only of its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """
    One payment of the stream, with what it really is.
    """

    at_s: float
    label: str  # usual, loop, new_payee_large or salami
    payee: int
    quanta: int
    resource: str
    request: bytes


def make_stream(seed: int) -> list[Event]:
    """
    Return a labelled stream: usual payments and three attacks at random moments.
    """
    dice = random.Random(seed)
    events: list[Event] = []
    # A few shops have most of the payments; each has prices around its own.
    weights = [1 / (rank + 1) for rank in range(USUAL_PAYEES)]
    prices = [dice.lognormvariate(-7.0, 0.8) for _ in range(USUAL_PAYEES)]
    at_s, fresh = 0.0, 1_000_000
    for number in range(USUAL_PAYMENTS):
        # Twice as busy in the middle of a day as in the night; now and then a short burst.
        hour = at_s % DAY_S / 3_600
        busy = 1.5 - 0.5 * abs(hour - 12) / 12
        mean_s = 43.0 / busy / (4 if dice.random() < 0.2 else 1)
        at_s += dice.expovariate(1 / mean_s)
        if dice.random() < NEW_PAYEE_SHARE:
            payee, price = fresh, dice.lognormvariate(-7.0, 0.8)
            fresh += 1
        else:
            payee = dice.choices(range(USUAL_PAYEES), weights)[0]
            price = prices[payee]
        quanta = max(1, int(price * dice.lognormvariate(0, 0.35) * DOLLAR))
        events.append(_event(at_s, "usual", payee, quanta, str(number)))
    last_s = at_s
    start_s = dice.uniform(0.3, 0.9) * last_s
    for step in range(LOOP_PAYMENTS):
        # The agent is stuck: the same call about three times a second.
        at = start_s + step * dice.uniform(0.2, 0.4)
        events.append(_event(at, "loop", 3, int(prices[3] * DOLLAR), "stuck"))
    for step in range(LARGE_PAYMENTS):
        # One that was talked into it: a hundred times the usual, to whom it never paid.
        at = dice.uniform(0.3, 0.95) * last_s
        quanta = int(dice.uniform(80, 300) * statistics.median(prices) * DOLLAR)
        events.append(_event(at, "new_payee_large", 2_000_000 + step, quanta, f"large {step}"))
    start_s = dice.uniform(0.3, 0.9) * last_s
    for step in range(SALAMI_PAYMENTS):
        # Slice by slice: usual amounts at a usual pace, each to another new payee.
        at = start_s + step * 45 + dice.uniform(0, 20)
        quanta = int(dice.lognormvariate(-7.0, 0.5) * DOLLAR)
        events.append(_event(at, "salami", 3_000_000 + step, quanta, f"salami {step}"))
    return sorted(events, key=lambda event: event.at_s)


def _event(at_s: float, label: str, payee: int, quanta: int, request: str) -> Event:
    return Event(
        at_s=at_s,
        label=label,
        payee=payee,
        quanta=quanta,
        resource=f"POST https://shop-{payee}.example/v1/work",
        request=hashlib.sha256(f"{payee} {request}".encode()).digest(),
    )


class Judge:
    """
    Judge a stream as the service does, without its database: what is allowed, by the brake or
    by a person, is captured.
    """

    def __init__(self, chain: Sequence[RuleSet]) -> None:
        self.chain = tuple(chain)
        self.profile = Profile()
        self.payees: dict[UUID, int] = {}

    def judge(self, event: Event, number: int) -> tuple[Decision, int]:
        """
        Return the decision on one payment, and the nanoseconds of its score alone.
        """
        subject = _subject(event, number)
        now_us = int((START.timestamp() + event.at_s) * 1_000_000)
        profile = self.profile
        known = self.payees.get(subject.payee_id)
        profile.minute.move_to(now_us)
        profile.hour.move_to(now_us)
        is_met = known is None and profile.meet(subject.payee_id.int & MASK_64)
        price = profile.usual_price(resource_number(subject.resource))
        picture = Picture(
            now=START,
            payments_minute=sum(profile.minute.counts) + 1,
            payments_hour=sum(profile.hour.counts) + 1,
            quanta_minute=sum(profile.minute.sums) + subject.quanta,
            quanta_hour=sum(profile.hour.sums) + subject.quanta,
            new_payees_hour=sum(profile.hour.news) + is_met,
            equal_calls_us=profile.equal_calls(subject.request_digest, now_us=now_us),
            is_known_payee=known is not None,
            usual_quanta=None if price is None else price[0],
            usual_count=0 if price is None else price[1],
            usual_of="resource",
            budgets=(),
        )
        begun = time.thread_time_ns()
        features = features_of(
            quanta=subject.quanta,
            times_us=[*profile.recent_times(PACE_PAYMENTS - 1), now_us],
            is_new_payee=known is None,
            payee_payments=known or 0,
            state=profile.score,
        )
        score = score_of(features, profile.score, is_new_payee=known is None)
        scored_ns = time.thread_time_ns() - begun
        reasons = judge_rules(subject, picture, self.chain)
        decision = decide(reasons, score, self.chain, rules_version=0)
        profile.add(
            subject,
            mark=mark_of(subject, MARK_KEY),
            now_us=now_us,
            is_new_payee=is_met,
            action=decision.action,
            score_ppm=decision.score_ppm,
            rules_version=0,
        )
        if decision.action is Action.ALLOW or event.label == "usual":
            begun = time.thread_time_ns()
            learn(features, profile.score, is_new_payee=known is None)
            scored_ns += time.thread_time_ns() - begun
            profile.learn_price(resource_number(subject.resource), subject.quanta)
            self.payees[subject.payee_id] = (known or 0) + 1
        return decision, scored_ns


def _subject(event: Event, number: int) -> Subject:
    return Subject(
        payment_id=UUID(int=number + 1),
        digest=event.request,
        agent_id=UUID(int=1),
        mandate_id=UUID(int=2),
        organisation_id=UUID(int=3),
        party_chain=(UUID(int=3), UUID(int=1)),
        payee_id=UUID(int=event.payee + 10),
        quanta=event.quanta,
        currency="USD",
        resource=event.resource,
        request_digest=event.request,
    )


def measure_stream(seed: int) -> dict[str, dict[str, float]]:
    """
    Return, for rules, score and both, how much of each attack is held or denied.

    All three judge the same stream; ``both`` is what the hub does, and only what it lets pass
    is learned from.
    """
    stream = make_stream(seed)
    judge = Judge([default_rules()])
    seen: dict[str, int] = {}
    caught: dict[str, dict[str, int]] = {"rules": {}, "score": {}, "both": {}}
    for number, event in enumerate(stream):
        decision, _ = judge.judge(event, number)
        seen[event.label] = seen.get(event.label, 0) + 1
        rules = any(reason.rule != "score" for reason in decision.reasons)
        by = {"rules": rules, "score": decision.score_ppm >= PPM}
        by["both"] = by["rules"] or by["score"]
        for name, is_caught in by.items():
            caught[name][event.label] = caught[name].get(event.label, 0) + is_caught
    return {
        name: {
            ("false_positives" if label == "usual" else label): counts[label] / seen[label]
            for label in sorted(seen)
        }
        for name, counts in caught.items()
    }


def measure_speed(seed: int = 1, *, payments: int = 20_000) -> dict[str, float]:
    """
    Return the microseconds of one payment: score alone, the whole judgement, the profile's bytes.
    """
    stream = make_stream(seed)[:payments]
    judge = Judge([default_rules()])
    scored: list[int] = []
    begun = time.thread_time_ns()
    for number, event in enumerate(stream):
        scored.append(judge.judge(event, number)[1])
    whole_us = (time.thread_time_ns() - begun) / len(stream) / 1_000
    begun = time.thread_time_ns()
    for _ in range(2_000):
        Profile.decode(judge.profile.encode())
    bytes_us = (time.thread_time_ns() - begun) / 2_000 / 1_000
    return {
        "score_us": statistics.fmean(scored) / 1_000,
        "score_p99_us": sorted(scored)[len(scored) * 99 // 100] / 1_000,
        "judgement_us": whole_us,
        "profile_bytes_us": bytes_us,
    }


def measure(seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """
    Return every figure: SIMULATION of detection over some seeds, beside the field report's.
    """
    runs = [measure_stream(seed) for seed in seeds]
    return {
        "label": "SIMULATION",
        "seeds": list(seeds),
        "payments": USUAL_PAYMENTS + LOOP_PAYMENTS + LARGE_PAYMENTS + SALAMI_PAYMENTS,
        "detection": {
            name: {
                kind: {
                    "mean": statistics.fmean(run[name][kind] for run in runs),
                    "worst": (max if kind == "false_positives" else min)(
                        run[name][kind] for run in runs
                    ),
                }
                for kind in runs[0][name]
            }
            for name in runs[0]
        },
        "field_report": FIELD_REPORT,
        "speed": measure_speed(),
    }


def main() -> None:
    """
    Print the figures.
    """
    figures = measure()
    print(f"{figures['label']}: {figures['payments']} payments, seeds {figures['seeds']}")
    kinds = ("loop", "new_payee_large", "salami", "false_positives")
    print(f"{'':40}" + "".join(f"{kind:>22}" for kind in kinds))
    for name, found in figures["detection"].items():
        texts = (f"{found[kind]['mean']:.4f} ({found[kind]['worst']:.4f})" for kind in kinds)
        print(f"{name + ', mean (worst seed)':40}" + "".join(f"{text:>22}" for text in texts))
    for name, found in figures["field_report"].items():
        print(f"{name:40}" + "".join(f"{found[kind]:>22.3f}" for kind in kinds))
    for name, value in figures["speed"].items():
        print(f"{name}: {value:.1f}")


if __name__ == "__main__":
    main()
