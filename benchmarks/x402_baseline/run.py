"""
Attack the official packages and write what came of it: ``python -m benchmarks.x402_baseline.run``.

The table goes to ``src/tokenworks/conformance/official_defaults.json`` and is shipped: the audit
prints it beside its own verdicts. Everything in it was counted in one run on one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.x402_baseline.attacks import attack_seller
from benchmarks.x402_baseline.chain import ROOT
from benchmarks.x402_baseline.rig import (
    PRICE,
    ChainPurse,
    Official,
    running_official,
    running_seller,
)
from tokenworks.conformance.facilitator import Facilitator
from tokenworks.conformance.ground import Ground
from tokenworks.conformance.model import Check, Finding, Report
from tokenworks.conformance.suite import CHECKS, audit
from tokenworks.foundation.clock import SystemClock

TABLE: Final = ROOT / "src" / "tokenworks" / "conformance" / "official_defaults.json"
PACKAGES: Final = ("x402", "web3", "eth-account", "coincurve", "vyper", "uvicorn", "fastapi")


class Lines:
    """
    Say on standard error how it goes.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def began(self, check: Check, *, number: int, of: int) -> None:
        """
        Say nothing: the verdict comes soon.
        """
        del check, number, of

    def ended(self, finding: Finding) -> None:
        """
        Print the verdict.
        """
        outcome = finding.outcome
        self._console.print(
            f"{finding.check_id:24} {outcome.verdict:16} {outcome.because}", highlight=False
        )


async def attack(
    official: Official, seller: str, *, in_parallel: int, console: Console
) -> tuple[list[dict[str, Any]], Report]:
    """
    Attack the seller, then the facilitator; return both.
    """
    rows = await attack_seller(
        seller,
        official.rail,
        rich=official.wallet(),
        poor=[official.wallet(PRICE), official.wallet(PRICE)],
        in_parallel=in_parallel,
        now_s=int(datetime.now(UTC).timestamp()),
    )
    for row in rows:
        console.print(json.dumps(row), highlight=False)
    async with Facilitator(official.url, connections=in_parallel) as facilitator:
        ground = Ground(
            facilitator=facilitator,
            rail=official.rail,
            sale=official.sale(),
            purse=ChainPurse(official=official),
            clock=SystemClock(),
            in_parallel=in_parallel,
        )
        return rows, await audit(ground, CHECKS, listener=Lines(console))


def to_table(rows: list[dict[str, Any]], report: Report, chain_version: str) -> dict[str, Any]:
    """
    Return what is shipped.
    """
    return {
        "made_on": datetime.now(UTC).date().isoformat(),
        "made_by": "make x402-baseline",
        "suite_version": report.suite_version,
        "versions": {
            **{name: version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "anvil": chain_version,
        },
        "network": report.network,
        "scheme": report.scheme,
        "in_parallel": report.in_parallel,
        "seller": rows,
        "facilitator": {
            finding.check_id: {
                "verdict": str(finding.outcome.verdict),
                "because": finding.outcome.because,
                "evidence": dict(finding.outcome.evidence),
            }
            for finding in report.findings
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run everything and write the table.
    """
    parser = argparse.ArgumentParser(description="Attack the official x402 packages.")
    parser.add_argument("--in-parallel", type=int, default=50)
    parser.add_argument("--output", type=Path, default=TABLE, help="the table to write")
    arguments = parser.parse_args(argv)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="tokenworks-baseline-") as name:
        folder = Path(name)
        with running_official(folder) as official, running_seller(official, folder) as seller:
            rows, report = asyncio.run(
                attack(official, seller, in_parallel=arguments.in_parallel, console=console)
            )
            table = to_table(rows, report, official.chain.version())
    text = json.dumps(table, indent=2, ensure_ascii=False) + "\n"
    arguments.output.write_text(text, encoding="utf-8")
    console.print(f"written: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
