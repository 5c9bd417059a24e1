"""
What the gateway needs from the outside: one physical request to a supplier.

An upstream sends the bytes it is given and hands back status, a few headers and the
answer's bytes as they come. It follows no redirect, keeps no cookie, unpacks nothing
and knows no JSON. Everything a supplier can do wrong is one of the errors below;
until `Upstream.send` has returned, none of the answer has been seen, so another
supplier may be tried.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from tokenworks.foundation.errors import SupplierFaultError
from tokenworks.foundation.limits import (
    SUPPLIER_ANSWER_BYTES_MAX,
    SUPPLIER_CONNECT_TIMEOUT_S,
    SUPPLIER_FIRST_BYTE_TIMEOUT_S,
    SUPPLIER_IDLE_TIMEOUT_S,
)

ANSWER_HEADERS: Final = frozenset(
    {
        "content-encoding",
        "content-type",
        "openai-processing-ms",
        "request-id",
        "retry-after",
        "x-request-id",
        "x-should-retry",
    }
)
"""
The answer headers an upstream reports; all others are dropped.
"""


class ConnectFaultError(SupplierFaultError):
    """
    No connection to the supplier, also not in time; it has seen nothing of the request.
    """

    code = "supplier_unreachable"


class AddressRefusedError(ConnectFaultError):
    """
    The supplier's name leads to a private address, which its entry does not allow.
    """

    code = "supplier_address_refused"


class UpstreamTimeoutError(SupplierFaultError):
    """
    The supplier did not begin to answer, or did not go on, within the time allowed.
    """

    code = "supplier_timeout"


class CutAnswerError(SupplierFaultError):
    """
    The supplier closed the connection before its answer was complete.
    """

    code = "supplier_cut_answer"


class RedirectRefusedError(SupplierFaultError):
    """
    The supplier answered with a redirect, which could lead anywhere.
    """

    code = "supplier_redirect"


class BadAnswerError(SupplierFaultError):
    """
    The supplier's answer breaks HTTP, JSON, event streams or the OpenAI shape.
    """

    code = "supplier_bad_answer"


class AnswerTooLargeError(SupplierFaultError):
    """
    The supplier's answer is bigger than the stated limit.
    """

    code = "supplier_answer_too_large"


class ErrorAnswerError(SupplierFaultError):
    """
    The supplier answered 200, or began to stream, and then named an error.

    Args:
        message: For people; does not repeat the supplier's words, which may hold secrets.
        supplier_error: The ``error`` value as the supplier sent it, for the operator only.
    """

    code = "supplier_error_answer"

    def __init__(self, message: str, *, supplier_error: object) -> None:
        super().__init__(message)
        self.supplier_error = supplier_error


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRequest:
    """
    One physical request, complete: nothing is added but transport headers.
    """

    url: str
    # Names in any case. Host, length, encoding and connection are the transport's own.
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    method: str = "POST"
    # False: a name that leads to a private, loopback or link-local address is refused.
    allow_private: bool = False
    connect_timeout_s: float = SUPPLIER_CONNECT_TIMEOUT_S
    # From the request's last byte to the answer's head.
    first_byte_timeout_s: float = SUPPLIER_FIRST_BYTE_TIMEOUT_S
    # Between two reads of the answer's body.
    idle_timeout_s: float = SUPPLIER_IDLE_TIMEOUT_S
    # Of the body, however it is read.
    answer_bytes_max: int = SUPPLIER_ANSWER_BYTES_MAX


class UpstreamAnswer(Protocol):
    """
    An answer whose head has arrived; read it one way, then close it.
    """

    @property
    def status(self) -> int:
        """
        Return the HTTP status; never a redirect.
        """
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """
        Return those of `ANSWER_HEADERS` that came, names in lower case.
        """
        ...

    async def read(self, max_bytes: int) -> bytes:
        """
        Return the whole body.

        Raises:
            AnswerTooLargeError: It is longer than ``max_bytes``.
            UpstreamTimeoutError: Nothing came for the idle time.
            CutAnswerError: The connection ended inside the body.
        """
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """
        Yield the body's bytes as they arrive, never empty.

        Slow reading slows the supplier down: no more than a small buffer is held.

        Raises:
            AnswerTooLargeError: Together they are longer than the request's limit.
            UpstreamTimeoutError: Nothing came for the idle time.
            CutAnswerError: The connection ended inside the body.
        """
        ...

    async def close(self) -> None:
        """
        Give the connection back when the body was read, drop it otherwise; idempotent.
        """
        ...


class Upstream(Protocol):
    """
    The way to suppliers.
    """

    async def send(self, request: UpstreamRequest) -> UpstreamAnswer:
        """
        Send one request and return its answer as soon as the head is there.

        A kept-alive connection that turns out dead before any byte of the answer is
        replaced by a fresh one, once; nothing else is repeated.

        Raises:
            ConnectFaultError: No connection (name, address, refusal, TLS, time).
            UpstreamTimeoutError: No head in time.
            CutAnswerError: The connection ended before the head was complete.
            RedirectRefusedError: The answer is a redirect.
            BadAnswerError: The answer is no HTTP, or is packed although identity was asked.
        """
        ...

    async def close(self) -> None:
        """
        Close every connection; answers still open are cut.
        """
        ...
