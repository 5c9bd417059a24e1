"""
Put every HTTP door of a process on its services, behind one switch.
"""

from __future__ import annotations

from typing import Any

from tokenworks.bootstrap.hub import Hub
from tokenworks.web.hub_api.app import create_hub_api
from tokenworks.web.hub_api.services import make_services
from tokenworks.web.mcp.door import McpDoor
from tokenworks.web.openai_api.app import OpenAiApi
from tokenworks.web.switch import Switch
from tokenworks.web.x402_api.app import X402Api
from tokenworks.web.x402_api.selling import SellingDoor


def make_app(hub: Hub) -> tuple[Switch, OpenAiApi, SellingDoor, McpDoor]:
    """
    Return all HTTP doors of a process behind one path switch, and those that are to be closed.
    """
    openai_api = OpenAiApi(
        gateway=hub.gateway,
        streamer=hub.streamer,
        identity=hub.identity,
        metrics=hub.metrics,
    )
    hub_api = create_hub_api(
        make_services(
            pool=hub.pool,
            clock=hub.clock,
            ids=hub.ids,
            identity=hub.identity,
            supply=hub.supply,
            prices=hub.prices,
            ledger=hub.ledger,
            corrections=hub.corrections,
            closings=hub.closings,
            refunds=hub.refunds,
            reconciliation=hub.reconciliation,
            calls=hub.calls,
            receipts=hub.receipts,
            upstream=hub.upstream,
            agents=hub.agents,
            factory=hub.factory,
            energy_proofs=hub.energy_proofs,
        )
    )
    selling = SellingDoor(
        gateway=hub.gateway,
        streamer=hub.streamer,
        payments=hub.agents.payments,
        calls=hub.calls,
        metrics=hub.metrics,
        clock=hub.clock,
    )

    async def doors(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - as ASGI has it
        await switch(scope, receive, send)

    mcp = McpDoor(doors, network=hub.agents.payments.network, clock=hub.clock)
    switch = Switch(
        selling=selling,
        mcp=mcp,
        openai_api=openai_api,
        hub_api=hub_api,
        x402_api=X402Api(
            payments=hub.agents.payments,
            identity=hub.identity,
            clock=hub.clock,
            metrics=hub.metrics,
        ),
        metrics=hub.metrics,
        is_healthy=lambda: hub.writer.is_connected,
        jwks=hub.keys.jwks,
    )
    return switch, openai_api, selling, mcp
