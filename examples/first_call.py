"""
A first paid call with the official client: plain, streaming, and the receipt proved offline.

    tokenworks up --demo                # in another terminal, or `make run`
    python examples/first_call.py       # or: first_call.py DATA/demo.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import openai

DEMO_FILE = ".tokenworks/demo.json"


def main() -> int:
    """
    Buy two answers, then check what was paid for the first.
    """
    demo_file = Path(sys.argv[1] if len(sys.argv) > 1 else DEMO_FILE)
    demo: dict[str, str] = json.loads(demo_file.read_text(encoding="utf-8"))
    client = openai.OpenAI(base_url=demo["base_url"], api_key=demo["buyer_key"])
    question: Any = [{"role": "user", "content": "What is water?"}]

    # A plain answer. Its headers say what it cost and what is left.
    raw = client.chat.completions.with_raw_response.create(
        model=demo["model"], messages=question, max_tokens=40
    )
    print(raw.parse().choices[0].message.content)
    call_id = raw.headers["x-tokenworks-call-id"]
    charge = raw.headers["x-tokenworks-charge"]
    currency = raw.headers["x-tokenworks-currency"]
    print(f"-- paid {charge} {currency}, {raw.headers['x-tokenworks-balance']} left\n")

    # A stream, as with any other provider.
    stream = client.chat.completions.create(
        model=demo["model"], messages=question, max_tokens=40, stream=True
    )
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print("\n")

    # The receipt of the first call, saved, and checked without the hub.
    hub = demo["base_url"].removesuffix("/v1")
    request = urllib.request.Request(
        f"{hub}/hub/v1/receipts/{call_id}",
        headers={"Authorization": f"Bearer {demo['buyer_key']}"},
    )
    with (
        urllib.request.urlopen(request, timeout=30) as answer,
        tempfile.TemporaryDirectory() as tmp,
    ):
        receipt_file = Path(tmp) / "receipt.json"
        receipt_file.write_bytes(answer.read())
        receipt = json.loads(receipt_file.read_bytes())["receipt"]
        print(f"-- the receipt says {receipt['charge']} {receipt['currency']} for {call_id}")
        verify = [sys.executable, "-m", "tokenworks.cli.main", "receipt", "verify"]
        done = subprocess.run(
            [*verify, str(receipt_file), "--keys", str(demo_file)],
            capture_output=True,
            check=False,
            text=True,
        )
    print("-- the receipt is good" if done.returncode == 0 else done.stdout + done.stderr)
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
