"""
Judge and learn one batch of payments under the locks of its profiles; pure until ``write``.

Owns: the order of a judgement: what was decided before, the rules, the score, then what is
counted, for the agent and for each tree whose rules count it. Does not own: who waits, and the
transaction (``judging``).

Invariants: a payment has one decision, however often it is judged; a capture is learned from
once; an error is its payment's alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from statistics import median_low
from typing import Final
from uuid import UUID

import structlog

from tokenworks.agents.brake import profile_store
from tokenworks.agents.brake.deciding import decide
from tokenworks.agents.brake.errors import (
    BrakeUnavailableError,
    PaymentOutsideWindowError,
    ReviewDigestMismatchError,
)
from tokenworks.agents.brake.model import Action, Decision, Subject
from tokenworks.agents.brake.profile import (
    MASK_64,
    Profile,
    ProfileUnreadableError,
    mark_of,
    resource_number,
    tree_of,
)
from tokenworks.agents.brake.reviewing import decision_after
from tokenworks.agents.brake.rule_book import RuleBook
from tokenworks.agents.brake.rules import Budget, Counts, Picture, judge_rules
from tokenworks.agents.brake.scoring import PACE_PAYMENTS, features_of, learn, score_of
from tokenworks.foundation.errors import TokenworksError
from tokenworks.postgres.pool import Connection

PAYEE_PRICES_MAX: Final = 9

_log = structlog.get_logger("tokenworks.brake")


@dataclass(slots=True, kw_only=True)
class Waiting:
    """
    One payment that is to be judged, or learned from.
    """

    subject: Subject
    budgets: Sequence[Budget] = ()
    captured_quanta: int | None = None  # ``None``: judge it
    done: asyncio.Future[Decision | None] = field(repr=False)


class Batch:
    """
    One batch under its locks.

    Args:
        read: What was read under them.
        book: The rules; the versions that were read are loaded.
        now: When all of it is judged.
        mark_key: Of the hub, secret: by it a payment is known again.
    """

    def __init__(
        self, read: profile_store.Read, book: RuleBook, now: datetime, *, mark_key: bytes
    ) -> None:
        self._read = read
        self._mark_key = mark_key
        self._book = book
        self._now = now
        self._now_us = int(now.timestamp() * 1_000_000)
        self._profiles: dict[profile_store.ProfileKey, Profile] = {}
        self._payees = dict(read.payees)
        self._judged: dict[UUID, tuple[bytes, Decision]] = dict(read.judgements)
        self._changed: set[profile_store.ProfileKey] = set()
        self._new_judgements: list[tuple[Subject, Decision]] = []
        self._new_payees: dict[profile_store.PayeeKey, profile_store.KnownPayee] = {}

    def answer(self, waiting: Waiting) -> Decision | TokenworksError | None:
        """
        Judge or learn; an error is this payment's alone.
        """
        try:
            if waiting.captured_quanta is not None:
                self._learn(waiting.subject, waiting.captured_quanta)
                return None
            return self._judge(waiting.subject, waiting.budgets)
        except ProfileUnreadableError:
            _log.exception("profile_unreadable", agent_id=str(waiting.subject.agent_id))
            message = "What is known about this agent cannot be read."
            return BrakeUnavailableError(message)
        except TokenworksError as error:
            return error

    async def write(self, connection: Connection) -> None:
        """
        Write what changed.
        """
        if not self._new_judgements:
            await profile_store.relax_commit(connection)
        await self._write_known(connection)
        for subject, decision in self._new_judgements:
            try:
                async with connection.transaction():
                    await profile_store.insert_judgement(
                        connection, subject, decision, now=self._now
                    )
            except PaymentOutsideWindowError:
                # Nobody else's judgement may fail for it; the ledger refuses such an id too.
                _log.warning("judgement_not_kept", payment_id=str(subject.payment_id))

    async def _write_known(self, connection: Connection) -> None:
        if self._changed:
            states = {key: self._profiles[key].encode() for key in sorted(self._changed)}
            await profile_store.write_profiles(connection, states, now=self._now)
        if self._new_payees:
            await profile_store.know_payees(
                connection, self._new_payees, approved_by=None, now=self._now
            )

    def _judge(self, subject: Subject, budgets: Sequence[Budget]) -> Decision:
        known = self._known(subject)
        if known is not None:
            return known
        profile = self._profile(subject)
        payee = self._payees.get((subject.agent_id, subject.currency, subject.payee_id))
        chain, version = self._book.chain(subject.rule_parties, self._read.versions)
        is_met = payee is None and profile.meet(subject.payee_id.int & MASK_64)
        picture = self._picture(subject, profile, payee, budgets, is_met=is_met)
        trees = self._trees(subject, is_new_payee=payee is None)
        picture = replace(
            picture,
            trees={
                tree.party_id: self._counts(subject, tree.profile, is_met=tree.is_met)
                for tree in trees
            },
        )
        features = features_of(
            quanta=subject.quanta,
            times_us=[*profile.recent_times(PACE_PAYMENTS - 1), self._now_us],
            is_new_payee=payee is None,
            payee_payments=0 if payee is None else payee.payments,
            state=profile.score,
        )
        score = score_of(features, profile.score, is_new_payee=payee is None)
        decision = decide(judge_rules(subject, picture, chain), score, chain, rules_version=version)
        own = (subject.agent_id, profile, is_met)
        for key, counted, is_new in (own, *((t.profile_id, t.profile, t.is_met) for t in trees)):
            counted.add(
                subject,
                mark=mark_of(subject, self._mark_key),
                now_us=self._now_us,
                is_new_payee=is_new,
                action=decision.action,
                score_ppm=decision.score_ppm,
                rules_version=version,
            )
            self._changed.add((key, subject.currency))
        if decision.action is not Action.ALLOW:
            self._new_judgements.append((subject, decision))
            self._judged[subject.payment_id] = (subject.digest, decision)
        return decision

    def _known(self, subject: Subject) -> Decision | None:
        """
        Return the decision of a payment that was judged before: by people, by the brake.
        """
        review = self._read.reviews.get(subject.payment_id)
        if review is not None:
            _check_digest(subject, review.subject.digest)
            return decision_after(review, self._now)
        judged = self._judged.get(subject.payment_id)
        if judged is not None:
            _check_digest(subject, judged[0])
            return judged[1]
        remembered = self._profile(subject).find(mark_of(subject, self._mark_key))
        if remembered is not None and remembered.action is Action.ALLOW:
            return Decision(
                action=Action.ALLOW,
                reasons=(),
                score_ppm=remembered.score_ppm,
                rules_version=remembered.rules_version,
            )
        return None

    def _picture(
        self,
        subject: Subject,
        profile: Profile,
        payee: profile_store.KnownPayee | None,
        budgets: Sequence[Budget],
        *,
        is_met: bool,
    ) -> Picture:
        usual, count, of = None, 0, "resource"
        price = profile.usual_price(resource_number(subject.resource))
        if price is not None:
            usual, count = price
        elif payee is not None and payee.recent_quanta:
            usual, count, of = median_low(payee.recent_quanta), len(payee.recent_quanta), "payee"
        counts = self._counts(subject, profile, is_met=is_met)
        return Picture(
            now=self._now,
            payments_minute=counts.payments_minute,
            payments_hour=counts.payments_hour,
            quanta_minute=counts.quanta_minute,
            quanta_hour=counts.quanta_hour,
            new_payees_hour=counts.new_payees_hour,
            equal_calls_us=counts.equal_calls_us,
            is_known_payee=payee is not None,
            usual_quanta=usual,
            usual_count=count,
            usual_of=of,
            budgets=budgets,
        )

    def _counts(self, subject: Subject, profile: Profile, *, is_met: bool) -> Counts:
        profile.minute.move_to(self._now_us)
        profile.hour.move_to(self._now_us)
        return Counts(
            payments_minute=sum(profile.minute.counts) + 1,
            payments_hour=sum(profile.hour.counts) + 1,
            quanta_minute=sum(profile.minute.sums) + subject.quanta,
            quanta_hour=sum(profile.hour.sums) + subject.quanta,
            new_payees_hour=sum(profile.hour.news) + is_met,
            equal_calls_us=profile.equal_calls(subject.request_digest, now_us=self._now_us),
        )

    def _trees(self, subject: Subject, *, is_new_payee: bool) -> list[_Tree]:
        """
        Return the trees that count this payment, those whose rules say so.
        """
        trees: list[_Tree] = []
        for party_id in self._book.trees(subject.rule_parties, self._read.versions):
            profile_id = tree_of(party_id)
            profile = self._profile_of((profile_id, subject.currency))
            is_met = is_new_payee and profile.meet(subject.payee_id.int & MASK_64)
            trees.append(
                _Tree(party_id=party_id, profile_id=profile_id, profile=profile, is_met=is_met)
            )
        return trees

    def _learn(self, subject: Subject, captured_quanta: int) -> None:
        profile = self._profile(subject)
        remembered = profile.find(mark_of(subject, self._mark_key))
        if captured_quanta <= 0 or (remembered is not None and remembered.is_learned):
            return
        key = (subject.agent_id, subject.currency, subject.payee_id)
        payee = self._payees.get(key) or profile_store.KnownPayee(payments=0, recent_quanta=())
        if remembered is None and payee.payments > 0:
            # So long ago that nobody can tell whether it was learned from: once is enough.
            return
        is_new = payee.payments == 0
        if remembered is not None:
            features = features_of(
                quanta=captured_quanta,
                times_us=profile.times_before(remembered.index, PACE_PAYMENTS),
                is_new_payee=is_new,
                payee_payments=payee.payments,
                state=profile.score,
            )
            learn(features, profile.score, is_new_payee=is_new)
            profile.mark_learned(remembered.index)
            profile.learn_price(resource_number(subject.resource), captured_quanta)
            self._changed.add((subject.agent_id, subject.currency))
        prices = (*payee.recent_quanta[-(PAYEE_PRICES_MAX - 1) :], captured_quanta)
        learned = profile_store.KnownPayee(payments=payee.payments + 1, recent_quanta=prices)
        self._payees[key] = self._new_payees[key] = learned

    def _profile(self, subject: Subject) -> Profile:
        return self._profile_of((subject.agent_id, subject.currency))

    def _profile_of(self, key: profile_store.ProfileKey) -> Profile:
        profile = self._profiles.get(key)
        if profile is None:
            profile = self._profiles[key] = Profile.decode(self._read.profiles[key])
        return profile


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    """
    What counts all payments below a party.
    """

    party_id: UUID
    profile_id: UUID
    profile: Profile
    is_met: bool  # the payee is new to all of them, as far as is remembered


def _check_digest(subject: Subject, digest: bytes) -> None:
    if subject.digest != digest:
        message = "This payment was judged before with another payload."
        raise ReviewDigestMismatchError(message)
