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
    call_operations,
    control_operations,
    ledger_operations,
    money_operations,
    time_operations,
)
from tests.simulation.simulator.simulation import Simulation

Operation = Callable[[Simulation, Random], Awaitable[str]]

OPERATIONS: Final[Mapping[str, tuple[int, Operation]]] = {
    "call": (24, call_operations.begin),
    "calls_at_once": (5, call_operations.begin_at_once),
    "supplier_goes_on": (22, call_operations.go_on),
    "client_hangs_up": (3, call_operations.hang_up),
    "call_again": (5, call_operations.try_again),
    "deposit": (7, money_operations.deposit),
    "chargeback": (2, money_operations.chargeback),
    "payout": (4, money_operations.payout),
    "payment_again": (4, money_operations.tell_again),
    "payment_otherwise": (2, money_operations.tell_otherwise),
    "set_limit": (8, control_operations.set_limit),
    "remove_limit": (2, control_operations.remove_limit),
    "stop_party": (4, control_operations.stop_party),
    "revoke_key": (1, control_operations.revoke_key),
    "publish_path": (2, control_operations.publish_path),
    "place": (8, ledger_operations.place),
    "extend": (4, ledger_operations.extend),
    "place_again": (4, ledger_operations.place_again),
    "end": (8, ledger_operations.end),
    "post": (5, ledger_operations.post),
    "post_again": (4, ledger_operations.post_again),
    "wait": (8, time_operations.wait_shortly),
    "wait_steadily": (4, time_operations.wait_steadily),
    "jump": (3, time_operations.jump),
    "work": (6, time_operations.work),
    "lose_request": (2, time_operations.lose_request),
    "lose_answer": (2, time_operations.lose_answer),
    "crash": (1, time_operations.crash),
    "change_prices": (2, control_operations.change_prices),
    "pause_offer": (2, control_operations.pause_offer),
    "fail_commit": (2, time_operations.fail_commit),
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
