"""
Settle calls of a facilitator at several numbers in flight: orders are signed, then loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.rig import ROOT
from tokenworks.conformance.facilitator import Order

IN_FLIGHT: Final = (1, 8, 64)
START_AND_DRAIN_S: Final = 120.0


class LoadError(Exception):
    """
    The loader could not run, or nothing was settled; the message says why.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """
    How long a measurement takes.
    """

    warm_up_s: float
    duration_s: float

    @property
    def total_s(self) -> float:
        """
        Return how long calls are sent.
        """
        return self.warm_up_s + self.duration_s


SignOrders = Callable[[int], Iterable[Order]]
"""Returns so many honest payments, each with a nonce of its own."""


def load(
    url: str, sign: SignOrders, *, count: int, connections: int, span: Span, folder: Path
) -> dict[str, Any]:
    """
    Sign so many orders, settle as many as fit into the span, and return the loader's report.
    """
    orders_file = folder / f"orders-{os.urandom(4).hex()}.jsonl"
    with orders_file.open("w", encoding="utf-8") as file:
        for order in sign(count):
            file.write(json.dumps(order.to_document()) + "\n")
    words = [sys.executable, "-m", "benchmarks.agents.settle_loader", "--url", f"{url}/settle"]
    words += ["--orders", str(orders_file), "--connections", str(connections)]
    words += ["--duration", str(span.duration_s), "--warm-up", str(span.warm_up_s)]
    try:
        done = subprocess.run(
            words,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=span.total_s + START_AND_DRAIN_S,
            check=False,
        )
    finally:
        orders_file.unlink()
    if not done.stdout:
        message = f"The loader stopped with {done.returncode}: {done.stderr[-2_000:]}"
        raise LoadError(message)
    report: dict[str, Any] = json.loads(done.stdout)
    if not report["settled"]:
        message = f"Nothing was settled at {url}: {report['refusals']}"
        raise LoadError(message)
    return report
