"""
Let nobody in without a session: ASGI, around everything the console serves.

Also here, because they are about every answer: the headers that keep pages to themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenworks.web.console.sessions import COOKIE_NAME, Session, Sessions

SESSION_IN_SCOPE: Final = "tokenworks.session"
SOCKET_PATH: Final = "/_nicegui_ws/"
NO_CLIENT: Final = "no-session"

_ID: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
LIVE_PAGE: Final = re.compile(rf"/(?:agents|inbox|escrows)?|/(?:agents|inbox|escrows)/{_ID}")
"""The pages NiceGUI keeps up to date."""

SCRIPTED_PAGE: Final = "/factory"
"""A plain page with a script of our own."""

_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
_COMMON_POLICY: Final = (
    "default-src 'none'; img-src 'self' data:; font-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; "
)
PLAIN_POLICY: Final = _COMMON_POLICY + "style-src 'self'"
SCRIPTED_POLICY: Final = PLAIN_POLICY + "; script-src 'self'; connect-src 'self'"
# Live pages are NiceGUI's: Vue compiles their templates in the browser.
LIVE_POLICY: Final = _COMMON_POLICY + (
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "connect-src 'self'"
)


class Guard:
    """
    Ask for a session before anything but ``open_paths`` and what begins with ``open_prefixes``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        sessions: Sessions,
        open_paths: Iterable[str],
        open_prefixes: tuple[str, ...],
    ) -> None:
        self._app = app
        self._sessions = sessions
        self._open_paths = frozenset(open_paths)
        self._open_prefixes = open_prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer one connection.
        """
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        path: str = scope["path"]
        if scope["type"] == "http":
            send = _with_headers(send, policy=_policy_of(path))
        if not _is_from_here(scope, headers):
            await _refuse(scope, receive, send, 403, "This request came from another site.")
            return
        session = self._sessions.find(cookie_of(headers))
        scope[SESSION_IN_SCOPE] = session
        is_open = path in self._open_paths or path.startswith(self._open_prefixes)
        if session is not None or is_open:
            await self._app(scope, receive, send)
        elif path.startswith(SOCKET_PATH):
            # A page whose session is gone: its socket is refused in words that make the
            # page load itself again, which ends at the login.
            await self._app(_without_client(scope), receive, send)
        elif scope["type"] == "http" and scope["method"] in _SAFE_METHODS and _wants_page(headers):
            await RedirectResponse(login_address(path), status_code=303)(scope, receive, send)
        else:
            await _refuse(scope, receive, send, 401, "Log in first.")


def session_of(scope: Scope) -> Session | None:
    """
    Return the session of a request that came through the guard.
    """
    return scope.get(SESSION_IN_SCOPE)


def cookie_of(headers: Headers, name: str = COOKIE_NAME) -> str | None:
    """
    Return one cookie of a request.
    """
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return found.value if found else None


def login_address(path: str, *, reason: str = "") -> str:
    """
    Return where to log in, and to come back to ``path`` after it.
    """
    query = f"?next={quote(path, safe='/')}" if path not in {"/", "/login"} else ""
    if reason:
        query += f"{'&' if query else '?'}reason={reason}"
    return f"/login{query}"


def _is_from_here(scope: Scope, headers: Headers) -> bool:
    """
    Tell whether a change or a socket was asked for by one of our own pages.

    A browser names the page's origin; other clients name none and have no cookie by accident.
    """
    if scope["type"] == "http" and scope["method"] in _SAFE_METHODS:
        return True
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host", "")


def _wants_page(headers: Headers) -> bool:
    return "text/html" in headers.get("accept", "text/html")


def _without_client(scope: Scope) -> Scope:
    query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
    query |= {"client_id": NO_CLIENT, "implicit_handshake": "true"}
    return dict(scope) | {"query_string": urlencode(query).encode()}


def _policy_of(path: str) -> str:
    if LIVE_PAGE.fullmatch(path) is not None:
        return LIVE_POLICY
    return SCRIPTED_POLICY if path == SCRIPTED_PAGE else PLAIN_POLICY


def _with_headers(send: Send, *, policy: str) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["content-security-policy"] = policy
            headers["x-content-type-options"] = "nosniff"
            # With "no-referrer" a browser would hide the origin of our own forms, too.
            headers["referrer-policy"] = "same-origin"
            if "text/html" in headers.get("content-type", ""):
                headers["cache-control"] = "no-store"
        await send(message)

    return wrapped


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    await PlainTextResponse(text, status_code=status)(scope, receive, send)
