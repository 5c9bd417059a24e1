"""
What the tools take, the same beside the agent and at the hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

MESSAGES_MAX: Final = 1_000
READ: Final = ToolAnnotations(read_only_hint=True, open_world_hint=False)
SPEND: Final = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False)

Outcome = dict[str, Any]


class ChatMessage(BaseModel):
    """
    One message of a chat.
    """

    role: Literal["system", "user", "assistant"]
    content: str


Model = Annotated[str, Field(description="`model` or `model@tier`", max_length=200)]
Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MESSAGES_MAX)]
MaxTokens = Annotated[int | None, Field(description="Most tokens of the answer", ge=1)]
PaymentId = Annotated[str, Field(description="Id of a payment", max_length=64)]
Payee = Annotated[str, Field(description="Party id of who is paid", max_length=64)]
AmountText = Annotated[str, Field(description='Whole units, e.g. "0.0025"', max_length=40)]
Reference = Annotated[str | None, Field(max_length=200)]


def plain(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    """
    Return messages as they are sent.
    """
    return [message.model_dump() for message in messages]


def options(max_tokens: int | None) -> dict[str, object]:
    """
    Return the further members of a chat request.
    """
    return {} if max_tokens is None else {"max_tokens": max_tokens}
