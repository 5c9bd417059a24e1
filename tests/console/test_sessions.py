"""
Sessions, the brake on guessing, and the feed that polls for them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count

import httpx
import pytest

from tests.console.fake_hub import ADMIN_KEY, BUYER_KEY, FakeHub
from tests.console.fake_hub_door import make_app
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.errors import UnauthenticatedError
from tokenworks.web.console.desk import Desk
from tokenworks.web.console.feed import GAP_S_MAX, Feed
from tokenworks.web.console.hub import Hub
from tokenworks.web.console.model import PartyRef, Whoami
from tokenworks.web.console.sessions import (
    ATTEMPTS_PER_ADDRESS_MAX,
    ATTEMPTS_SPAN_S,
    ATTEMPTS_TOTAL_MAX,
    SESSION_LIFETIME_S,
    SESSIONS_MAX,
    LoginBrake,
    Session,
    Sessions,
)


@pytest.fixture
def clock() -> FakeClock:
    """
    A clock that stands at the moment the test began.
    """
    return FakeClock(datetime.now(UTC))


@pytest.fixture
def sessions(clock: FakeClock) -> Sessions:
    """
    Sessions whose ids are counted, not random.
    """
    numbers = count(1)
    return Sessions(clock, random_bytes=lambda size: next(numbers).to_bytes(size, "big"))


def reader(role: str = "admin", *, expires_at: str | None = None) -> Whoami:
    """
    Return whose key it is.
    """
    party = PartyRef(party_id="1", name="acme")
    return Whoami(role=role, prefix="tw_x", party=party, organisation=party, expires_at=expires_at)


def test_cookie_finds_its_session_until_it_ends(sessions: Sessions, clock: FakeClock) -> None:
    """
    A session lives twelve hours, ends once, and forgets its key.
    """
    session, cookie = sessions.begin("tw_key", reader())

    assert sessions.find(cookie) is session
    clock.advance(timedelta(seconds=SESSION_LIFETIME_S))
    assert sessions.find(cookie) is None
    assert (session.is_ended, session.ended_because, session.key) == (True, "expired", "")


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: "B" + c[1:], lambda c: f"{c}.x"])
def test_altered_cookie_finds_nothing(sessions: Sessions, change: Callable[[str], str]) -> None:
    """
    A cookie is signed: guessing an id is not enough.
    """
    _, cookie = sessions.begin("tw_key", reader())

    assert sessions.find(change(cookie)) is None
    assert sessions.find("") is sessions.find("é.é") is sessions.find("a" * 10_000) is None


def test_session_ends_with_its_key(sessions: Sessions, clock: FakeClock) -> None:
    """
    A key that expires in a minute gives a session of a minute.
    """
    soon = (clock.now() + timedelta(minutes=1)).isoformat()
    _, cookie = sessions.begin("tw_key", reader(expires_at=soon))

    clock.advance(timedelta(seconds=61))

    assert sessions.find(cookie) is None


def test_too_many_sessions_end_the_oldest(sessions: Sessions) -> None:
    """
    Memory has a limit; the newest login always works.
    """
    cookies = [sessions.begin("tw_key", reader())[1] for _ in range(SESSIONS_MAX + 1)]

    assert sessions.find(cookies[0]) is None
    assert sessions.find(cookies[1]) is not None
    assert sessions.find(cookies[-1]) is not None


def test_representations_hide_the_key(sessions: Sessions) -> None:
    """
    A session that ends up in a log says nothing secret.
    """
    session, _ = sessions.begin("tw_very_secret", reader())

    assert "tw_very_secret" not in repr(session)
    assert session.session_id not in repr(session)


def test_brake_counts_by_address_and_in_all(clock: FakeClock) -> None:
    """
    Failures are limited for each address and together, below what the hub bears from one.
    """
    brake = LoginBrake(clock)
    own = [brake.take("192.0.2.1") for _ in range(ATTEMPTS_PER_ADDRESS_MAX + 1)]
    others = [brake.take(f"192.0.2.{index}") for index in range(2, 40)]

    assert own == [0.0] * ATTEMPTS_PER_ADDRESS_MAX + [ATTEMPTS_SPAN_S]
    assert others.count(0.0) == ATTEMPTS_TOTAL_MAX - ATTEMPTS_PER_ADDRESS_MAX
    clock.advance(timedelta(seconds=ATTEMPTS_SPAN_S))
    assert brake.take("192.0.2.1") == 0.0


def test_brake_forgives_and_groups_ipv6(clock: FakeClock) -> None:
    """
    A right key is no guess; all addresses of an IPv6 network are one.
    """
    brake = LoginBrake(clock)
    for _ in range(50):
        assert brake.take("192.0.2.1") == 0.0
        brake.forgive("192.0.2.1")
    waits = [brake.take(f"2001:db8::{index}") for index in range(ATTEMPTS_PER_ADDRESS_MAX + 1)]

    assert waits[-1] > 0


def feed_of(fake: FakeHub, clock: FakeClock, sessions: Sessions, key: str) -> tuple[Feed, Session]:
    """
    Return a feed on the fake hub, without a network.
    """
    hub = Hub("http://hub", transport=httpx.ASGITransport(make_app(fake)))
    role = "admin" if key == ADMIN_KEY else "buyer"
    session, _ = sessions.begin(key, reader(role))
    return Feed(hub, session, clock), session


async def test_feed_asks_at_most_once_a_second(clock: FakeClock, sessions: Sessions) -> None:
    """
    However many tabs ask, the hub is asked once; the books are read more rarely.
    """
    fake = FakeHub()
    fake.sell(ago_s=1)
    feed, _ = feed_of(fake, clock, sessions, ADMIN_KEY)
    snapshot = await feed.read(300)
    for _ in range(10):
        await feed.read(300)
    first = len(fake.requests)
    clock.advance(timedelta(seconds=1))
    await feed.read(300)

    assert snapshot.is_loaded
    assert len(snapshot.last_calls) == 1
    assert first == 4  # the past, the rate, the window, the books
    assert len(fake.requests) == first + 1


async def test_feed_keeps_the_last_answer(clock: FakeClock, sessions: Sessions) -> None:
    """
    An absent hub is a notice beside the last figures, and is not asked again at once.
    """
    fake = FakeHub()
    fake.sell(ago_s=1)
    feed, _ = feed_of(fake, clock, sessions, BUYER_KEY)
    before = await feed.read(300)
    fake.is_unready = True
    clock.advance(timedelta(seconds=1))
    away = await feed.read(300)
    asked = len(fake.requests)
    clock.advance(timedelta(seconds=1))
    await feed.read(300)
    fake.is_unready = False
    clock.advance(timedelta(seconds=2))
    back = await feed.read(300)

    assert before.notice is None
    assert away.notice == "The database does not answer."
    assert away.last_calls == before.last_calls
    assert asked == len(fake.requests) - 1  # none while it waited, one after
    assert back.notice is None


async def test_feed_tells_when_the_key_is_refused(clock: FakeClock, sessions: Sessions) -> None:
    """
    A refused key is no notice: the page must leave.
    """
    fake = FakeHub()
    feed, _ = feed_of(fake, clock, sessions, ADMIN_KEY)
    fake.revoked.add(ADMIN_KEY)

    with pytest.raises(UnauthenticatedError):
        await feed.read(60)


async def test_feed_fills_the_gap_after_nobody_looked(clock: FakeClock, sessions: Sessions) -> None:
    """
    The curve has no hole where no page was open.
    """
    fake = FakeHub()
    feed, _ = feed_of(fake, clock, sessions, ADMIN_KEY)
    await feed.read(300)
    clock.advance(timedelta(seconds=GAP_S_MAX + 60))
    snapshot = await feed.read(300)
    steps = [
        after.at_s - before.at_s
        for before, after in zip(snapshot.history, snapshot.history[1:], strict=False)
    ]

    assert max(steps) <= 2.001


async def test_feeds_go_with_their_session(sessions: Sessions, clock: FakeClock) -> None:
    """
    Tabs of a session share what was read; nothing of a session that ended is kept.
    """
    brake = LoginBrake(clock)
    desk = Desk(hub=Hub("http://hub"), clock=clock, sessions=sessions, brake=brake)
    first, _ = sessions.begin(ADMIN_KEY, reader())
    assert desk.feed_of(first) is desk.feed_of(first)
    assert desk.agents_of(first) is desk.agents_of(first)

    sessions.end(first, "logged_out")
    second, _ = sessions.begin(ADMIN_KEY, reader())
    desk.feed_of(second)

    assert list(desk.feeds) == [second]
    assert list(desk.agent_feeds) == []
    await desk.hub.close()
