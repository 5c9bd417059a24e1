"""
A client process of the oversell test: many calls at once with the official client.

Prints one JSON line for each call as it ends: its status, id, charge and error code.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import openai

ANSWER_TIMEOUT_S = 240.0


def main() -> None:
    """
    Send all calls together, each on a connection of its own.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--body", required=True)
    parser.add_argument("--calls", type=int, required=True)
    arguments = parser.parse_args()
    body = json.loads(arguments.body)
    client = openai.OpenAI(
        base_url=arguments.base_url,
        api_key=os.environ["CALLING_KEY"],
        max_retries=0,
        timeout=ANSWER_TIMEOUT_S,
    )

    def call(_: int) -> None:
        try:
            raw = client.chat.completions.with_raw_response.create(**body)
            raw.parse()
            line = {
                "status": 200,
                "call_id": raw.headers["x-tokenworks-call-id"],
                "charge": raw.headers["x-tokenworks-charge"],
            }
        except openai.APIStatusError as error:
            line = {"status": error.status_code, "code": error.code}
        except openai.APIConnectionError as error:
            line = {"status": 0, "code": type(error).__name__}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    with client, ThreadPoolExecutor(arguments.calls) as pool:
        list(pool.map(call, range(arguments.calls)))


if __name__ == "__main__":
    main()
