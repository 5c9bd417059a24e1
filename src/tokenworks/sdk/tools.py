"""
Which request a paid tool of a hub's ``/mcp`` stands for: that is what a payment for it signs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tokenworks.sdk.asking import CHAT_PATH, SETTLE_PATH, chat_body
from tokenworks.sdk.errors import BindingMismatchError
from tokenworks.sdk.model import Binding, Requirements, to_atomic
from tokenworks.sdk.signing import body_sha256

MCP_PATH: Final = "/mcp"

Arguments = Mapping[str, Any]


def binding_of_tool(url: str, tool: str, arguments: Arguments) -> Binding | None:
    """
    Return the request that a tool call stands for; ``None`` when the tool costs nothing.

    Args:
        url: The hub's ``/mcp``.
        tool: Its name.
        arguments: As the tool is called with.
    """
    base = url.rstrip("/").removesuffix(MCP_PATH)
    if tool == "call_model":
        messages = [
            {"role": message["role"], "content": message["content"]}
            for message in arguments["messages"]
        ]
        most = arguments.get("max_tokens")
        options = {} if most is None else {"max_tokens": most}
        body = chat_body(str(arguments["model"]), messages, options)
        return Binding(method="POST", url=base + CHAT_PATH, body_sha256=body_sha256(body))
    if tool == "pay":
        reference = str(arguments.get("reference") or "")
        return Binding(
            method="POST", url=base + SETTLE_PATH, body_sha256=body_sha256(reference.encode())
        )
    return None


def check_asked(tool: str, arguments: Arguments, asked: Requirements) -> None:
    """
    Refuse an offer that pays somebody else, or another amount, than ``pay`` was called with.

    Raises:
        BindingMismatchError: Nothing is to be signed for it.
    """
    if tool != "pay":
        return
    wanted = (str(arguments["payee"]), to_atomic(arguments["amount"]))
    if (asked.pay_to, asked.amount) != wanted:
        message = (
            f"The tool asks to pay {asked.price} to {asked.pay_to}, but it was called to pay"
            f" {arguments['amount']} to {arguments['payee']}; nothing was signed."
        )
        raise BindingMismatchError(message)
