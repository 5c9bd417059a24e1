"""
What flows through the value chain, as it leaves the hub API.
"""

from __future__ import annotations

from typing import Literal

from tokenworks.web.hub_api.shapes.calls import CallShape
from tokenworks.web.hub_api.shapes.parts import Decimal, Moment, Shape


class FlowNode(Shape):
    """
    One box of the flow picture.
    """

    id: str
    label: str
    kind: Literal["buyer", "sale", "tax", "reseller", "rights", "platform", "supplier", "power"]


class FlowLink(Shape):
    """
    Money that went from one box to another, more than zero.
    """

    source: str
    target: str
    amount: Decimal


class FlowShape(Shape):
    """
    What flowed through the value chain in the last seconds.
    """

    window_s: int
    as_of: Moment
    currency: str
    calls: int
    tokens: int
    charge: Decimal
    calls_per_s: float
    tokens_per_s: float
    charge_per_s: Decimal
    nodes: list[FlowNode]
    links: list[FlowLink]
    last_calls: list[CallShape]
