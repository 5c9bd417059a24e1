"""
Draw what flowed: boxes and links of a Sankey picture; pure.

Invariant: what goes into ``sale`` equals what leaves it. The platform's link is what the sale
leaves it after its suppliers; where suppliers cost more than that, the difference comes in
from the box ``platform_loss``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal, TypeAlias
from uuid import UUID

from tokenworks.foundation.money import quanta_to_text
from tokenworks.gateway.ended_calls import FlowView
from tokenworks.web.hub_api.access import Reader
from tokenworks.web.hub_api.directory import Directory
from tokenworks.web.hub_api.rendering.calls import to_call
from tokenworks.web.hub_api.shapes.flow import FlowLink, FlowNode, FlowShape

NodeKind: TypeAlias = Literal[
    "buyer", "sale", "tax", "reseller", "rights", "platform", "supplier", "power"
]

SALE: Final = "sale"
TAX: Final = "tax"
PLATFORM: Final = "platform"
PLATFORM_LOSS: Final = "platform_loss"

_NAMED: Final[dict[str, NodeKind]] = {
    "reseller": "reseller",
    "rights": "rights",
    "supplier": "supplier",
}


class Picture:
    """
    Boxes and links, each once, in the order they came.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, FlowNode] = {}
        self.quanta: dict[tuple[str, str], int] = {}

    def box(self, node_id: str, label: str, kind: NodeKind) -> str:
        """
        Add a box unless it is there; return its id.
        """
        self.nodes.setdefault(node_id, FlowNode(id=node_id, label=label, kind=kind))
        return node_id

    def link(self, source: str, target: str, quanta: int) -> None:
        """
        Add to what goes from one box to another; nothing is no link.
        """
        if quanta > 0:
            key = (source, target)
            self.quanta[key] = self.quanta.get(key, 0) + quanta


def draw(flow: FlowView, directory: Directory) -> Picture:
    """
    Return the picture of a window; the parties of its legs were loaded.
    """
    picture = Picture()
    if not flow.legs:
        return picture
    picture.box(SALE, "sale", "sale")
    balance = 0  # what went into the sale and has not left it yet
    for leg in flow.legs:
        name = directory.name(leg.party_id)
        if leg.kind == "sale":
            balance += leg.quanta
            picture.link(picture.box(f"buyer:{name}", name, "buyer"), SALE, leg.quanta)
        elif leg.kind == "power":
            # Paid out of the supplier's part, which is recorded without it.
            balance -= leg.quanta
            _link_power(picture, directory, leg.payer_id, name, leg.quanta)
        elif leg.kind == TAX:
            balance -= leg.quanta
            picture.link(SALE, picture.box(TAX, "tax", "tax"), leg.quanta)
        elif leg.kind in _NAMED:
            balance -= leg.quanta
            box = picture.box(f"{leg.kind}:{name}", name, _NAMED[leg.kind])
            picture.link(SALE, box, leg.quanta)
    # The platform's own leg is not looked at: what is left is its, and so the sum is exact.
    if balance > 0:
        picture.link(SALE, picture.box(PLATFORM, "platform", "platform"), balance)
    elif balance < 0:
        loss = picture.box(PLATFORM_LOSS, "platform's loss", "platform")
        picture.link(loss, SALE, -balance)
    return picture


def to_flow(
    flow: FlowView, directory: Directory, reader: Reader, *, seconds: int, as_of: datetime
) -> FlowShape:
    """
    Return the flow of the last seconds; the parties of its legs and calls were loaded.
    """
    picture = draw(flow, directory)

    def text(quanta: int) -> str:
        return quanta_to_text(quanta, scale=flow.asset.scale)

    return FlowShape(
        window_s=seconds,
        as_of=as_of,
        currency=flow.asset.code,
        calls=flow.calls,
        tokens=flow.tokens,
        charge=text(flow.charge_quanta),
        calls_per_s=round(flow.calls / seconds, 3),
        tokens_per_s=round(flow.tokens / seconds, 3),
        # A rate for people: the rest of the division is below a quantum a second.
        charge_per_s=text(flow.charge_quanta // seconds),
        nodes=list(picture.nodes.values()),
        links=[
            FlowLink(source=source, target=target, amount=text(quanta))
            for (source, target), quanta in picture.quanta.items()
        ],
        last_calls=[to_call(row, directory, reader) for row in flow.last_calls],
    )


def _link_power(
    picture: Picture, directory: Directory, payer_id: UUID | None, name: str, quanta: int
) -> None:
    target = picture.box(f"power:{name}", name, "power")
    if payer_id is None:
        picture.link(SALE, target, quanta)
        return
    supplier = directory.name(payer_id)
    source = picture.box(f"supplier:{supplier}", supplier, "supplier")
    picture.link(SALE, source, quanta)
    picture.link(source, target, quanta)
