"""
What a call costs as the books grow: the same callers on ever more accounts and entries.

One database, filled from size to size (``fill``) and measured at each. Buyers are taken at
random from all there are, so the larger the books, the fewer of a call's rows are in memory.
Each size is measured twice: right after a checkpoint, when the first change of a page is logged
with the whole page, and after some seconds of calls, when many pages were written already. What
a busy hub pays on average lies between the two; the larger the books, the nearer to the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from benchmarks.ledger import calls
from benchmarks.ledger.calls import CallScenario, Span
from benchmarks.ledger.fill import ACCOUNTS_PER_BUYER, Filler
from benchmarks.ledger.server import Server

WAITERS: Final = 128
AFTER_CHECKPOINT: Final = ", after a checkpoint"
WRITTEN: Final = ", written since"
WRITTEN_S: Final = 12.0
"""How long calls go on before the second measurement."""
RATIO_MAX: Final = 1.2
"""Of a call's CPU time to that in the smallest books: flat within 20 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """
    How large the books are.
    """

    accounts: int
    entries: int

    @property
    def name(self) -> str:
        """
        Return how the size is called in tables.
        """
        return f"growth {self.accounts:,} accounts {self.entries:,} entries"


SMALL: Final = (
    Size(accounts=10**3, entries=10**4),
    Size(accounts=10**4, entries=10**5),
    Size(accounts=10**5, entries=10**6),
)
FULL: Final = (*SMALL, Size(accounts=10**6, entries=10**7))

SIZES: Final = {"small": SMALL, "full": FULL}


def measure(
    server: Server,
    database_name: str,
    sizes: tuple[Size, ...],
    span: Span,
    *,
    rounds: int,
    business_file: str,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """
    Return the figures of each size, the smallest first.

    Args:
        server: Where the database is.
        database_name: A copy of the business, to be filled.
        sizes: Rising.
        span: Of each measurement.
        rounds: How often each size is measured.
        business_file: For the callers.
        progress: Is told what goes on.
    """
    database = server.database(database_name)
    # Histories are copies of a real call, so there has to be one.
    first = CallScenario(name="first", waiters=1)
    calls.run_scenario(
        first, server, database, Span(warm_up_s=0, duration_s=0.1), business_file=business_file
    )
    filler = Filler(database, progress)
    found: list[dict[str, Any]] = []
    for size in sizes:
        filler.raise_to(accounts=size.accounts, entries=size.entries)
        base = sizes[0]
        for kind, warm_up_s in ((AFTER_CHECKPOINT, 0.0), (WRITTEN, WRITTEN_S)):
            scenario = CallScenario(
                name=f"{size.name}{kind}",
                against=f"{base.name}{kind}",
                waiters=WAITERS,
                grown_buyers=size.accounts // ACCOUNTS_PER_BUYER,
            )
            measured: list[dict[str, Any]] = []
            for turn in range(rounds):
                progress(f"round {turn + 1}/{rounds}: {scenario.name}")
                if kind == AFTER_CHECKPOINT:
                    database.checkpoint()
                measured.append(
                    calls.run_scenario(
                        scenario,
                        server,
                        database,
                        replace(span, warm_up_s=span.warm_up_s + warm_up_s),
                        business_file=business_file,
                    )
                )
            found.append(
                {
                    **msgspec.to_builtins(scenario),
                    "rounds": measured,
                    "database_bytes": database.size_bytes(),
                    **calls.median_of(measured),
                }
            )
    return found
