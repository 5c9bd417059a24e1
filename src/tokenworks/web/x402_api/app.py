"""
``GET /x402/supported``, ``POST /x402/verify``, ``/x402/settle`` and ``/x402/authorize`` as an ASGI
application.

No framework and no middleware. A payment that was judged is answered with 200 and ``isValid`` or
``success``; a body that is no request is 400, a database that is away 503.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec

from tokenworks.agents.payments.service import Payments
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import InvalidError, NotFoundError, TokenworksError
from tokenworks.foundation.limits import (
    X402_BODY_BYTES_MAX,
    X402_READ_TIMEOUT_S,
    X402_REQUESTS_PER_MINUTE_MAX,
)
from tokenworks.identity.service import Identity
from tokenworks.web.asgi import Receive, Scope, SendMessage, read_body, send_json, send_whole
from tokenworks.web.errors import PROBLEM_MEDIA_TYPE, headers_of, status_of, to_problem
from tokenworks.web.guarding import AddressRate, guarded
from tokenworks.web.metrics import HubMetrics
from tokenworks.web.x402_api.authorizing import authorize
from tokenworks.web.x402_api.facilitating import Facilitator, MalformedBodyError

PREFIX: Final = "/x402/"

_encode = msgspec.json.Encoder().encode
_read = partial(read_body, bytes_max=X402_BODY_BYTES_MAX, timeout_s=X402_READ_TIMEOUT_S)


class X402Api:
    """
    The facilitator's door.

    Args:
        payments: Holds and captures.
        identity: Knows a payee by its key.
        clock: For the rate of an address.
        metrics: Counts refusals.
    """

    def __init__(
        self, *, payments: Payments, identity: Identity, clock: Clock, metrics: HubMetrics
    ) -> None:
        self._payments = payments
        self._facilitator = Facilitator(payments=payments, identity=identity, metrics=metrics)
        self._metrics = metrics
        self._rate = AddressRate(clock, per_minute=X402_REQUESTS_PER_MINUTE_MAX)

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        """
        Answer one request.
        """
        serving = self._serve(scope, receive, send)
        await guarded(
            serving,
            path=scope["path"],
            metrics=self._metrics,
            tell=lambda error: _send_problem(send, error),
        )

    async def _serve(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        path, method = scope["path"], scope["method"]
        self._rate.take(scope)
        if path == "/x402/supported":
            _require_method(method, "GET")
            await send_json(send, 200, _encode(self._facilitator.supported()))
        elif path == "/x402/verify":
            _require_method(method, "POST")
            status, verified = await self._facilitator.verify(await _read(scope, receive))
            await send_json(send, status, _encode(verified))
        elif path == "/x402/settle":
            _require_method(method, "POST")
            settled = await self._facilitator.settle(scope, await _read(scope, receive))
            await send_json(send, 200, _encode(settled))
        elif path == "/x402/authorize":
            _require_method(method, "POST")
            await self._authorize(await _read(scope, receive), send)
        else:
            message = f"There is no {method} {path} here; try /x402/supported."
            raise NotFoundError(message, code="unknown_url")

    async def _authorize(self, content: bytes, send: SendMessage) -> None:
        try:
            attested = await authorize(self._payments, content)
        except TokenworksError as error:
            self._metrics.refused(error.code)
            await _send_problem(send, error)
            return
        await send_json(send, 200, _encode(attested))


def _require_method(method: str, wanted: str) -> None:
    if method != wanted:
        message = f"Use {wanted} here, not {method}."
        raise InvalidError(message, code="method_not_allowed")


async def _send_problem(send: SendMessage, error: TokenworksError) -> None:
    problem = to_problem(error)
    if isinstance(error, MalformedBodyError):
        problem |= error.members
    headers = [(name.encode(), value.encode()) for name, value in headers_of(error).items()]
    media_type = PROBLEM_MEDIA_TYPE.encode()
    await send_whole(send, status_of(error), _encode(problem), media_type, headers)
