"""
Post one message to an owner's webhook, with aiohttp.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from typing import Final

import aiohttp
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from tokenworks import __version__
from tokenworks.agents.brake.ports import Sent
from tokenworks.supply.ssrf import find_fault

ATTEMPT_TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 5.0
CONNECTIONS_MAX: Final = 20

AddressInfo = tuple[
    int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]
]


class HttpWebhookSender:
    """
    Send messages, each over a connection of its own: the hub tells few people, seldom.
    """

    async def send(
        self, url: str, *, headers: Mapping[str, str], body: bytes, allow_private: bool
    ) -> Sent:
        """
        Send and say what the receiver answered; never raises for what it does.
        """
        connector = TCPConnector(
            limit=CONNECTIONS_MAX,
            force_close=True,
            socket_factory=_open_any_socket if allow_private else _open_public_socket,
        )
        timeout = ClientTimeout(total=ATTEMPT_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
        try:
            async with (
                ClientSession(
                    connector=connector,
                    timeout=timeout,
                    cookie_jar=DummyCookieJar(),
                    trust_env=False,
                    auto_decompress=False,
                ) as session,
                session.post(
                    url,
                    data=body,
                    headers={**headers, "user-agent": f"tokenworks/{__version__}"},
                    allow_redirects=False,
                ) as response,
            ):
                # Closed unread: what it answers is nothing we want to hold or to log.
                return _sent(response.status)
        except TimeoutError:
            return Sent(http_status=None, error=f"no answer within {ATTEMPT_TIMEOUT_S:g} s")
        except aiohttp.ClientError as error:
            return Sent(http_status=None, error=_reason(error))
        except (OSError, ValueError) as error:
            return Sent(http_status=None, error=f"it cannot be reached ({type(error).__name__})")


def _sent(status: int) -> Sent:
    if 200 <= status < 300:
        return Sent(http_status=status, error=None)
    if 300 <= status < 400:
        return Sent(http_status=status, error="it redirects, which is not followed")
    return Sent(http_status=status, error=f"it answered with status {status}")


def _reason(error: aiohttp.ClientError) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return "its certificate is not accepted"
    if cause is not None and cause.errno == errno.EACCES:
        return "it leads to an address that is not allowed"
    return f"it cannot be reached ({type(error).__name__})"


def _open_any_socket(address: AddressInfo) -> socket.socket:
    return _open_socket(address, allow_private=True)


def _open_public_socket(address: AddressInfo) -> socket.socket:
    return _open_socket(address, allow_private=False)


def _open_socket(address: AddressInfo, *, allow_private: bool) -> socket.socket:
    """
    Make an unconnected socket if the address may be connected to, at this very moment.
    """
    family, kind, protocol, _, (host, *_) = address
    if find_fault(str(host), allow_private=allow_private) is not None:
        raise OSError(errno.EACCES, "not allowed")
    return socket.socket(family=family, type=kind, proto=protocol)
