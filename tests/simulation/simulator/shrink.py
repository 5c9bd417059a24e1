"""
Make a failing plan short: the prefix that fails, then every step left out that is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

TRIES_MAX = 1_000
Fails = Callable[[Sequence[int]], bool]


def shrink(
    steps: Sequence[int],
    fails: Fails,
    *,
    tries_max: int = TRIES_MAX,
    is_enough: Callable[[], bool] = lambda: False,
    on_try: Callable[[int, int], None] = lambda _tries, _steps: None,
) -> list[int]:
    """
    Return a part of the steps that still fails, in their order; the last one always stays.

    Chunks are left out, the large ones first (delta debugging, Zeller and Hildebrandt 2002).

    Args:
        steps: A plan that fails in its last step.
        fails: Runs a plan and says whether the same law is broken.
        tries_max: How many runs it may take.
        is_enough: Asked before each run whether to stop here.
        on_try: Is told how many runs there were and how short the plan is by now.
    """
    kept, last = list(steps[:-1]), steps[-1]
    tries = 0
    size = max(1, len(kept) // 2)
    while kept and tries < tries_max and not is_enough():
        position, has_shrunk = 0, False
        while position < len(kept) and tries < tries_max and not is_enough():
            shorter = kept[:position] + kept[position + size :]
            tries += 1
            on_try(tries, len(kept) + 1)
            if fails([*shorter, last]):
                kept, has_shrunk = shorter, True
            else:
                position += size
        if size == 1 and not has_shrunk:
            break
        size = max(1, size // 2)
    return [*kept, last]
