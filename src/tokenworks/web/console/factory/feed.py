"""
What a session's factory page knows of the plant at work, each asked for at most so often.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tokenworks.foundation.clock import Clock
from tokenworks.web.console.factory.live_model import Live, ModelEnergies, ValueChain
from tokenworks.web.console.hub import Hub
from tokenworks.web.console.polling import Polled

if TYPE_CHECKING:
    from tokenworks.web.console.sessions import Session

LIVE_FRESH_FOR_S: Final = 1.8
HOURS_FRESH_FOR_S: Final = 4.5
MINUTES: Final = 15
HOURS: Final = 24


class FactoryFeed:
    """
    One session's view of the plant.

    Args:
        hub: Asked with the session's key.
        session: Whose.
        clock: Says what is old.
    """

    def __init__(self, hub: Hub, session: Session, clock: Clock) -> None:
        self._hub = hub
        self._key = session.key
        self.live = Polled(self._read_live, clock, fresh_for_s=LIVE_FRESH_FOR_S)
        self.models = Polled(self._read_models, clock, fresh_for_s=HOURS_FRESH_FOR_S)
        self.chain = Polled(self._read_chain, clock, fresh_for_s=HOURS_FRESH_FOR_S)

    async def _read_live(self) -> Live:
        return await self._hub.get(Live, self._key, "/hub/v1/factory/live", minutes=MINUTES)

    async def _read_models(self) -> ModelEnergies:
        path = "/hub/v1/factory/models"
        return await self._hub.get(ModelEnergies, self._key, path, hours=HOURS)

    async def _read_chain(self) -> ValueChain:
        return await self._hub.get(ValueChain, self._key, "/hub/v1/factory/chain", hours=HOURS)
