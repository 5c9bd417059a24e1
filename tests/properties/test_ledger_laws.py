"""
Laws of the ledger: a batch equals its operations one by one, whatever they are.

``TOKENWORKS_LONG_TESTS=1`` runs many more and longer examples.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.simulation.books import Books, open_books
from tests.simulation.twin import (
    PlaceWish,
    PostWish,
    Twin,
    place_wishes,
    plain_wishes,
    post_wishes,
)
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import BATCH_OPERATIONS_MAX

IS_LONG = bool(os.environ.get("TOKENWORKS_LONG_TESTS"))
EXAMPLES = 2_000 if IS_LONG else 100
BATCHES_MAX = 12 if IS_LONG else 6

batches = st.lists(
    st.one_of(
        st.lists(place_wishes, min_size=1, max_size=12),
        st.lists(post_wishes, min_size=1, max_size=12),
        st.lists(plain_wishes, min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=BATCHES_MAX,
)


@pytest.fixture
async def books(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[Books]:
    """
    One ledger for all examples; each example opens a business of its own in it.
    """
    async with open_books(dsn, clock, ids) as books:
        yield books
        await books.assert_clean()


@pytest.mark.timeout(3_600 if IS_LONG else 120)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(plan=batches, together_from=st.sampled_from([1, 1, BATCH_OPERATIONS_MAX]))
async def test_batch_equals_its_operations_one_by_one(
    books: Books, plan: list[list[PlaceWish] | list[PostWish]], together_from: int
) -> None:
    """
    Codes, overruns, refused accounts, counters and holds are those of the naive ledger.

    Whether plain entries are decided together or each alone.
    """
    books.writer._batches._together_from = together_from
    twin = Twin(books)
    await twin.open()
    for batch in plan:
        placings = [twin.placement(wish) for wish in batch if isinstance(wish, PlaceWish)]
        postings = [twin.posting(wish) for wish in batch if isinstance(wish, PostWish)]
        if placings:
            await twin.place(placings)
        if postings:
            books.writer._batches._plain_pause = 0  # whatever became of the last one
            await twin.post(postings)
        await twin.assert_same()
