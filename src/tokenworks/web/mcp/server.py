"""
The tools, as the official SDK serves them.

A refusal is a tool's error with a sentence and a code the model can act on; it never carries
more than the hub said.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Final, ParamSpec

import httpx
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from tokenworks import __version__
from tokenworks.sdk import HubError, PaymentRefusedError, SdkError
from tokenworks.web.mcp.till import NothingUndecidedError, Till, UndecidedError
from tokenworks.web.mcp.words import (
    READ,
    SPEND,
    AmountText,
    MaxTokens,
    Messages,
    Model,
    Outcome,
    Payee,
    PaymentId,
    Reference,
    plain,
)

INSTRUCTIONS: Final = (
    "Pay for model calls and for other parties' work within your mandate. Ask `quote` before you"
    " buy and `balance` when something is refused. Amounts are decimal texts of whole units. A"
    " payment that waits for a person is not lost: call `finish_payment` with its id later, and do"
    " not pay again."
)

Parameters = ParamSpec("Parameters")


def make_server(till: Till) -> MCPServer[Any]:
    """
    Return a server whose tools spend through ``till``.
    """
    server: MCPServer[Any] = MCPServer(
        "tokenworks", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING"
    )

    @server.tool(annotations=READ)
    @_told
    async def quote(model: Model, messages: Messages, max_tokens: MaxTokens = None) -> Outcome:
        """Say what a model call would cost at most; nothing is paid."""
        return await till.quote_model(model, plain(messages), max_tokens)

    @server.tool(annotations=SPEND)
    @_told
    async def call_model(model: Model, messages: Messages, max_tokens: MaxTokens = None) -> Outcome:
        """Buy a chat completion; only the tokens it used are charged."""
        return await till.call_model(model, plain(messages), max_tokens)

    @server.tool(annotations=SPEND)
    @_told
    async def pay(payee: Payee, amount: AmountText, reference: Reference = None) -> Outcome:
        """Pay a party of the hub."""
        return await till.pay(payee, amount, reference)

    @server.tool(annotations=SPEND)
    @_told
    async def finish_payment(payment_id: PaymentId) -> Outcome:
        """
        Go on with a payment that waited for a person or whose answer went missing; or say how
        another one stands.
        """
        return await till.finish(payment_id)

    @server.tool(annotations=READ)
    @_told
    async def balance() -> Outcome:
        """Say what is left of each of this agent's limits, and which payments are undecided."""
        return {**await till.hub.balance(), "undecided_payments": till.undecided}

    @server.tool(annotations=READ)
    @_told
    async def mandate() -> Outcome:
        """Show what this agent may spend: its mandates with their terms."""
        return {"mandates": await till.hub.mandates()}

    @server.tool(annotations=READ)
    @_told
    async def receipt(payment_id: PaymentId) -> Outcome:
        """Show the signed receipt of a payment."""
        return dict(await till.hub.receipt(payment_id))

    # The decorator has registered them; the names are not used again.
    del quote, call_model, pay, finish_payment, balance, mandate, receipt
    return server


def _told(
    tool: Callable[Parameters, Awaitable[Outcome]],
) -> Callable[Parameters, Awaitable[Outcome]]:
    """
    Turn what can be expected to go wrong into an error that a model can read.
    """

    @wraps(tool)
    async def answer(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Outcome:
        try:
            return await tool(*args, **kwargs)
        except UndecidedError as error:
            code = "payment_in_review" if error.is_in_review else "payment_uncertain"
            message = (
                f"{code}: {error} Do not pay again; call finish_payment with payment_id"
                f" {error.payment_id} later."
            )
            raise ToolError(message) from error
        except NothingUndecidedError as error:
            message = f"payment_unknown: {error}"
            raise ToolError(message) from error
        except (HubError, PaymentRefusedError) as error:
            message = f"{error.reason}: {error}"
            raise ToolError(message) from error
        except SdkError as error:
            message = f"{error.code}: {error}"
            raise ToolError(message) from error
        except httpx.TransportError as error:
            message = f"hub_unreachable: The hub does not answer ({type(error).__name__})."
            raise ToolError(message) from error
        except ValueError as error:
            message = f"invalid_amount: {error}"
            raise ToolError(message) from error

    return answer
