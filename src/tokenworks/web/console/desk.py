"""
What the console's pages share: the hub, the sessions, one feed for each session.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenworks.foundation.clock import Clock
from tokenworks.web.console.agents.feed import AgentFeed
from tokenworks.web.console.factory.feed import FactoryFeed
from tokenworks.web.console.feed import Feed
from tokenworks.web.console.hub import Hub
from tokenworks.web.console.sessions import LoginBrake, Session, Sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleOptions:
    """
    Where the console listens and which hub it shows.
    """

    hub_url: str
    host: str
    port: int
    trusted_proxies: tuple[str, ...] = ()
    log_level: str = "info"


def _no_feeds() -> dict[Session, Feed]:
    return {}


def _no_agent_feeds() -> dict[Session, AgentFeed]:
    return {}


def _no_factory_feeds() -> dict[Session, FactoryFeed]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """
    The state of a console process.
    """

    hub: Hub
    clock: Clock
    sessions: Sessions
    brake: LoginBrake
    feeds: dict[Session, Feed] = field(default_factory=_no_feeds)
    agent_feeds: dict[Session, AgentFeed] = field(default_factory=_no_agent_feeds)
    factory_feeds: dict[Session, FactoryFeed] = field(default_factory=_no_factory_feeds)

    def feed_of(self, session: Session) -> Feed:
        """
        Return the session's feed; all its tabs share it, and it goes with the session.
        """
        feed = self.feeds.get(session)
        if feed is None:
            self._forget_ended()
            feed = self.feeds[session] = Feed(self.hub, session, self.clock)
        return feed

    def agents_of(self, session: Session) -> AgentFeed:
        """
        Return what the session's pages know of agents, reviews and escrows.
        """
        feed = self.agent_feeds.get(session)
        if feed is None:
            self._forget_ended()
            feed = self.agent_feeds[session] = AgentFeed(self.hub, session, self.clock)
        return feed

    def factory_of(self, session: Session) -> FactoryFeed:
        """
        Return what the session's pages know of the plant at work.
        """
        feed = self.factory_feeds.get(session)
        if feed is None:
            self._forget_ended()
            feed = self.factory_feeds[session] = FactoryFeed(self.hub, session, self.clock)
        return feed

    def _forget_ended(self) -> None:
        # Not dictionaries of weak keys: a feed holds its session, so none would ever go.
        for feeds in (self.feeds, self.agent_feeds, self.factory_feeds):
            for session in [each for each in feeds if each.is_ended]:
                feeds.pop(session, None)
