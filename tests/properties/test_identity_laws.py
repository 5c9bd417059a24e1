"""
Laws of the party tree and of the rate limiter.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tokenworks.foundation.errors import TokenworksError
from tokenworks.identity import placing
from tokenworks.identity.admission import ChainLink, make_record
from tokenworks.identity.model import Level, Party, PartyKind, PartyState, Role
from tokenworks.identity.rate import FailureLimiter, RequestLimiter

LEVELS = list(Level)
WISHES = st.lists(
    st.tuples(
        st.sampled_from(PartyKind),
        st.sampled_from(Level) | st.none(),
        st.integers(min_value=0, max_value=30) | st.none(),
        st.sampled_from(["free", "elite"]) | st.none(),
    ),
    max_size=30,
)


def build(
    wishes: list[tuple[PartyKind, Level | None, int | None, str | None]],
) -> dict[UUID, Party]:
    """
    Place one party for each wish that the rules allow, under parents placed before.
    """
    parties: dict[UUID, Party] = {}
    for index, (kind, wished_level, parent_index, tier) in enumerate(wishes):
        placed = list(parties.values())
        has_parent = parent_index is not None and placed
        parent = placed[(parent_index or 0) % len(placed)] if has_parent else None
        level = wished_level or placing.default_level(parent)
        try:
            placing.check_place(kind=kind, level=level, parent=parent)
        except TokenworksError:
            continue
        party_id = UUID(int=100 + index)
        parties[party_id] = Party(
            party_id=party_id,
            kind=kind,
            level=level,
            name=f"party-{index}",
            organisation_id=party_id if parent is None else parent.organisation_id,
            parent_id=None if parent is None else parent.party_id,
            default_tier=tier,
            state=PartyState.ACTIVE,
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
    return parties


@given(wishes=WISHES)
def test_any_tree_that_can_be_built_has_ordered_chains(
    wishes: list[tuple[PartyKind, Level | None, int | None, str | None]],
) -> None:
    """
    A chain begins at its organisation, descends by level, keeps its kind and ends at the leaf.
    """
    parties = build(wishes)
    for party in parties.values():
        chain = placing.chain_of(parties, party.party_id)
        heights = [LEVELS.index(link.level) for link in chain]
        assert chain[-1] is party
        assert chain[0].level is Level.ORGANISATION
        assert chain[0].party_id == party.organisation_id
        assert heights == sorted(set(heights))
        assert len(chain) <= placing.CHAIN_LENGTH_MAX
        assert {link.kind for link in chain} == {party.kind}
        assert len(chain) == 1 or party.kind is PartyKind.BUYER


@given(wishes=WISHES)
def test_principal_follows_its_chain(
    wishes: list[tuple[PartyKind, Level | None, int | None, str | None]],
) -> None:
    """
    Organisation, leaf and tier of a principal are those of its chain.
    """
    parties = build(wishes)
    for party in parties.values():
        chain = placing.chain_of(parties, party.party_id)
        principal = make_record(
            secret_sha256="0" * 64,
            key_id=UUID(int=1),
            role=Role.BUYER,
            models=None,
            requests_per_minute=None,
            spend_path_version=1,
            expires_at=None,
            revoked_at=None,
            secret_valid_until=None,
            chain=[
                ChainLink(
                    party_id=link.party_id,
                    name=link.name,
                    state=link.state,
                    default_tier=link.default_tier,
                )
                for link in chain
            ],
        ).principal
        named = [link.default_tier for link in chain if link.default_tier is not None]
        assert principal.chain == tuple(link.party_id for link in chain)
        assert principal.organisation_id == chain[0].party_id
        assert principal.party_id == party.party_id
        assert principal.default_tier == (named[-1] if named else "standard")


# Times in nanoseconds, so that the law is checked in the integers the limiter works in.
STEPS_NS = st.lists(st.integers(min_value=0, max_value=40_000_000_000), max_size=80)


@given(per_minute=st.integers(min_value=1, max_value=200), steps_ns=STEPS_NS, window=st.data())
def test_no_window_admits_more_than_the_rate_and_one_burst(
    per_minute: int, steps_ns: list[int], window: st.DataObject
) -> None:
    """
    In any window of length T at most ``burst + T // interval`` requests are admitted.
    """
    limiter = RequestLimiter()
    admitted: list[float] = []
    now_ns = 0
    for step_ns in steps_ns:
        now_ns += step_ns
        for _ in range(window.draw(st.integers(min_value=1, max_value=5))):
            now_s = now_ns / 1_000_000_000
            if limiter.take("key", per_minute=per_minute, now_s=now_s) == 0.0:
                admitted.append(now_s)
    interval_s = 60 / per_minute
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            length_s = admitted[last] - admitted[first]
            # A hair of room: the times here are floats, the limiter's are not.
            assert last - first + 1 <= per_minute + (length_s + 1e-6) / interval_s


@given(per_minute=st.integers(min_value=1, max_value=1_000_000), steps_ns=STEPS_NS)
def test_waiting_as_told_is_enough(per_minute: int, steps_ns: list[int]) -> None:
    """
    Whoever waits for the time told is admitted then.
    """
    limiter = RequestLimiter()
    now_s = 0.0
    for step_ns in steps_ns:
        now_s += step_ns / 1_000_000_000
        wait_s = limiter.take("key", per_minute=per_minute, now_s=now_s)
        if wait_s > 0:
            now_s += wait_s + 1e-6
            assert limiter.take("key", per_minute=per_minute, now_s=now_s) == 0.0


@given(steps_ns=STEPS_NS)
def test_address_that_waits_is_never_locked_out(steps_ns: list[int]) -> None:
    """
    The time told to a failing address is never longer than one interval.
    """
    limiter = FailureLimiter(failures_per_minute=20)
    now_s = 0.0
    for step_ns in steps_ns:
        now_s += step_ns / 1_000_000_000
        limiter.note("203.0.113.1", now_s=now_s)
        assert limiter.wait_s("203.0.113.1", now_s=now_s) <= 3.0 + 1e-6
