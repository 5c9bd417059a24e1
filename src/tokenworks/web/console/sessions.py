"""
Who is logged in: sessions in memory, cookies that name them, a brake on guessing.

A cookie is ``<id>.<signature>``: 32 random bytes and their HMAC-SHA256 under a key that is
made when the process starts. So a restart ends every session, and nothing is on disk.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from base64 import urlsafe_b64encode
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from tokenworks.foundation.clock import Clock
from tokenworks.web.console.model import Whoami

COOKIE_NAME: Final = "tokenworks_session"
SESSION_LIFETIME_S: Final = 12 * 3600
SESSIONS_MAX: Final = 1_000
SESSION_ID_BYTES: Final = 32
COOKIE_CHARACTERS_MAX: Final = 200

ATTEMPTS_SPAN_S: Final = 60.0
ATTEMPTS_PER_ADDRESS_MAX: Final = 5
# The hub sees one address, the console's, and refuses it after 20 bad keys a minute.
ATTEMPTS_TOTAL_MAX: Final = 15
ADDRESSES_MAX: Final = 4_096
_IPV6_HOST_BITS: Final = 64


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """
    One login; ends once and never begins again.
    """

    session_id: str = field(repr=False)
    key: str = field(repr=False)
    reader: Whoami
    ends_at_s: float  # monotonic
    is_ended: bool = False
    ended_because: str = ""  # a reason of ``doors.REASONS``, for the login page
    reviews_waiting: int | None = None  # at the last look, for the badge; None: not known


class Sessions:
    """
    The logins of this process.

    Args:
        clock: Ends sessions.
        random_bytes: Where ids and the signing key come from.
    """

    def __init__(
        self, clock: Clock, *, random_bytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._clock = clock
        self._random_bytes = random_bytes
        self._signing_key = random_bytes(SESSION_ID_BYTES)
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def begin(self, key: str, reader: Whoami) -> tuple[Session, str]:
        """
        Log in; returns the session and the cookie that names it.

        The oldest session ends when there are too many. A session never outlives its key.
        """
        while len(self._sessions) >= SESSIONS_MAX:
            self.end(next(iter(self._sessions.values())), "expired")
        session_id = _to_text(self._random_bytes(SESSION_ID_BYTES))
        session = Session(
            session_id=session_id,
            key=key,
            reader=reader,
            ends_at_s=self._clock.monotonic_s() + self._lifetime_s(reader),
        )
        self._sessions[session_id] = session
        return session, f"{session_id}.{self._sign(session_id)}"

    def find(self, cookie: str | None) -> Session | None:
        """
        Return the live session a cookie names, if it does.
        """
        if not cookie or len(cookie) > COOKIE_CHARACTERS_MAX or not cookie.isascii():
            return None
        session_id, _, signature = cookie.partition(".")
        if not hmac.compare_digest(signature, self._sign(session_id)):
            return None
        session = self._sessions.get(session_id)
        return session if session is not None and self.is_live(session) else None

    def is_live(self, session: Session) -> bool:
        """
        Tell whether a session still counts; ends it when its time is over.
        """
        if not session.is_ended and self._clock.monotonic_s() >= session.ends_at_s:
            self.end(session, "expired")
        return not session.is_ended

    def end(self, session: Session, reason: str) -> None:
        """
        Log out; the key is forgotten.
        """
        self._sessions.pop(session.session_id, None)
        if not session.is_ended:
            session.is_ended = True
            session.ended_because = reason
            session.key = ""

    def _lifetime_s(self, reader: Whoami) -> float:
        if reader.expires_at is None:
            return SESSION_LIFETIME_S
        left = datetime.fromisoformat(reader.expires_at) - self._clock.now()
        return min(SESSION_LIFETIME_S, max(0.0, left.total_seconds()))

    def _sign(self, session_id: str) -> str:
        return _to_text(hmac.digest(self._signing_key, session_id.encode(), hashlib.sha256))


class LoginBrake:
    """
    Slow down guessing: so many failed logins a minute, for each address and in all.

    An attempt counts when it begins, so that parallel ones cannot slip by, and is taken
    back when the key was right.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._total: deque[float] = deque()
        self._by_address: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, address: str) -> float:
        """
        Count an attempt; returns 0.0, or the seconds to wait when there were too many.
        """
        now_s = self._clock.monotonic_s()
        own = self._attempts_of(_group_of(address))
        wait_s = max(
            _wait_s(own, ATTEMPTS_PER_ADDRESS_MAX, now_s),
            _wait_s(self._total, ATTEMPTS_TOTAL_MAX, now_s),
        )
        if wait_s == 0.0:
            own.append(now_s)
            self._total.append(now_s)
        return wait_s

    def forgive(self, address: str) -> None:
        """
        Take back the last attempt of an address: it was no guess.
        """
        for attempts in (self._attempts_of(_group_of(address)), self._total):
            if attempts:
                attempts.pop()

    def _attempts_of(self, group: str) -> deque[float]:
        attempts = self._by_address.setdefault(group, deque())
        self._by_address.move_to_end(group)
        while len(self._by_address) > ADDRESSES_MAX:
            self._by_address.popitem(last=False)
        return attempts


def _wait_s(attempts: deque[float], attempts_max: int, now_s: float) -> float:
    while attempts and attempts[0] <= now_s - ATTEMPTS_SPAN_S:
        attempts.popleft()
    if len(attempts) < attempts_max:
        return 0.0
    return attempts[0] + ATTEMPTS_SPAN_S - now_s


def _group_of(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    # Whoever has one IPv6 address usually has 2^64 of them.
    return str(ipaddress.ip_network((parsed, 128 - _IPV6_HOST_BITS), strict=False))


def _to_text(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()
