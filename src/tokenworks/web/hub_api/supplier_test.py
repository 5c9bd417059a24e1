"""
Ask a supplier whether it answers as its protocol promises.

Two requests, like any client's: its models, then a chat of one word. What a supplier says
is shown only in part and as plain text, because it may be anything.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Literal, cast

import msgspec

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import SupplierFaultError
from tokenworks.gateway.ports import Upstream, UpstreamRequest
from tokenworks.metering.errors import UsageError
from tokenworks.metering.openai import from_openai
from tokenworks.supply.model import SupplierAccess
from tokenworks.web.hub_api.shapes.supply import SupplierTestShape, SupplierTestStep

ANSWER_BYTES_MAX: Final = 1024 * 1024
MODELS_MAX: Final = 500
DETAIL_CHARACTERS_MAX: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    step: SupplierTestStep
    document: dict[str, object]


async def probe_supplier(
    upstream: Upstream,
    access: SupplierAccess,
    *,
    model: str | None,
    timeout_s: float,
    clock: Clock,
) -> SupplierTestShape:
    """
    Return what a supplier answered; never raises for what it did wrong.

    Args:
        upstream: The way to suppliers.
        access: The supplier with its key.
        model: Its own name of the model to chat with; the first it lists when ``None``.
        timeout_s: Of each of the two requests, as a whole.
        clock: Measures durations.
    """
    listed = await _ask(
        upstream, access, step="models", path="/models", timeout_s=timeout_s, clock=clock
    )
    models = _model_names(listed.document)
    chosen = model or (models[0] if models else None)
    steps = [listed.step]
    usage: dict[str, int] | None = None
    if chosen is not None:
        body = {
            "model": chosen,
            "messages": [{"role": "user", "content": "Say: ok"}],
            "max_tokens": 8,
        }
        chat = await _ask(
            upstream,
            access,
            step="chat",
            path="/chat/completions",
            body=msgspec.json.encode(body),
            timeout_s=timeout_s,
            clock=clock,
        )
        step, usage = _judge_chat(chat)
        steps.append(step)
    return SupplierTestShape(
        ok=len(steps) == 2 and steps[-1].ok,
        supplier=access.supplier.name,
        models=models,
        model=chosen,
        steps=steps,
        usage=usage,
    )


async def _ask(
    upstream: Upstream,
    access: SupplierAccess,
    *,
    step: Literal["models", "chat"],
    path: str,
    timeout_s: float,
    clock: Clock,
    body: bytes = b"",
) -> _Answer:
    headers = {"accept": "application/json"}
    if access.api_key is not None:
        headers["authorization"] = f"Bearer {access.api_key}"
    if body:
        headers["content-type"] = "application/json"
    request = UpstreamRequest(
        url=access.supplier.base_url + path,
        headers=headers,
        body=body,
        method="POST" if body else "GET",
        allow_private=access.supplier.allow_private,
    )
    started_s = clock.monotonic_s()
    status: int | None = None
    content = b""
    try:
        async with asyncio.timeout(timeout_s):
            answer = await upstream.send(request)
            try:
                status = answer.status
                content = await answer.read(ANSWER_BYTES_MAX)
            finally:
                await answer.close()
        detail = "" if status == 200 else _short(content.decode(errors="replace"))
    except SupplierFaultError as error:
        detail = error.message
    except TimeoutError:
        detail = f"No whole answer within {timeout_s:g} s."
    duration_ms = round((clock.monotonic_s() - started_s) * 1000, 1)
    document = _object(content)
    is_ok = status == 200 and document is not None
    if status == 200 and document is None:
        detail = "The answer is no JSON object."
    return _Answer(
        step=SupplierTestStep(
            step=step, ok=is_ok, status=status, duration_ms=duration_ms, detail=detail
        ),
        document=document or {},
    )


def _judge_chat(answer: _Answer) -> tuple[SupplierTestStep, dict[str, int] | None]:
    step = answer.step
    if not step.ok:
        return step, None
    if not answer.document.get("choices"):
        return step.model_copy(update={"ok": False, "detail": "The answer has no choices."}), None
    reported = answer.document.get("usage")
    if reported is None:
        detail = "Answers, but reports no usage: the hub will count tokens itself."
        return step.model_copy(update={"detail": detail}), None
    try:
        usage = from_openai(reported)
    except UsageError as error:
        return step.model_copy(update={"ok": False, "detail": error.message}), None
    return step, {str(axis): count for axis, count in usage.counts.items()}


def _model_names(document: dict[str, object]) -> list[str]:
    listed = document.get("data")
    if not isinstance(listed, list):
        return []
    entries = cast("list[object]", listed)[:MODELS_MAX]
    ids = [cast("dict[str, object]", row).get("id") for row in entries if isinstance(row, dict)]
    return [_short(name) for name in ids if isinstance(name, str)]


def _object(content: bytes) -> dict[str, object] | None:
    try:
        document: object = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return cast("dict[str, object]", document) if isinstance(document, dict) else None


def _short(text: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable[:DETAIL_CHARACTERS_MAX]
