"""
Mandates on the real ledger: sums, payees, revocation, the kill switch, delegation.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, LiteralString

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.postgres.agent_rig import CENT, DOLLAR, AgentRig, open_agent_rig, per
from tokenworks.agents.mandates.errors import (
    MandateConflictError,
    MandateExpiredError,
    MandateFrozenError,
    MandateNotAttenuatedError,
    MandateParentError,
    MandateRequiredError,
    MandateRevokedError,
    MandateSignatureError,
    MandateTooDeepError,
    MandateUnknownError,
    NotAnAgentError,
    WalletRevokedError,
    WalletTakenError,
    WalletUnknownError,
)
from tokenworks.agents.mandates.model import (
    MANDATE_DEPTH_MAX,
    CountLimit,
    Mandate,
    MandateState,
    Terms,
    Window,
)
from tokenworks.agents.mandates.signing import address_of
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.errors import InvalidError, TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import LIMIT_USD
from tokenworks.identity.errors import PartyStateError
from tokenworks.identity.model import PartyState
from tokenworks.ledger.errors import LimitMissingError
from tokenworks.ledger.model import Refusal

OPEN = Terms(delegations_max=7)


@pytest.fixture
async def rig(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[AgentRig]:
    """
    Two agents with a wallet each, their owner and its money.
    """
    async with open_agent_rig(dsn, clock, ids) as rig:
        yield rig


# ------------------------------------------------------------------------------ sums


async def test_budget_ends_payments_and_a_new_window_opens_again(rig: AgentRig) -> None:
    """
    A budget is a limit of the ledger: the sum of a window, nothing beyond it.
    """
    terms = Terms(budgets=per(Window.DAY, 3 * CENT))
    mandate = await rig.mandates.issue("buyer-bot", terms, actor="ann")
    assert [await rig.pay(mandate) for _ in range(4)] == ["ok", "ok", "ok", "insufficient"]
    rig.books.clock.advance(timedelta(days=1))
    assert await rig.pay(mandate) == "ok"


async def test_count_ends_payments_of_any_size(rig: AgentRig) -> None:
    """
    A count is a limit of payments, however small each is.
    """
    terms = Terms(counts=(CountLimit(window=Window.HOUR, payments=2),))
    mandate = await rig.mandates.issue("buyer-bot", terms, actor="ann")
    assert [await rig.pay(mandate, 1) for _ in range(3)] == ["ok", "ok", "insufficient"]


async def test_payee_budget_counts_each_payee_by_itself(rig: AgentRig) -> None:
    """
    What one payee gets leaves the others' budgets as they are; the whole is bounded too.
    """
    terms = Terms(budgets=per(Window.EVER, 5 * CENT), payee_budgets=per(Window.DAY, 2 * CENT))
    mandate = await rig.mandates.issue("buyer-bot", terms, actor="ann")
    first, second, third = (rig.books.ids.mint() for _ in range(3))
    paid = [await rig.pay(mandate, payee=payee) for payee in (first, first, first, second)]
    assert paid == ["ok", "ok", "insufficient", "ok"]
    paid = [await rig.pay(mandate, payee=payee) for payee in (second, third, third)]
    assert paid == ["ok", "ok", "insufficient"], "the whole budget is used up"


async def test_payee_budget_of_an_ancestor_counts_what_all_below_it_pay(rig: AgentRig) -> None:
    """
    Two delegations cannot each pay a payee what the root allows once.
    """
    root = await rig.mandates.issue(
        "buyer-bot", Terms(payee_budgets=per(Window.EVER, 3 * CENT), delegations_max=1), actor="ann"
    )
    children = [
        await rig.mandates.issue("buyer-bot", Terms(), parent=root.mandate_id, actor="ann")
        for _ in range(2)
    ]
    paid = [await rig.pay(children[n % 2]) for n in range(4)]
    assert paid == ["ok", "ok", "ok", "insufficient"]


async def test_siblings_at_once_share_the_parents_budget_exactly(rig: AgentRig) -> None:
    """
    Fifty holds of two siblings in parallel: as many as the parent's budget covers.
    """
    root = await rig.mandates.issue(
        "buyer-bot", Terms(budgets=per(Window.EVER, 20 * CENT), delegations_max=1), actor="ann"
    )
    children = [
        await rig.mandates.issue("buyer-bot", Terms(), parent=root.mandate_id, actor="ann")
        for _ in range(2)
    ]
    codes = await asyncio.gather(*(rig.pay(children[n % 2]) for n in range(50)))
    assert codes.count("ok") == 20
    assert codes.count("insufficient") == 30


async def test_terms_stay_while_a_limit_is_raised(rig: AgentRig) -> None:
    """
    A raise changes the ledger's limit and leaves an event; the signed terms stay.
    """
    root = await rig.mandates.issue(
        "buyer-bot",
        Terms(budgets=per(Window.MONTH, 6 * CENT), delegations_max=1),
        actor="ann",
    )
    child = await rig.mandates.issue(
        "buyer-bot", Terms(budgets=per(Window.DAY, CENT)), parent=root.mandate_id, actor="ann"
    )
    assert [await rig.pay(child), await rig.pay(child)] == ["ok", "insufficient"]
    raised = await rig.mandates.raise_limit(child.mandate_id, Window.DAY, 2 * CENT, actor="ann")
    assert raised.terms == child.terms
    assert raised.jws == child.jws
    assert [await rig.pay(child), await rig.pay(child)] == ["ok", "insufficient"]
    await rig.mandates.raise_limit(child.mandate_id, Window.DAY, 2 * CENT, actor="ann")
    events = await rig.mandates.events(child.mandate_id)
    assert [(event.kind, event.details) for event in events] == [
        ("issued", {}),
        ("raised", {"window": "day", "from": "0.01", "to": "0.02"}),
    ]


@pytest.mark.parametrize(
    ("window", "quanta", "error"),
    [
        (Window.DAY, 7 * CENT, MandateNotAttenuatedError),  # its parent's month
        (Window.DAY, CENT - 1, InvalidError),
        (Window.WEEK, 2 * CENT, LimitMissingError),
    ],
)
async def test_raise_is_refused(
    rig: AgentRig, window: Window, quanta: int, error: type[TokenworksError]
) -> None:
    """
    A raise is one, of a budget that is there, and never above an ancestor's.
    """
    root = await rig.mandates.issue(
        "buyer-bot", Terms(budgets=per(Window.MONTH, 6 * CENT), delegations_max=1), actor="ann"
    )
    child = await rig.mandates.issue(
        "buyer-bot", Terms(budgets=per(Window.DAY, CENT)), parent=root.mandate_id, actor="ann"
    )
    with pytest.raises(error):
        await rig.mandates.raise_limit(child.mandate_id, window, quanta, actor="ann")


# ----------------------------------------------------------------- revoke, freeze, expire


async def test_revocation_stops_the_next_hold_of_a_process_that_heard_nothing(
    rig: AgentRig,
) -> None:
    """
    An authority that was given before the revocation holds nothing after it.
    """
    mandate = await rig.mandates.issue("buyer-bot", OPEN, actor="ann")
    other = await rig.another_process()
    assert await rig.pay(mandate, mandates=other) == "ok"
    authority = await other.authorise(
        rig.wallet, mandate.mandate_id, rig.purchase(), now=rig.books.clock.now()
    )
    held = await rig.hold(authority)
    await rig.mandates.revoke(mandate.mandate_id, actor="ann")
    refused = await rig.hold(authority)
    assert refused.code == Refusal.SCOPE_CLOSED
    assert isinstance(await other.refusal(authority, refused), MandateRevokedError)
    assert held.is_done
    with pytest.raises(MandateRevokedError):
        await other.authorise(
            rig.wallet, mandate.mandate_id, rig.purchase(), now=rig.books.clock.now()
        )


async def test_revoking_a_root_ends_what_was_delegated(rig: AgentRig) -> None:
    """
    Children die with their parent, in processes with stale caches too.
    """
    root = await rig.mandates.issue("buyer-bot", OPEN, actor="ann")
    child = await rig.mandates.delegate(rig.delegation(root, Terms()))
    other = await rig.another_process()
    assert await rig.pay(child, wallet=rig.helper_wallet, mandates=other) == "ok"
    await rig.mandates.revoke(root.mandate_id, actor="ann")
    assert await rig.pay(child, wallet=rig.helper_wallet, mandates=other) == "scope_closed"
    with pytest.raises(MandateRevokedError):
        await (await rig.another_process()).authorise(
            rig.helper_wallet, child.mandate_id, rig.purchase(), now=rig.books.clock.now()
        )


async def test_revoked_is_final_and_a_repeat_is_harmless(rig: AgentRig) -> None:
    """
    Nothing brings a revoked mandate back, not even the same delegation sent again.
    """
    root = await rig.mandates.issue("buyer-bot", OPEN, actor="ann")
    jws = rig.delegation(root, Terms())
    child = await rig.mandates.delegate(jws)
    first = await rig.mandates.revoke(child.mandate_id, actor="ann")
    again = await rig.mandates.revoke(child.mandate_id, actor="ann")
    assert first.revoked_at == again.revoked_at
    with pytest.raises(MandateConflictError):
        await rig.mandates.thaw(child.mandate_id, actor="ann")
    assert (await rig.mandates.delegate(jws)).state is MandateState.REVOKED
    with pytest.raises(MandateRevokedError):
        await rig.pay(child, wallet=rig.helper_wallet)


@pytest.mark.parametrize("frozen", ["root", "buyer-bot", "ann", "acme"])
async def test_kill_switch_stops_the_whole_tree_and_thaws_again(rig: AgentRig, frozen: str) -> None:
    """
    One call on a mandate, an agent or an owner stops all below, also what was delegated to
    an agent elsewhere; open holds may still be captured.
    """
    root = await rig.mandates.issue("buyer-bot", OPEN, actor="ann")
    child = await rig.mandates.delegate(rig.delegation(root, Terms()))
    other = await rig.another_process()
    assert await rig.pay(child, wallet=rig.helper_wallet, mandates=other) == "ok"
    authority = await other.authorise(
        rig.helper_wallet, child.mandate_id, rig.purchase(), now=rig.books.clock.now()
    )
    placement = rig.placement(authority)
    assert (await rig.books.place(placement)).is_done

    subject = root.mandate_id if frozen == "root" else frozen
    await rig.mandates.freeze(subject, actor="ann")
    refused = await rig.hold(authority)
    assert refused.code == Refusal.SCOPE_FROZEN
    assert isinstance(await other.refusal(authority, refused), MandateFrozenError)
    assert (await rig.books.capture(placement.hold_id)).is_done, "what was held is captured"

    await rig.mandates.thaw(subject, actor="ann")
    assert await rig.pay(child, wallet=rig.helper_wallet, mandates=other) == "ok"


async def test_thaw_is_heard_although_a_cache_says_frozen(rig: AgentRig) -> None:
    """
    What is remembered as frozen is read again before it refuses.
    """
    mandate = await rig.mandates.issue("buyer-bot", OPEN, actor="ann")
    await rig.mandates.freeze(mandate.mandate_id, actor="ann")
    other = await rig.another_process()
    with pytest.raises(MandateFrozenError):
        await rig.pay(mandate, mandates=other)
    await rig.mandates.thaw(mandate.mandate_id, actor="ann")
    assert await rig.pay(mandate, mandates=other) == "ok"


async def test_expired_mandate_pays_nothing_and_its_scope_ends_too(rig: AgentRig) -> None:
    """
    Expiry is judged before the ledger, and by the ledger for whoever comes late.
    """
    ends = rig.books.clock.now() + timedelta(minutes=10)
    mandate = await rig.mandates.issue("buyer-bot", OPEN, actor="ann", expires_at=ends)
    authority = await rig.mandates.authorise(
        rig.wallet, mandate.mandate_id, rig.purchase(), now=rig.books.clock.now()
    )
    rig.books.clock.advance(timedelta(minutes=11))
    refused = await rig.hold(authority)
    assert refused.code == Refusal.SCOPE_CLOSED
    assert isinstance(await rig.mandates.refusal(authority, refused), MandateExpiredError)
    with pytest.raises(MandateExpiredError):
        await rig.pay(mandate)


# ------------------------------------------------------------------------------ wallets


async def test_revoked_wallet_holds_nothing_although_another_process_knows_it(
    rig: AgentRig,
) -> None:
    """
    The wallet stands on the path, so its revocation binds the next hold everywhere.
    """
    mandate = await rig.mandates.issue("buyer-bot", OPEN, actor="ann")
    other = await rig.another_process()
    assert await rig.pay(mandate, mandates=other) == "ok"
    await rig.mandates.revoke_wallet(rig.wallet)
    authority = await other.authorise(
        rig.wallet, mandate.mandate_id, rig.purchase(), now=rig.books.clock.now()
    )
    refused = await rig.hold(authority)
    assert refused.code == Refusal.SCOPE_CLOSED
    assert isinstance(await other.refusal(authority, refused), WalletRevokedError)
    with pytest.raises(WalletRevokedError):
        await rig.pay(mandate)


async def test_wallet_is_registered_once(rig: AgentRig) -> None:
    """
    The same again is harmless; for another agent, or after revocation, it is a conflict.
    """
    again = await rig.mandates.add_wallet("buyer-bot", rig.wallet, label="other words")
    assert again.label == "first"
    with pytest.raises(WalletTakenError):
        await rig.mandates.add_wallet("helper-bot", rig.wallet)
    await rig.mandates.revoke_wallet(rig.wallet)
    with pytest.raises(WalletTakenError):
        await rig.mandates.add_wallet("buyer-bot", rig.wallet)
    with pytest.raises(WalletUnknownError):
        await rig.mandates.wallet_of(address_of(Ed25519PrivateKey.generate()))


async def test_wallet_uses_its_agents_only_mandate_and_no_other_agents(rig: AgentRig) -> None:
    """
    Without a name the only usable mandate is meant; two, none, or another agent's are refused.
    """
    now = rig.books.clock.now()
    with pytest.raises(MandateRequiredError):
        await rig.mandates.authorise(rig.wallet, None, rig.purchase(), now=now)
    mandate = await rig.mandates.issue("buyer-bot", OPEN, actor="ann")
    authority = await rig.mandates.authorise(rig.wallet, None, rig.purchase(), now=now)
    assert authority.mandate.mandate_id == mandate.mandate_id
    assert authority.agent_name == "buyer-bot"
    assert authority.party_chain == (
        rig.organisation.party_id,
        rig.user.party_id,
        rig.agent.party_id,
    )
    await rig.mandates.issue("buyer-bot", OPEN, actor="ann")
    with pytest.raises(MandateRequiredError):
        await rig.mandates.authorise(rig.wallet, None, rig.purchase(), now=now)
    with pytest.raises(MandateUnknownError):
        await rig.mandates.authorise(rig.helper_wallet, mandate.mandate_id, rig.purchase(), now=now)


# --------------------------------------------------------------------------- delegation


async def test_delegation_is_limited_by_all_above_it(rig: AgentRig) -> None:
    """
    A wallet signs a part of its mandate away; both budgets count, and the agent may not take
    more than it has.
    """
    root = await rig.mandates.issue(
        "buyer-bot", Terms(budgets=per(Window.EVER, 3 * CENT), delegations_max=1), actor="ann"
    )
    child = await rig.mandates.delegate(
        rig.delegation(root, Terms(budgets=per(Window.EVER, 2 * CENT)))
    )
    assert child.issuer_id == rig.agent.party_id
    assert child.depth == 2
    assert [await rig.pay(child, wallet=rig.helper_wallet) for _ in range(3)] == [
        "ok",
        "ok",
        "insufficient",
    ]
    assert [await rig.pay(root), await rig.pay(root)] == ["ok", "insufficient"]


async def test_long_chain_is_read_by_no_more_statements(
    rig: AgentRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A first payment waits for its chain: the agents of all its mandates are read at once.
    """
    root = await rig.mandates.issue("buyer-bot", Terms(delegations_max=1), actor="ann")
    child = await rig.mandates.delegate(rig.delegation(root, Terms()))
    assert await rig.pay(child, wallet=rig.helper_wallet) == "ok"
    statements: list[str] = []
    execute = psycopg.AsyncConnection[Any].execute

    async def count(
        self: psycopg.AsyncConnection[Any],
        query: LiteralString,
        parameters: Sequence[object] | Mapping[str, object] | None = None,
    ) -> psycopg.AsyncCursor[Any]:
        statements.append(query)
        return await execute(self, query, parameters)

    monkeypatch.setattr(psycopg.AsyncConnection, "execute", count)
    counts: list[int] = []
    for mandate in (root, child):
        another = await rig.another_process()
        statements.clear()
        assert (await another.authority_of(mandate.mandate_id)).mandate == mandate
        counts.append(len(statements))

    assert root.agent_id != child.agent_id
    assert counts[0] == counts[1]


async def test_same_delegation_twice_at_once_is_one_mandate(rig: AgentRig) -> None:
    """
    A delegation names its own id: sent by two processes at once, time and again, it is there once.
    """
    root = await rig.mandates.issue("buyer-bot", OPEN, actor="ann")
    other = await rig.another_process()
    for number in range(1, 31):
        jws = rig.delegation(root, Terms())
        taken = await asyncio.gather(
            *((rig.mandates if n % 2 else other).delegate(jws) for n in range(8))
        )
        assert len({mandate.mandate_id for mandate in taken}) == 1
        assert len(await rig.mandates.list_mandates(agent_ids=[rig.helper.party_id])) == number


async def test_chain_ends_at_its_depth(rig: AgentRig) -> None:
    """
    Eight mandates are a chain, nine are none.
    """
    terms = [Terms(delegations_max=7 - level) for level in range(MANDATE_DEPTH_MAX)]
    chain = await rig.chain_of(MANDATE_DEPTH_MAX, terms)
    assert await rig.pay(chain[-1]) == "ok"
    with pytest.raises(MandateTooDeepError):
        await rig.mandates.issue("buyer-bot", Terms(), parent=chain[-1].mandate_id, actor="ann")


async def test_bad_delegations_are_refused_and_leave_nothing(rig: AgentRig) -> None:
    """
    A wrong key, a wrong parent, wider terms, a dead wallet: each its own problem.
    """
    root = await rig.mandates.issue(
        "buyer-bot", Terms(amount_max=CENT, delegations_max=1), actor="ann"
    )
    twin = await rig.mandates.issue("buyer-bot", OPEN, actor="ann")
    wrong_content = rig.delegation(_with_jws(root, twin.jws), Terms())
    signed = rig.delegation(root, Terms())
    head, body, tail = signed.split(".")
    flipped = ("B" if tail[10] != "B" else "C") + tail[11:]
    for jws, error in (
        (rig.delegation(root, Terms(), key=rig.helper_key), MandateSignatureError),
        (f"{head}.{body}.{tail[:10]}{flipped}", MandateSignatureError),
        (wrong_content, MandateParentError),
        (root.jws.replace(root.jws[-20:-10], "A" * 10), MandateConflictError),
        (rig.delegation(root, Terms(amount_max=DOLLAR)), MandateNotAttenuatedError),
        (rig.delegation(root, Terms(delegations_max=1)), MandateNotAttenuatedError),
        (rig.delegation(root, Terms(), agent=rig.user.party_id), NotAnAgentError),
        (rig.delegation(root, Terms(), agent=rig.shop.party_id), NotAnAgentError),
    ):
        with pytest.raises(error):
            await rig.mandates.delegate(jws)
    await rig.mandates.revoke_wallet(rig.wallet)
    with pytest.raises(MandateSignatureError):
        await rig.mandates.delegate(signed)
    assert await rig.mandates.list_mandates(agent_ids=[rig.helper.party_id]) == []


def _with_jws(mandate: Mandate, jws: str) -> Mandate:
    return replace(mandate, jws=jws)


async def test_mandate_of_a_closed_party_is_refused(rig: AgentRig) -> None:
    """
    Nobody closed gets a mandate or a wallet.
    """
    await rig.identity.set_party_state(rig.user.party_id, PartyState.CLOSED)
    with pytest.raises(PartyStateError):
        await rig.mandates.issue("buyer-bot", OPEN, actor="ann")
    with pytest.raises(PartyStateError):
        await rig.mandates.add_wallet("buyer-bot", address_of(Ed25519PrivateKey.generate()))


async def test_terms_cannot_be_changed_in_the_database(rig: AgentRig) -> None:
    """
    The database itself keeps a mandate's terms and its events.
    """
    mandate = await rig.mandates.issue("buyer-bot", OPEN, actor="ann")
    for statement in (
        "UPDATE agents.mandates SET terms = '{}'",
        "UPDATE agents.mandates SET expires_at = NULL, label = 'x'",
        "DELETE FROM agents.mandates",
        "UPDATE agents.mandate_events SET actor = 'nobody'",
        "DELETE FROM agents.mandate_events",
        "TRUNCATE agents.mandate_events",
    ):
        with pytest.raises(Exception, match=r"change|append-only|never"):
            await rig.books.execute(statement)
    assert (await rig.mandates.get(mandate.mandate_id)) == mandate
    limits = await rig.books.ledger.limits([mandate.mandate_id])
    assert [limit for limit in limits if limit.asset == LIMIT_USD.code] == []
