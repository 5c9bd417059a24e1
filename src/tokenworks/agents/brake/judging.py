"""
Judge payments in batches: one short transaction for all that wait in this process.

Whoever comes first begins at once; those who come meanwhile form the next batch. What was
captured is learned behind the answer, so it waits a moment for a payment to judge and goes with
it. A batch locks the profiles of its agents, in the order of their ids, reads, judges (pure) and
writes; so two processes that see the same agent take turns, and no waiting payment holds a
connection.

The commit does not wait for the disk when nothing but allowed payments was counted: what a
crash could lose is the last moments of statistics, which only ever raise scrutiny. A hold or a
denial is on the disk before it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from statistics import median_low
from typing import Final, TypeAlias
from uuid import UUID

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from tokenworks.agents.brake import store
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
from tokenworks.agents.brake.rule_documents import StoredRules, default_rules
from tokenworks.agents.brake.rule_sets import RuleSet, compose_chain
from tokenworks.agents.brake.rules import Budget, Counts, Picture, judge_rules
from tokenworks.agents.brake.scoring import PACE_PAYMENTS, features_of, learn, score_of
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.identity.model import PLATFORM_ID
from tokenworks.postgres.pool import Connection, Pool

BATCH_MAX: Final = 64
WAITING_MAX: Final = 10_000
PAYEE_PRICES_MAX: Final = 9
CHAINS_MAX: Final = 10_000
LEARNING_DELAY_S: Final = 0.01
"""How long a capture waits at most to be learned along with the next judgement."""

_log = structlog.get_logger("tokenworks.brake")

Chain: TypeAlias = "tuple[tuple[RuleSet, ...], int]"  # rule sets, and the version they make


class RuleBook:
    """
    Rule sets by version, which never change; so they may be remembered for ever.
    """

    def __init__(self) -> None:
        self._stored: dict[int, StoredRules] = {}
        self._chains: dict[tuple[int, ...], Chain] = {}

    async def load(self, connection: Connection, versions: Mapping[UUID, int]) -> None:
        """
        Make sure that these versions are known.
        """
        missing = set(versions.values()) - self._stored.keys()
        if missing:
            for rules in await store.read_rules(connection, missing):
                self._stored[rules.version] = rules

    def own(self, party_id: UUID, versions: Mapping[UUID, int]) -> StoredRules | None:
        """
        Return what a party itself set.
        """
        version = versions.get(party_id)
        return None if version is None else self._stored[version]

    def chain(self, parties: Sequence[UUID], versions: Mapping[UUID, int]) -> Chain:
        """
        Return every rule set that counts below some parties, the organisation first.

        The version is the highest of them: versions are counted for the whole hub, in the
        order of their commits, so it says what each party's rules were.
        """
        numbers = tuple(versions.get(party, 0) for party in (PLATFORM_ID, *parties))
        known = self._chains.get(numbers)
        if known is None:
            operator, *own = (
                None if number == 0 else self._stored[number].rules for number in numbers
            )
            known = compose_chain(own, operator=operator, defaults=default_rules()), max(numbers)
            if len(self._chains) >= CHAINS_MAX:
                self._chains.clear()
            self._chains[numbers] = known
        return known

    def trees(self, parties: Sequence[UUID], versions: Mapping[UUID, int]) -> tuple[UUID, ...]:
        """
        Return those whose rules count the payments of all below them.
        """
        chain, _ = self.chain(parties, versions)
        return tuple(rules.tree_id for rules in chain if rules.tree_id is not None)


@dataclass(slots=True, kw_only=True)
class Waiting:
    """
    One payment that is to be judged, or learned from.
    """

    subject: Subject
    budgets: Sequence[Budget] = ()
    captured_quanta: int | None = None  # ``None``: judge it
    done: asyncio.Future[Decision | None] = field(repr=False)


class Judging:
    """
    Gather payments and judge them together.
    """

    def __init__(self, pool: Pool, clock: Clock, *, mark_key: bytes) -> None:
        self._pool = pool
        self._clock = clock
        self._mark_key = mark_key
        self.book = RuleBook()
        self._waiting: list[Waiting] = []
        self._running: asyncio.Task[None] | None = None
        self._is_judging = asyncio.Event()

    async def judge(self, subject: Subject, budgets: Sequence[Budget]) -> Decision:
        """
        Judge one payment.

        Raises:
            BrakeUnavailableError: It cannot be judged, so it is not allowed.
            ReviewDigestMismatchError: It was judged before with another payload.
        """
        decision = await self._submit(Waiting(subject=subject, budgets=budgets, done=_new_future()))
        assert decision is not None, "a judgement has an answer"
        return decision

    async def record(self, subject: Subject, captured_quanta: int) -> None:
        """
        Learn from one payment that was captured; a repeat changes nothing.

        Raises:
            BrakeUnavailableError: Nothing was learned; the payment stands.
        """
        await self._submit(
            Waiting(subject=subject, captured_quanta=captured_quanta, done=_new_future())
        )

    async def _submit(self, waiting: Waiting) -> Decision | None:
        if len(self._waiting) >= WAITING_MAX:
            message = "Too many payments wait to be judged."
            raise BrakeUnavailableError(message, retry_after_s=1.0)
        self._waiting.append(waiting)
        if waiting.captured_quanta is None:
            self._is_judging.set()
        if self._running is None or self._running.done():
            # Its own task: a caller who gives up must not end everybody's batch.
            self._running = asyncio.create_task(self._work())
        return await waiting.done

    async def _work(self) -> None:
        while self._waiting:
            if all(waiting.captured_quanta is not None for waiting in self._waiting):
                await self._await_judgement()
            batch = self._waiting[:BATCH_MAX]
            del self._waiting[:BATCH_MAX]
            try:
                answers = await self._run(batch)
            except (psycopg.Error, PoolTimeout, OSError, TokenworksError) as error:
                _log.warning("payments_not_judged", count=len(batch), error=type(error).__name__)
                message = "Payments cannot be judged right now."
                answers = [BrakeUnavailableError(message, retry_after_s=1.0)] * len(batch)
            except BaseException:
                _fail(batch + self._waiting)
                self._waiting.clear()
                raise
            for waiting, answer in zip(batch, answers, strict=True):
                if waiting.done.done():
                    continue  # who asked has gone
                if isinstance(answer, TokenworksError):
                    waiting.done.set_exception(answer)
                else:
                    waiting.done.set_result(answer)

    async def _await_judgement(self) -> None:
        """
        Let what is only to be learned wait for a payment to judge, and share its transaction.
        """
        self._is_judging.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEARNING_DELAY_S):
                await self._is_judging.wait()

    async def _run(self, batch: Sequence[Waiting]) -> list[Decision | TokenworksError | None]:
        now = self._clock.now()
        # Two round trips: the begin goes out with what is read, the commit with what is written.
        async with (
            self._pool.connection() as connection,
            connection.pipeline(),
            connection.transaction(),
        ):
            read = await store.lock_and_read(
                connection,
                [waiting.subject for waiting in batch],
                judged=[w.subject for w in batch if w.captured_quanta is None],
                now=now,
            )
            await self.book.load(connection, read.versions)
            trees = {
                (tree_of(party_id), waiting.subject.currency)
                for waiting in batch
                if waiting.captured_quanta is None
                for party_id in self.book.trees(waiting.subject.rule_parties, read.versions)
            }
            if trees:
                locked = await store.lock_trees(connection, trees, now=now)
                read = replace(read, profiles={**read.profiles, **locked})
            work = _Batch(read, self.book, now, mark_key=self._mark_key)
            answers = [work.answer(waiting) for waiting in batch]
            await work.write(connection)
        return answers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    """
    What counts all payments below a party.
    """

    party_id: UUID
    profile_id: UUID
    profile: Profile
    is_met: bool  # the payee is new to all of them, as far as is remembered


class _Batch:
    """
    One batch under its locks: pure until ``write``.
    """

    def __init__(self, read: store.Read, book: RuleBook, now: datetime, *, mark_key: bytes) -> None:
        self._read = read
        self._mark_key = mark_key
        self._book = book
        self._now = now
        self._now_us = int(now.timestamp() * 1_000_000)
        self._profiles: dict[store.ProfileKey, Profile] = {}
        self._payees = dict(read.payees)
        self._judged: dict[UUID, tuple[bytes, Decision]] = dict(read.judgements)
        self._changed: set[store.ProfileKey] = set()
        self._new_judgements: list[tuple[Subject, Decision]] = []
        self._new_payees: dict[store.PayeeKey, store.KnownPayee] = {}

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
            await store.relax_commit(connection)
        await self._write_known(connection)
        for subject, decision in self._new_judgements:
            try:
                async with connection.transaction():
                    await store.insert_judgement(connection, subject, decision, now=self._now)
            except PaymentOutsideWindowError:
                # Nobody else's judgement may fail for it; the ledger refuses such an id too.
                _log.warning("judgement_not_kept", payment_id=str(subject.payment_id))

    async def _write_known(self, connection: Connection) -> None:
        if self._changed:
            states = {key: self._profiles[key].encode() for key in sorted(self._changed)}
            await store.write_profiles(connection, states, now=self._now)
        if self._new_payees:
            await store.know_payees(connection, self._new_payees, approved_by=None, now=self._now)

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
        payee: store.KnownPayee | None,
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
        payee = self._payees.get(key) or store.KnownPayee(payments=0, recent_quanta=())
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
        learned = store.KnownPayee(payments=payee.payments + 1, recent_quanta=prices)
        self._payees[key] = self._new_payees[key] = learned

    def _profile(self, subject: Subject) -> Profile:
        return self._profile_of((subject.agent_id, subject.currency))

    def _profile_of(self, key: store.ProfileKey) -> Profile:
        profile = self._profiles.get(key)
        if profile is None:
            profile = self._profiles[key] = Profile.decode(self._read.profiles[key])
        return profile


def _check_digest(subject: Subject, digest: bytes) -> None:
    if subject.digest != digest:
        message = "This payment was judged before with another payload."
        raise ReviewDigestMismatchError(message)


def _fail(waiting: Sequence[Waiting]) -> None:
    for item in waiting:
        if not item.done.done():
            item.done.set_exception(BrakeUnavailableError("The payment was not judged."))


def _new_future() -> asyncio.Future[Decision | None]:
    return asyncio.get_running_loop().create_future()
