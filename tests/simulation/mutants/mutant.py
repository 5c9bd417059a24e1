"""
What a mutant is: one way to break the hub, and the laws that have to notice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

from tests.simulation.mutants.patching import execute, patch_function
from tests.simulation.simulator.laws import Law

SIMULATOR: Final = "simulator"
STRESS: Final = "stress"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """
    One way to break the hub.
    """

    name: str
    meaning: str
    found_by: str
    laws: frozenset[Law]
    """Any of these may catch it first."""
    function: str = ""
    """Of the schema ``ledger``, or with its schema."""
    patches: Sequence[tuple[str, str]] = ()
    """Of the SQL function: anchors and what stands there instead."""
    statement: LiteralString | None = None
    """Of SQL, that breaks a table."""
    replace: Callable[[], Any] | None = field(default=None, repr=False)
    """Returns a patcher of Python."""
    seed: int = 1
    steps_max: int = 400

    @contextlib.contextmanager
    def applied(self, dsn: str) -> Generator[None]:
        """
        Break a fresh database, or this process for as long as the block runs.
        """
        if self.patches:
            patch_function(dsn, self.function, self.patches)
        if self.statement is not None:
            execute(dsn, self.statement)
        with contextlib.ExitStack() as stack:
            if self.replace is not None:
                stack.enter_context(self.replace())
            yield
