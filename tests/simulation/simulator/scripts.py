"""
What simulated suppliers say, and what a call should come to when they say it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any

from tokenworks.foundation.errors import SupplierFaultError
from tokenworks.gateway.ports import (
    BadAnswerError,
    ConnectFaultError,
    CutAnswerError,
    RedirectRefusedError,
    UpstreamTimeoutError,
)
from tokenworks.testing.simulated_upstream import Act, Break, Head, Pause, Piece, Script

WORDS = ("water", "meter", "ledger", "token", "watt", "river", "agent")
LONG_WORDS = 100
FAULTS: Sequence[type[SupplierFaultError]] = (
    ConnectFaultError,
    UpstreamTimeoutError,
    CutAnswerError,
    RedirectRefusedError,
    BadAnswerError,
)


class Manner(Enum):
    """
    How a supplier behaves in one attempt.
    """

    GOOD = "reports what it used"
    OVER_CAP = "reports more output than it was allowed"
    NO_USAGE = "reports nothing"
    ABSURD = "reports more input than there are bytes"
    NEGATIVE = "reports less than nothing"
    UNKNOWN_AXIS = "reports a part that has no price"
    EMPTY = "answers without a word"
    CUT = "breaks off"
    FAULT = "does not answer at all"
    ERROR_STATUS = "answers 500"
    RATE_LIMITED = "answers 429"
    REFUSED = "answers 400: the request is at fault"
    NO_JSON = "answers in riddles"
    ERROR_BODY = "answers 200 with an error in it"

    @property
    def is_sold(self) -> bool:
        """
        Return whether the answer is whole, so that no other supplier is asked.
        """
        return self in SOLD


SOLD = frozenset(
    {
        Manner.GOOD,
        Manner.OVER_CAP,
        Manner.NO_USAGE,
        Manner.ABSURD,
        Manner.NEGATIVE,
        Manner.UNKNOWN_AXIS,
        Manner.EMPTY,
    }
)
ESTIMATED = frozenset({Manner.NO_USAGE, Manner.ABSURD, Manner.NEGATIVE})
_WEIGHTS = {
    Manner.GOOD: 30,
    Manner.OVER_CAP: 5,
    Manner.NO_USAGE: 5,
    Manner.ABSURD: 2,
    Manner.NEGATIVE: 2,
    Manner.EMPTY: 4,
    Manner.CUT: 6,
    Manner.FAULT: 8,
    Manner.ERROR_STATUS: 4,
    Manner.RATE_LIMITED: 3,
    Manner.REFUSED: 3,
    Manner.NO_JSON: 2,
    Manner.ERROR_BODY: 3,
}


@dataclass(frozen=True, kw_only=True)
class Performance:
    """
    One attempt as it was drawn: how, with which words and numbers, and how slowly.
    """

    manner: Manner
    words: int
    input_share: float
    output_share: float
    cached_share: float
    reasoning_share: float
    pauses: frozenset[str]
    fault: int
    excess: int

    @classmethod
    def draw(cls, random: Random) -> Performance:
        """
        Draw one.
        """
        manners = list(_WEIGHTS)
        words = random.choice((1, 3, 12, 40, 150, 150))
        pauses = frozenset(p for p in ("head", "body", "end") if random.random() < 0.3)
        return cls(
            manner=random.choices(manners, [_WEIGHTS[m] for m in manners])[0],
            words=words,
            input_share=random.random(),
            output_share=random.random(),
            cached_share=random.choice((0.0, random.random())),
            reasoning_share=random.choice((0.0, random.random())),
            # A long answer outlives what was granted at first: something may happen meanwhile.
            pauses=pauses | {"body"} if words > LONG_WORDS else pauses,
            fault=random.randrange(len(FAULTS)),
            excess=random.choice((1, 100, 4_000)),
        )


@dataclass(frozen=True, kw_only=True)
class Told:
    """
    What a supplier said it used, on disjoint axes; ``None``: nothing that counts.
    """

    counts: dict[str, int] | None


def perform(
    performance: Performance, *, input_bytes: int, output_cap: int, is_stream: bool
) -> tuple[Script, Told]:
    """
    Turn a performance into acts and what they say about usage.

    Args:
        performance: What was drawn.
        input_bytes: Of the request; no believable input is above it.
        output_cap: Of all choices together.
        is_stream: Whether events were asked for.
    """
    usage, told = _usage(performance, input_bytes=input_bytes, output_cap=output_cap)
    texts = [WORDS[n % len(WORDS)] + " " for n in range(performance.words)]
    if performance.manner is Manner.EMPTY:
        texts = []
    acts: list[Act] = [Pause()] if "head" in performance.pauses else []
    match performance.manner:
        case Manner.FAULT:
            return [*acts, Break(FAULTS[performance.fault]("SIMULATED fault."))], told
        case Manner.ERROR_STATUS | Manner.RATE_LIMITED | Manner.REFUSED:
            return [*acts, *_error(performance.manner)], told
        case Manner.NO_JSON:
            return [*acts, Head(), Piece(b"what has no beginning?\n\n")], told
        case Manner.ERROR_BODY:
            body = _json({"error": {"message": "SIMULATED"}})
            return [*acts, Head(), Piece(b"data: " + body + b"\n\n" if is_stream else body)], told
        case _:
            pass
    write = _stream if is_stream else _plain
    return [*acts, *write(performance, texts, usage)], told


def _error(manner: Manner) -> Script:
    status = {Manner.ERROR_STATUS: 500, Manner.RATE_LIMITED: 429, Manner.REFUSED: 400}[manner]
    return [
        Head(status=status, headers={"retry-after": "7"} if status == 429 else {}),
        Piece(_json({"error": {"message": "SIMULATED refusal", "param": "messages"}})),
    ]


def _usage(
    performance: Performance, *, input_bytes: int, output_cap: int
) -> tuple[dict[str, Any] | None, Told]:
    prompt = int(performance.input_share * input_bytes)
    output = max(1, int(performance.output_share * output_cap))
    cached = int(performance.cached_share * prompt)
    reasoning = int(performance.reasoning_share * output)
    match performance.manner:
        case Manner.NO_USAGE | Manner.FAULT:
            return None, Told(counts=None)
        case Manner.ABSURD:
            prompt = 10 * input_bytes + 100_000
        case Manner.NEGATIVE:
            return {"prompt_tokens": -1, "completion_tokens": 5}, Told(counts=None)
        case Manner.OVER_CAP:
            output = output_cap + performance.excess
            reasoning = 0
        case Manner.EMPTY:
            output = reasoning = 0
        case _:
            pass
    reported: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }
    if cached:
        reported["prompt_tokens_details"] = {"cached_tokens": cached}
    if reasoning:
        reported["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    if performance.manner is Manner.ABSURD:
        return reported, Told(counts=None)
    counts = {
        "input": prompt - cached,
        "cache_read": cached,
        "output": output - reasoning,
        "reasoning": reasoning,
    }
    return reported, Told(counts={axis: count for axis, count in counts.items() if count})


def _plain(performance: Performance, texts: list[str], usage: dict[str, Any] | None) -> Script:
    answer: dict[str, Any] = {
        "id": "chatcmpl-simulated",
        "object": "chat.completion",
        "created": 1,
        "model": "vendor/model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(texts)},
                "finish_reason": "stop",
            }
        ],
    }
    if usage is not None:
        answer["usage"] = usage
    body = _json(answer)
    acts: list[Act] = [Head(), Piece(body[:20])]
    if "body" in performance.pauses:
        acts.append(Pause())
    if performance.manner is Manner.CUT:
        return [*acts, Break(CutAnswerError("SIMULATED cut."))]
    return [*acts, Piece(body[20:])]


def _stream(performance: Performance, texts: list[str], usage: dict[str, Any] | None) -> Script:
    acts: list[Act] = [Head(), Piece(b": hello\n\n")]
    middle = len(texts) // 2
    for number, text in enumerate(texts):
        acts.append(Piece(_chunk({"content": text}, None)))
        if number == middle:
            if "body" in performance.pauses:
                acts.append(Pause())
            if performance.manner is Manner.CUT:
                return [*acts, Break(CutAnswerError("SIMULATED cut."))]
    acts.append(Piece(_chunk({}, "stop")))
    if "end" in performance.pauses:
        acts.append(Pause())
    if usage is not None:
        acts.append(Piece(_chunk(None, None, usage)))
    acts.append(Piece(b"data: [DONE]\n\n"))
    return acts


def _chunk(
    delta: dict[str, Any] | None, finish: str | None, usage: dict[str, Any] | None = None
) -> bytes:
    chunk: dict[str, Any] = {
        "id": "chatcmpl-simulated",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "vendor/model",
        "choices": [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    if usage is not None:
        chunk["usage"] = usage
    return b"data: " + _json(chunk) + b"\n\n"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
