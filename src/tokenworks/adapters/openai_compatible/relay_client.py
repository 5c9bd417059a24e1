"""
The upstream on bare asyncio and httptools: the same rules as `HttpUpstream`, at about a
fifth of its processor time.

Owns: sending a request on a kept connection or a new one, once more when a kept one turns out
closed before a byte of the answer. The parts are ``message`` (bytes of a request), ``pool``
(kept connections), ``connecting`` (a socket), ``connection`` (bytes of an answer), ``answer``
(the exchange its caller sees).
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from tokenworks.adapters.openai_compatible.answer import RelayAnswer, head_of
from tokenworks.adapters.openai_compatible.connecting import connect_socket
from tokenworks.adapters.openai_compatible.connection import Connection, PoolKey
from tokenworks.adapters.openai_compatible.message import Target, to_message, to_target
from tokenworks.adapters.openai_compatible.pool import ConnectionPool
from tokenworks.gateway.ports import ConnectFaultError, CutAnswerError, UpstreamRequest

CONNECTIONS_MAX: Final = 4_096


class RelayUpstream:
    """
    Send requests to suppliers over kept-alive connections.

    Use it from one event loop. TLS settings are loaded at the first ``https`` request.

    Args:
        connections_max: Open at once; an idle one makes room for a request beyond, and
            where there is none the request is refused.
        tls: Replaces the system's trust, for tests.
    """

    def __init__(
        self, *, connections_max: int = CONNECTIONS_MAX, tls: ssl.SSLContext | None = None
    ) -> None:
        self._pool = ConnectionPool(connections_max)
        self._tls = tls

    async def send(self, request: UpstreamRequest) -> RelayAnswer:
        """
        Send one request and return its answer as soon as the head is there.

        Raises:
            ConnectFaultError: Nothing was sent: the address cannot be used or nobody accepts.
            SupplierFaultError: What came back is no answer, or came too late.
        """
        target = to_target(request.url)
        message = to_message(request, target)
        key = (target.host, target.port, target.is_tls, request.allow_private)
        connection = self._pool.take_idle(key)
        if connection is not None:
            answer = connection.exchange(message, request)
            try:
                return await head_of(answer)
            except CutAnswerError:
                if not answer.is_untouched:
                    raise
        connection = await self._connect(key, target, request)
        return await head_of(connection.exchange(message, request))

    async def close(self) -> None:
        """
        Close every connection; answers still open are cut.
        """
        await self._pool.close()

    async def _connect(self, key: PoolKey, target: Target, request: UpstreamRequest) -> Connection:
        try:
            with self._pool.room():
                async with asyncio.timeout(request.connect_timeout_s):
                    return await self._open_connection(key, target, request)
        except TimeoutError as error:
            raise ConnectFaultError("The supplier accepted no connection in time.") from error
        except ssl.SSLCertVerificationError as error:
            raise ConnectFaultError("The supplier has no valid certificate.") from error
        except (OSError, UnicodeError) as error:
            raise ConnectFaultError("The supplier accepted no connection.") from error

    async def _open_connection(
        self, key: PoolKey, target: Target, request: UpstreamRequest
    ) -> Connection:
        loop = asyncio.get_running_loop()
        sock = await connect_socket(
            target.host,
            target.port,
            allow_private=request.allow_private,
            timeout_s=request.connect_timeout_s,
        )
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self._pool, key, loop),
                sock=sock,
                ssl=self._tls_context() if target.is_tls else None,
                server_hostname=target.host if target.is_tls else None,
            )
        except BaseException:
            sock.close()
            raise
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls
