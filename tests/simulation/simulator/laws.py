"""
The laws the auditor knows, and what it says when one is broken.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Law(Enum):
    """
    A law, with its line in `docs/internals/ledger.md` and its sentence.
    """

    AVAILABLE = ("2", "what is available is posted credits less posted and pending debits")
    CLIENT_MONEY = ("3", "client money is covered at every entry")
    ONE_BY_ONE = ("6", "a batch's answers are those of its operations one by one")
    ONE_FACT_A_BATCH = ("6", "two operations on one fact never share a batch")
    ANSWERED = ("7", "every operation is answered")
    LOCK_ORDER = ("8", "locks are taken in one order: writers never deadlock")
    FACT_ONCE = ("9", "a fact is recorded once, and a repeat is answered as the first time")
    REFUSAL = ("10", "a refusal leaves no trace and names the true reason")
    DURABLE = ("11", "what was acknowledged is in the books")
    HOLD_ONCE = ("12", "a hold's parts are taken together, and it closes once")
    LEDGER_TIME = ("13", "holds expire in ledger time, by an operation")
    HELD = ("14", "a call holds its input and granted output at the dearest price")
    OVERRUN = ("15", "a settle is never refused for funds: the platform bears what is short")
    LIMITED = ("17", "no sum of holds and charges passes a limit")
    WINDOW = ("18", "a window is an account, granted once; nothing is ever reset")
    SPEND_PATH = ("19", "a hold passes every current limit of a current path, nothing stopped")
    CHARGE = ("21", "a call's charge is usage times price, rounded once")
    LEGS = ("21", "a charge's legs sum to it, and each goes to its owner")
    PAYMENT = ("9", "a payment pays once what was signed, to whom it was signed for, or nothing")
    MANDATE = ("19", "what is paid counts in every mandate above it, and in force are all of them")
    REVIEW = (
        "12",
        "what waits for people is paid when they approved exactly it, in time, or never",
    )
    ESCROW = ("12", "an escrow pays each milestone once, by its verdict; the rest goes back")
    CORRECTION = ("5", "what was booked is reversed once, by an entry with its reason and actor")
    STATEMENT = ("22", "a statement changes what is owed once, when a person accepted it")
    REFUND = ("25", "refunds stay within the charge, and units return to their own windows")
    CLOSED = ("13", "a closed date takes nothing more, and its close is its trial balance")
    CHAIN = ("28", "one writer a lane: its batches are one gapless chain")
    BOOKS = ("28", "the books rebuilt from their records are the books")

    @property
    def line(self) -> str:
        """
        Return the law's number in the ledger's list.
        """
        return self.value[0]

    def __str__(self) -> str:
        return f"{self.name.lower()} (law {self.line}): {self.value[1]}"


class BrokenLawError(Exception):
    """
    The hub did what a law forbids.
    """

    def __init__(self, law: Law, message: str) -> None:
        super().__init__(f"{law}\n  {message}")
        self.law = law
        self.message = message


_BY_CODE: Final = {
    "insufficient": Law.AVAILABLE,
    "client_money_unsafeguarded": Law.CLIENT_MONEY,
    "spend_path_stale": Law.SPEND_PATH,
    "spend_path_unknown": Law.SPEND_PATH,
    "scope_frozen": Law.SPEND_PATH,
    "scope_closed": Law.SPEND_PATH,
    "hold_not_due": Law.LEDGER_TIME,
    "hold_waits": Law.LEDGER_TIME,
    "deadline_passed": Law.LEDGER_TIME,
    "hold_closed": Law.HOLD_ONCE,
    "hold_unknown": Law.HOLD_ONCE,
    "date_closed": Law.CLOSED,
    "conflict": Law.FACT_ONCE,
    "replayed": Law.FACT_ONCE,
    "internal": Law.ANSWERED,
}


def law_of_codes(expected: str, found: str) -> Law:
    """
    Return the law that a wrong code breaks.
    """
    return _BY_CODE.get(expected) or _BY_CODE.get(found) or Law.ONE_BY_ONE
