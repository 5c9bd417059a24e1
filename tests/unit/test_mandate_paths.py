"""
What is remembered of mandates is bounded, and what is derived is the same everywhere.
"""

from __future__ import annotations

from uuid import UUID

from tokenworks.agents.mandates.cache import Remembered
from tokenworks.agents.mandates.paths import path_of, payee_scope, wallet_scope

ONE, TWO = UUID(int=1), UUID(int=2)


def test_least_lately_used_fact_goes_first() -> None:
    """
    A bounded memory keeps what is used.
    """
    remembered: Remembered[int, str] = Remembered(2)
    for key in (1, 2):
        remembered.keep(key, str(key), generation=0, now_s=0)
    assert remembered.find(1, now_s=0) == "1"
    remembered.keep(3, "3", generation=0, now_s=0)
    assert (len(remembered), remembered.find(2, now_s=0)) == (2, None)
    assert remembered.find(1, now_s=0) == "1"


def test_fact_read_before_something_was_forgotten_is_not_kept() -> None:
    """
    A slow reader cannot bring back what a notification dropped meanwhile.
    """
    remembered: Remembered[int, str] = Remembered(2)
    generation = remembered.generation
    remembered.forget(1)
    remembered.keep(1, "old", generation=generation, now_s=0)
    assert remembered.find(1, now_s=0) is None


def test_fact_grows_old() -> None:
    """
    With a lifetime a fact is good for so long.
    """
    remembered: Remembered[int, str] = Remembered(2, lifetime_s=5)
    remembered.keep(1, "1", generation=0, now_s=10)
    assert (remembered.find(1, now_s=14), remembered.find(1, now_s=15)) == ("1", None)


def test_derived_ids_are_told_apart_and_never_change() -> None:
    """
    Scopes of payees and wallets, and paths through them, are found by every process; a changed
    derivation would open every counter anew.
    """
    assert payee_scope(ONE, TWO) == UUID("88916548-194d-8a16-aac8-ecf2bf9857e6")
    assert wallet_scope("a") == UUID("f9ef355c-1e52-8890-9560-d25d6b3864c4")
    assert path_of(ONE, wallet="a", payee_id=None) == UUID("fc3eab55-97b8-818c-9c0a-5b2a205a26c4")
    derived = {
        payee_scope(ONE, TWO),
        payee_scope(TWO, ONE),
        wallet_scope("a"),
        path_of(ONE, wallet="a", payee_id=None),
        path_of(ONE, wallet=None, payee_id=TWO),
        path_of(ONE, wallet="a", payee_id=TWO),
        path_of(ONE, wallet=None, payee_id=None),
    }
    assert len(derived) == 7
    assert path_of(ONE, wallet=None, payee_id=None) == ONE
