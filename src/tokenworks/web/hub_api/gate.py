"""
The gate in front of every route: key or wallet, body limit, idempotency; in this order.

A plain ASGI wrapper and not a route dependency, because a repeat must be answered before
any route code runs and an answer must be stored before it leaves.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenworks.agents.mandates.errors import WalletRequestError
from tokenworks.agents.mandates.signed_request import SignedRequest
from tokenworks.foundation.errors import (
    InvalidError,
    TokenworksError,
    TooLargeError,
    UnauthenticatedError,
)
from tokenworks.foundation.limits import STATEMENT_BYTES_MAX
from tokenworks.identity.model import Principal, Role
from tokenworks.web.errors import PROBLEM_MEDIA_TYPE, headers_of, status_of, to_problem
from tokenworks.web.hub_api.callers import WALLET_HEADER
from tokenworks.web.hub_api.idempotency import (
    KEY_CHARACTERS_MAX,
    IdempotencyStore,
    Run,
    StoredAnswer,
    request_hash,
)

BODY_BYTES_MAX: Final = 1024 * 1024
FILE_BODY_BYTES_MAX: Final = 2 * STATEMENT_BYTES_MAX
"""A file within a JSON document, some of its characters escaped."""
FILE_PATHS: Final = frozenset({"/hub/v1/statements"})
WRITE_METHODS: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
OPEN_PATHS: Final = frozenset({"/hub/v1/openapi.json"})

_log = structlog.get_logger("tokenworks.hub_api")


class Authenticator(Protocol):
    """
    Turns a secret into who it stands for.
    """

    async def authenticate(
        self, presented: str, /, *, address: str | None = None, may_be_frozen: bool = False
    ) -> Principal:
        """
        Return the principal of a secret, or raise an unauthenticated error.
        """
        ...

    async def authenticate_wallet(
        self, header: str, /, *, method: str, url: str, may_be_frozen: bool
    ) -> tuple[Principal, SignedRequest]:
        """
        Return the agent of a wallet that signed the request, or raise an error.
        """
        ...


class Gate:
    """
    Let a request through once it is small enough, authenticated and not a repeat.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticator: Authenticator,
        idempotency: IdempotencyStore,
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._idempotency = idempotency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one request.
        """
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            await self._serve(scope, receive, send)
        except TokenworksError as error:
            await problem_response(error)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        principal, signed = await self._authenticate(request)
        scope.setdefault("state", {})["principal"] = principal
        is_write = request.method in WRITE_METHODS
        if not is_write and signed is None:
            await self._app(scope, receive, send)
            return
        try:
            body = await read_body(request, bytes_max=_bytes_max(request, principal))
        except ClientDisconnect:
            return
        if signed is None:
            key = idempotency_key_of(request)
        else:
            signed.check_body(body)
            # Whoever sends a signed write again gets the first answer: the key is signed.
            key = f"wallet:{signed.request_id}" if is_write else None
        scope["state"]["idempotency_key"] = key
        if key is None:
            await self._app(scope, _replay(body, receive), send)
            return
        claim = await self._idempotency.begin(
            party_id=principal.party_id,
            key=key,
            request_hash=request_hash(
                method=request.method,
                path=scope["path"],
                query=scope.get("query_string", b""),
                body=body,
            ),
        )
        if isinstance(claim, StoredAnswer):
            await _answer_again(claim)(scope, receive, send)
        else:
            await self._run(claim, scope, _replay(body, receive), send)

    async def _authenticate(self, request: Request) -> tuple[Principal, SignedRequest | None]:
        may_be_frozen = request.method not in WRITE_METHODS
        header = request.headers.get(WALLET_HEADER)
        if header is None:
            principal = await self._authenticator.authenticate(
                bearer_of(request),
                address=request.client.host if request.client else None,
                may_be_frozen=may_be_frozen,
            )
            return principal, None
        if "authorization" in request.headers:
            message = f"Send either an API key or {WALLET_HEADER}, not both."
            raise WalletRequestError(message)
        return await self._authenticator.authenticate_wallet(
            header, method=request.method, url=_url_of(request), may_be_frozen=may_be_frozen
        )

    async def _run(self, run: Run, scope: Scope, receive: Receive, send: Send) -> None:
        captured = _Capture()
        try:
            await self._app(scope, receive, captured.send)
        finally:
            # Also when the route raised or was cancelled: nothing was answered, so nothing
            # is stored, and the key may be used again.
            if not captured.is_success:
                await self._idempotency.release(run)
        if captured.is_success:
            # The write is done; failing to remember its answer must not turn it into an error.
            try:
                await self._idempotency.finish(run, status=captured.status, body=captured.body)
            except Exception as error:  # noqa: BLE001 - whatever it is, the write stands
                _log.warning("idempotency_answer_not_stored", error=type(error).__name__)
        for message in captured.messages:
            await send(message)


class _Capture:
    """
    Hold back an answer until it is remembered.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        starts = [m for m in self.messages if m["type"] == "http.response.start"]
        return int(starts[0]["status"]) if starts else 0

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def body(self) -> bytes:
        parts = (m.get("body", b"") for m in self.messages if m["type"] == "http.response.body")
        return b"".join(parts)


def problem_response(error: TokenworksError) -> Response:
    """
    Return an error as an RFC 9457 answer.
    """
    return Response(
        msgspec.json.encode(to_problem(error)),
        status_code=status_of(error),
        media_type=PROBLEM_MEDIA_TYPE,
        headers=headers_of(error),
    )


def bearer_of(request: Request) -> str:
    """
    Return the secret of the Authorization header.

    Raises:
        UnauthenticatedError: There is none.
    """
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        message = "Send an API key as 'Authorization: Bearer tw_...'."
        raise UnauthenticatedError(message)
    return secret.strip()


def idempotency_key_of(request: Request) -> str | None:
    """
    Return the Idempotency-Key header, or ``None`` without one.

    Raises:
        InvalidError: It is empty, too long or not printable ASCII.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not (1 <= len(key) <= KEY_CHARACTERS_MAX and key.isascii() and key.isprintable()):
        message = f"Idempotency-Key is 1 to {KEY_CHARACTERS_MAX} printable ASCII characters."
        raise InvalidError(message, code="invalid_idempotency_key", param="Idempotency-Key")
    return key


def _url_of(request: Request) -> str:
    """
    Return the address as it came: decoded, a %3F in a path would pass for a query's beginning.
    """
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    path = raw.partition(b"?")[0].decode("latin-1")
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{request.url.scheme}://{request.url.netloc}{path}{query}"


def _bytes_max(request: Request, principal: Principal) -> int:
    takes_file = request.scope["path"] in FILE_PATHS and principal.role is Role.ADMIN
    return FILE_BODY_BYTES_MAX if takes_file else BODY_BYTES_MAX


async def read_body(request: Request, *, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """
    Read a whole body, up to ``bytes_max``.

    Raises:
        TooLargeError: It is bigger; the rest is not read.
    """
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > bytes_max:
            message = f"A request body is at most {bytes_max} bytes."
            raise TooLargeError(message)
        parts.append(part)
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def receive_again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _answer_again(answer: StoredAnswer) -> Response:
    return Response(
        answer.body,
        status_code=answer.status,
        media_type="application/json",
        headers={"idempotent-replay": "true"},
    )
