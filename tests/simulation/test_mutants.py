"""
A law that nothing can break is no law: each mutant is found, by a law that says what is wrong.
"""

from __future__ import annotations

import pytest

from tests.databases import OpenDatabase
from tests.simulation.mutants.catalogue import MUTANTS
from tests.simulation.mutants.find import find
from tests.simulation.mutants.mutant import Mutant
from tests.simulation.mutants.patching import AnchorMissingError, patch_function


@pytest.fixture(scope="module", autouse=True)
def _patience() -> None:
    """
    Wait no longer than a hub does: time is simulated, and the auditor knows what is too late.
    """


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_mutant_is_found(open_database: OpenDatabase, mutant: Mutant) -> None:
    """
    The auditor names the law that the mutant breaks.
    """
    found = find(mutant, open_database)
    assert found.broken is not None, f"{mutant.meaning}: nobody noticed"
    assert found.is_found, f"{mutant.meaning}: caught as {found.broken}"


def test_mutant_without_its_anchor_fails_loudly(dsn: str) -> None:
    """
    A rewritten function must not turn a mutant into a healthy hub.
    """
    with pytest.raises(AnchorMissingError, match="0 times"):
        patch_function(dsn, "place_v2", [("no such words", "")])
    with pytest.raises(AnchorMissingError, match="no function"):
        patch_function(dsn, "place_v99", [("a", "b")])
