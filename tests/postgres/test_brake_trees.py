"""
Rules that count a whole tree: many agents are no way around them.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from tests.postgres.brake_rig import DOLLAR, Rig, open_rig
from tokenworks.agents.brake.errors import InvalidRulesError
from tokenworks.agents.brake.model import Action, Subject
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.identity.model import PLATFORM_ID
from tokenworks.postgres.pool import Pool

AGENTS = 50


@pytest.fixture
async def rig(pool: Pool, clock: FakeClock, ids: IdentifierSource) -> Rig:
    """
    A brake with payments of one agent; tests make up others beside it.
    """
    return await open_rig(pool, clock, ids)


async def spread(rig: Rig, **payment: Any) -> list[Action]:  # noqa: ANN401 - passed on as given
    """
    One payment of each of fifty agents, at once and through two processes.
    """
    brakes = [rig.brake, rig.second_brake()]
    return [
        decision.action
        for decision in await asyncio.gather(
            *(
                brakes[turn % 2].judge(rig.payment(agent_id=rig.ids.mint(), **payment))
                for turn in range(AGENTS)
            )
        )
    ]


@pytest.mark.parametrize(
    ("rule", "payment", "allowed"),
    [
        ({"velocity": {"payments_per_minute": 20}}, {}, 20),
        ({"velocity": {"amount_per_hour": "2"}}, {"quanta": DOLLAR // 10}, 20),
        ({"loop": {"times": 21, "within_s": 60}}, {"path": "same"}, 20),
    ],
    ids=["payments", "money", "loop"],
)
@pytest.mark.parametrize("owner", ["organisation", "team"])
async def test_fifty_agents_are_counted_as_one(
    rig: Rig, rule: dict[str, Any], payment: dict[str, Any], allowed: int, owner: str
) -> None:
    """
    What each of them may do alone they may not do together; without the scope they may.
    """
    [(name, figures)] = rule.items()
    party = getattr(rig, owner)
    await rig.rules({name: {"action": "deny", "scope": "agent", **figures}}, party=party)
    assert set(await spread(rig, **payment)) == {Action.ALLOW}

    await rig.rules({name: {"action": "deny", "scope": "tree", **figures}}, party=party)

    actions = await spread(rig, **payment)
    assert actions.count(Action.ALLOW) == allowed
    last = await rig.brake.judge(rig.payment(agent_id=rig.ids.mint(), **payment))
    assert "of all agents together" in last.reasons[0].text
    assert last.reasons[0].figures["scope"] == "tree"


async def test_new_payees_of_a_tree_are_counted_once_each(rig: Rig) -> None:
    """
    Fifty agents that meet one payee met one; those that meet one each met fifty.
    """
    await rig.rules(
        {"new_payee": {"action": "hold", "above": "1", "new_payees_per_hour": 3, "scope": "tree"}}
    )
    assert set(await spread(rig)) == {Action.ALLOW}

    each = [
        await rig.brake.judge(rig.payment(agent_id=rig.ids.mint(), payee_id=rig.ids.mint()))
        for _ in range(4)
    ]

    assert [decision.action for decision in each] == [Action.ALLOW] * 2 + [Action.HOLD] * 2


async def test_same_payment_counts_once_in_the_tree_too(rig: Rig) -> None:
    """
    A repeat, in any process, is no second payment of its tree.
    """
    await rig.rules({"velocity": {"action": "deny", "scope": "tree", "payments_per_minute": 2}})
    payment = rig.payment()

    for brake in (rig.brake, rig.second_brake(), rig.brake):
        assert (await brake.judge(payment)).action is Action.ALLOW

    assert (await rig.brake.judge(rig.payment(agent_id=rig.ids.mint()))).action is Action.ALLOW
    assert (await rig.brake.judge(rig.payment(agent_id=rig.ids.mint()))).action is Action.DENY


def passed_on(rig: Rig, *, to: UUID, **payment: Any) -> Subject:  # noqa: ANN401 - passed on as given
    """
    A payment by an agent whose mandate the rig's agent passed on.
    """
    own = rig.payment(agent_id=to, **payment)
    chain = (rig.organisation, rig.team, rig.user, rig.agent, to)
    return replace(own, party_chain=(rig.organisation, to), overseers=chain)


async def test_rules_of_who_passed_a_mandate_on_count_for_whoever_pays_with_it(rig: Rig) -> None:
    """
    An orchestrator under a rule has nobody pay around it: its own rules, its owner's, its tree.
    """
    other = rig.ids.mint()
    await rig.rules({}, party=rig.organisation)
    await rig.rules({"new_payee": {"action": "deny"}}, party=rig.agent)
    assert (await rig.brake.judge(passed_on(rig, to=other))).action is Action.DENY
    await rig.rules(
        {
            "new_payee": {"action": "off"},
            "velocity": {"action": "deny", "scope": "tree", "payments_per_minute": 5},
        },
        party=rig.agent,
    )

    actions = [(await rig.brake.judge(passed_on(rig, to=rig.ids.mint()))).action for _ in range(7)]

    assert actions == [Action.ALLOW] * 5 + [Action.DENY] * 2
    assert (await rig.brake.judge(rig.payment())).action is Action.DENY


async def test_the_whole_hub_is_no_tree(rig: Rig) -> None:
    """
    Every payment of everybody would wait for one row.
    """
    document = {"rules": {"velocity": {"action": "hold", "scope": "tree", "payments_per_hour": 9}}}

    with pytest.raises(InvalidRulesError):
        await rig.brake.set_rules((PLATFORM_ID,), document, actor="test")
