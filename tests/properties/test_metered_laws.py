"""
What the hub metered in some calls, as a condition sees it: exactly what the calls say.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tokenworks.agents.escrow.model import MeteredCall
from tokenworks.agents.escrow.totalling import metered_facts, metered_sha256
from tokenworks.foundation.money import USD, quanta_from_text

AXES = ("input", "output", "reasoning")

counts = st.integers(0, 10**9)
some_calls = st.lists(
    st.builds(
        MeteredCall,
        call_id=st.uuids(),
        party_id=st.just(UUID(int=1)),
        is_settled=st.just(True),
        ended_at=st.just(datetime(2026, 11, 26, 12, tzinfo=UTC)),
        model=st.sampled_from(["tiny", "large"]),
        tier=st.sampled_from(["free", "standard"]),
        usage=st.dictionaries(st.sampled_from(AXES), counts),
        input_tokens=counts,
        output_tokens=counts,
        is_estimate=st.booleans(),
        currency=st.just("USD"),
        charge_quanta=counts,
        duration_ms=st.floats(0, 10**6),
        first_token_ms=st.none() | st.floats(0, 10**6),
        http_status=st.none() | st.integers(200, 299),
    ),
    min_size=1,
    max_size=12,
)


@given(calls=some_calls, data=st.data())
def test_totals_are_those_of_the_calls(calls: Sequence[MeteredCall], data: st.DataObject) -> None:
    """
    Each sum is the calls', whatever their order; a maximum bounds all and is one's own; one hash.
    """
    facts: dict[str, Any] = dict(metered_facts(calls))
    assert facts["calls"] == len(calls)
    for axis in AXES:
        assert facts["usage"].get(axis, 0) == sum(call.usage.get(axis, 0) for call in calls)
    assert facts["input"] == sum(call.input_tokens for call in calls)
    assert facts["output"] == sum(call.output_tokens for call in calls)
    assert facts["charge_quanta"] == sum(call.charge_quanta for call in calls)
    assert quanta_from_text(facts["charge"], scale=USD.scale) == facts["charge_quanta"]
    assert all(call.duration_ms <= facts["latency_ms_max"] for call in calls)
    assert any(facts["latency_ms_max"] - 1 < call.duration_ms for call in calls)
    assert facts["models"] == sorted({call.model for call in calls})
    assert facts["tiers"] == sorted({call.tier for call in calls})
    assert facts["is_estimate"] == any(call.is_estimate for call in calls)
    assert ("first_token_ms_max" in facts) == all(call.first_token_ms is not None for call in calls)
    mixed = data.draw(st.permutations(calls))
    assert metered_sha256(metered_facts(mixed)) == metered_sha256(facts)
