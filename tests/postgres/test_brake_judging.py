"""
Judging payments against a real database.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from tests.postgres.brake_rig import DOLLAR, Rig, open_rig
from tokenworks.agents.brake.errors import BrakeUnavailableError, ReviewDigestMismatchError
from tokenworks.agents.brake.model import Action
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.postgres.pool import Pool


@pytest.fixture
async def rig(pool: Pool, clock: FakeClock, ids: IdentifierSource) -> Rig:
    """
    A brake with payments of one agent.
    """
    return await open_rig(pool, clock, ids)


async def test_usual_payment_is_allowed(rig: Rig) -> None:
    """
    A small payment meets none of the catalogue's rules.
    """
    decision = await rig.brake.judge(rig.payment())

    assert (decision.action, decision.reasons) == (Action.ALLOW, ())


async def test_same_payment_has_the_same_answer_and_is_counted_once(rig: Rig) -> None:
    """
    A retry, in parallel and in another process too, is no second payment.
    """
    await rig.rules({"loop": {"action": "deny", "times": 2, "within_s": 60}})
    payment = rig.payment(path="same")
    brakes = [rig.brake, rig.second_brake()] * 10

    answers = await asyncio.gather(*(brake.judge(payment) for brake in brakes))

    assert {answer.action for answer in answers} == {Action.ALLOW}
    second = await rig.brake.judge(rig.payment(path="same"))
    assert second.action is Action.DENY
    assert second.reasons[0].figures == {"times": 2, "seconds": 60, "bound": 2}
    assert await rig.second_brake().judge(payment) == answers[0]


async def test_parallel_payments_of_two_processes_are_all_counted(rig: Rig) -> None:
    """
    Of 40 payments through two processes exactly the rule's 25 are allowed.
    """
    await rig.rules({"velocity": {"action": "deny", "payments_per_minute": 25}})
    brakes = [rig.brake, rig.second_brake()]

    answers = await asyncio.gather(*(brakes[turn % 2].judge(rig.payment()) for turn in range(40)))

    assert [answer.action for answer in answers].count(Action.ALLOW) == 25


async def test_held_payment_keeps_its_reasons(rig: Rig) -> None:
    """
    What was held or denied is answered with the same reasons by another process.
    """
    await rig.rules({"new_payee": {"action": "hold", "above": "1"}})
    payment = rig.payment(quanta=2 * DOLLAR)

    first = await rig.brake.judge(payment)

    assert first.action is Action.HOLD
    assert first.reasons[0].text == (
        "The first payment to this payee is 2 USD; the rule says at most 1 USD."
    )
    assert await rig.second_brake().judge(payment) == first


async def test_other_payload_of_a_judged_payment_is_refused(rig: Rig) -> None:
    """
    The id of a payment that was held is of no use for another payload.
    """
    await rig.rules({"new_payee": {"action": "hold"}})
    payment = rig.payment()
    await rig.brake.judge(payment)

    with pytest.raises(ReviewDigestMismatchError):
        await rig.brake.judge(replace(payment, digest=bytes(32)))


async def test_other_payload_of_an_allowed_payment_is_judged_for_itself(rig: Rig) -> None:
    """
    A small payment was allowed and not held: under its nonce a large one waits for a person.
    """
    await rig.rules({"new_payee": {"action": "hold", "above": "1"}})
    small = rig.payment(quanta=DOLLAR // 100)
    large = replace(small, quanta=500 * DOLLAR, digest=bytes(32))

    assert (await rig.brake.judge(small)).action is Action.ALLOW
    assert (await rig.second_brake().judge(small)).action is Action.ALLOW
    assert (await rig.brake.judge(large)).action is Action.HOLD


async def test_what_was_captured_is_learned_before_the_next_judgement(rig: Rig) -> None:
    """
    A capture waits for a judgement to share its transaction, and goes first in it.
    """
    await rig.rules({"new_payee": {"action": "hold"}})
    shops = [rig.ids.mint() for _ in range(3)]
    captured = [rig.payment(payee_id=shop) for shop in shops]
    learning = [asyncio.create_task(rig.brake.record(p, captured_quanta=7)) for p in captured]
    await asyncio.sleep(0)

    decision = await rig.brake.judge(rig.payment(payee_id=shops[-1]))

    assert decision.action is Action.ALLOW
    assert all(task.done() for task in learning)


async def test_capture_makes_the_payee_known(rig: Rig) -> None:
    """
    A payee is new until a payment to it was captured.
    """
    await rig.rules({"new_payee": {"action": "hold"}})
    first, second = rig.payment(), rig.payment()
    assert (await rig.brake.judge(first)).action is Action.HOLD
    assert (await rig.brake.judge(second)).action is Action.HOLD

    await rig.brake.record(first, captured_quanta=first.quanta)
    await rig.brake.record(first, captured_quanta=first.quanta)

    assert (await rig.brake.judge(rig.payment())).action is Action.ALLOW
    async with rig.pool.connection() as connection:
        cursor = await connection.execute("SELECT payments FROM agents.known_payees")
        assert await cursor.fetchall() == [(1,)]


async def test_price_jump_is_judged_against_what_was_paid(rig: Rig) -> None:
    """
    More than k times the median of the same resource is held, k times is not.
    """
    await rig.rules({"price_jump": {"action": "hold", "times": 5, "after_payments": 3}})
    for quanta in (100, 100, 300):
        payment = rig.payment(path="a", quanta=quanta)
        await rig.brake.judge(payment)
        await rig.brake.record(payment, captured_quanta=quanta)

    usual = await rig.brake.judge(rig.payment(path="a", quanta=500))
    dear = await rig.brake.judge(rig.payment(path="a", quanta=501))

    assert (usual.action, dear.action) == (Action.ALLOW, Action.HOLD)
    assert dear.reasons[0].figures["usual"] == "0.0000001"


async def test_windows_slide(rig: Rig) -> None:
    """
    A minute later the payments of this one are forgotten, an hour later all of them.
    """
    await rig.rules(
        {"velocity": {"action": "hold", "payments_per_minute": 2, "amount_per_hour": "1"}}
    )
    actions: list[Action] = []
    for pause_s, share in ((0, 5), (0, 5), (0, 5), (61, 5), (0, 2), (3_601, 2)):
        rig.clock.advance(timedelta(seconds=pause_s))
        actions.append((await rig.brake.judge(rig.payment(quanta=DOLLAR // share))).action)

    allow, hold = Action.ALLOW, Action.HOLD
    assert actions == [allow, allow, hold, allow, hold, allow]


async def test_unreadable_profile_is_not_an_empty_one(rig: Rig) -> None:
    """
    Damage to what is known about one agent stops that agent, and nobody else.
    """
    await rig.brake.judge(rig.payment())
    async with rig.pool.connection() as connection:
        await connection.execute("UPDATE agents.profiles SET state = 'broken'")
    other = rig.ids.mint()

    broken, sound = await asyncio.gather(
        rig.brake.judge(rig.payment()),
        rig.brake.judge(rig.payment(agent_id=other)),
        return_exceptions=True,
    )

    assert isinstance(broken, BrakeUnavailableError)
    assert not isinstance(sound, BaseException)
    assert sound.action is Action.ALLOW


async def test_lost_database_allows_nothing(rig: Rig) -> None:
    """
    Without the profile there is no answer, which is no permission.
    """
    async with rig.pool.connection() as connection:
        await connection.execute("ALTER TABLE agents.profiles RENAME TO gone")

    with pytest.raises(BrakeUnavailableError):
        await rig.brake.judge(rig.payment())


async def test_id_of_a_far_time_stops_nobody_else(rig: Rig) -> None:
    """
    A payment whose id the books do not cover is denied with the others of its batch judged.
    """
    await rig.rules({"new_payee": {"action": "deny"}})
    far = rig.payment(payment_id=UUID(int=1 << 100))

    answers = await asyncio.gather(*(rig.brake.judge(p) for p in (far, rig.payment())))

    assert [answer.action for answer in answers] == [Action.DENY, Action.DENY]


async def test_profile_row_stays_small(rig: Rig) -> None:
    """
    A thousand payments make no larger profile than a hundred.
    """
    await rig.rules({})
    for _ in range(10):
        await asyncio.gather(*(rig.brake.judge(rig.payment()) for _ in range(100)))
    async with rig.pool.connection() as connection:
        cursor = await connection.execute("SELECT max(octet_length(state)) FROM agents.profiles")
        row = await cursor.fetchone()
    assert row is not None
    assert row[0] <= 4_096


async def test_hub_role_may_not_change_history(rig: Rig, dsn: str) -> None:
    """
    Rules and judgements are added, never changed, whoever asks.
    """
    await rig.rules({"new_payee": {"action": "deny"}})
    await rig.brake.judge(rig.payment())
    async with rig.pool.connection() as connection:
        for statement in (
            "UPDATE agents.brake_rules SET actor = 'me'",
            "DELETE FROM agents.brake_rules",
        ):
            with pytest.raises(psycopg.DatabaseError, match="append-only"):
                await connection.execute(statement)
