"""
What the console's pages share: the hub, the sessions, one feed for each session.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from tokenworks.foundation.clock import Clock
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


def _no_feeds() -> WeakKeyDictionary[Session, Feed]:
    return WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """
    The state of a console process.
    """

    hub: Hub
    clock: Clock
    sessions: Sessions
    brake: LoginBrake
    feeds: WeakKeyDictionary[Session, Feed] = field(default_factory=_no_feeds)

    def feed_of(self, session: Session) -> Feed:
        """
        Return the session's feed; all its tabs share it, and it goes with the session.
        """
        feed = self.feeds.get(session)
        if feed is None:
            feed = Feed(self.hub, session, self.clock)
            self.feeds[session] = feed
        return feed
