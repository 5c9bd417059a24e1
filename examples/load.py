"""
A little load: many calls at once, and what they cost. For numbers worth quoting: `make bench`.

    python examples/load.py --calls 40 --at-once 8 [DATA/demo.json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai

DEMO_FILE = ".tokenworks/demo.json"


async def main() -> int:
    """
    Make the calls, print how they went; return 1 when one of them failed.
    """
    parser = argparse.ArgumentParser(description="Send some calls to the demo hub.")
    parser.add_argument("demo_file", nargs="?", type=Path, default=Path(DEMO_FILE))
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=16)
    arguments = parser.parse_args()
    demo: dict[str, str] = json.loads(arguments.demo_file.read_text(encoding="utf-8"))
    question: Any = [{"role": "user", "content": "Count to ten."}]
    turn = asyncio.Semaphore(arguments.at_once)
    charges: list[Decimal] = []
    seconds: list[float] = []
    failures: Counter[str] = Counter()

    async with openai.AsyncOpenAI(base_url=demo["base_url"], api_key=demo["buyer_key"]) as client:

        async def call() -> None:
            async with turn:
                started = time.monotonic()
                try:
                    raw = await client.chat.completions.with_raw_response.create(
                        model=demo["model"], messages=question, max_tokens=arguments.max_tokens
                    )
                except openai.APIError as error:
                    failures[type(error).__name__] += 1
                    return
                seconds.append(time.monotonic() - started)
                charges.append(Decimal(raw.headers["x-tokenworks-charge"]))

        started = time.monotonic()
        await asyncio.gather(*(call() for _ in range(arguments.calls)))
        total_s = time.monotonic() - started

    print(f"{len(charges)} calls in {total_s:.1f} s, {len(charges) / total_s:.1f} a second")
    if seconds:
        print(f"median {sorted(seconds)[len(seconds) // 2] * 1000:.0f} ms")
    print(f"charged {sum(charges, Decimal(0))} USD")
    for name, count in failures.items():
        print(f"{count} failed: {name}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
