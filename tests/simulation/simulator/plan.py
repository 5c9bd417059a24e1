"""
A seed's plan: which operation each step is, drawn before anything runs.

Each step has chance of its own (see ``Dice``), so a step does the same kind of thing whichever
other steps are left out; that is what makes a failing plan short.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Final

from tests.simulation.simulator.operations import (
    attested_operations,
    call_operations,
    closing_operations,
    control_operations,
    escrow_operations,
    ledger_operations,
    mandate_operations,
    money_operations,
    payment_operations,
    refund_operations,
    reversal_operations,
    review_operations,
    statement_operations,
    time_operations,
    wallet_operations,
)
from tests.simulation.simulator.simulation import Simulation

Operation = Callable[[Simulation, Random], Awaitable[str]]

FAMILIES: Final = (
    call_operations,
    money_operations,
    control_operations,
    ledger_operations,
    mandate_operations,
    payment_operations,
    attested_operations,
    wallet_operations,
    review_operations,
    escrow_operations,
    refund_operations,
    reversal_operations,
    statement_operations,
    closing_operations,
    time_operations,
)
"""
Each family of operations says in its own module what it does and how often (``OPERATIONS``).
A new operation is a new line there; a new family is a new line here.
"""

OPERATIONS: Final[Mapping[str, tuple[int, Operation]]] = {
    name: weighted for family in FAMILIES for name, weighted in family.OPERATIONS.items()
}
"""Each operation with its weight."""


class Plan:
    """
    The endless sequence of a seed's operations.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(f"{seed}/plan")
        self._kinds: list[str] = []

    def kind(self, step: int) -> str:
        """
        Return the name of one step's operation.
        """
        names = list(OPERATIONS)
        weights = [OPERATIONS[name][0] for name in names]
        while len(self._kinds) <= step:
            self._kinds.append(self._random.choices(names, weights)[0])
        return self._kinds[step]
