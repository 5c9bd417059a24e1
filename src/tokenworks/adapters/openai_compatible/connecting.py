"""
Connect a socket to the first address of a supplier's name that answers and may be used.

Known limit: the addresses are tried one after the other, each with its share of the time.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, cast

from tokenworks.adapters.openai_compatible.addresses import (
    REFUSED_TEXT,
    AddressInfo,
    is_public_address,
)
from tokenworks.gateway.ports import AddressRefusedError

ADDRESSES_MAX: Final = 4


async def connect_socket(
    host: str, port: int, *, allow_private: bool, timeout_s: float
) -> socket.socket:
    """
    Return a connected, non-blocking socket without Nagle's delay.

    Args:
        host: A name or an address.
        port: TCP.
        allow_private: Whether an address outside the public internet will do.
        timeout_s: For all addresses together, without resolving the name.

    Raises:
        AddressRefusedError: Every address is private, and none may be.
        OSError: The name leads nowhere, or nobody accepts; `TimeoutError`: not in time.
    """
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    allowed = _allowed(cast("list[AddressInfo]", addresses), allow_private=allow_private)
    return await _connect_first(loop, allowed, timeout_s)


def _allowed(addresses: list[AddressInfo], *, allow_private: bool) -> list[AddressInfo]:
    allowed = [
        address for address in addresses if allow_private or is_public_address(str(address[4][0]))
    ]
    if addresses and not allowed:
        raise AddressRefusedError(f"The supplier's name {REFUSED_TEXT}.")
    return allowed[:ADDRESSES_MAX]


async def _connect_first(
    loop: asyncio.AbstractEventLoop, addresses: list[AddressInfo], timeout_s: float
) -> socket.socket:
    last: OSError = OSError("no address")
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(timeout_s / len(addresses)):
                await loop.sock_connect(sock, address)
        except OSError as error:
            # Also TimeoutError: the next address may answer.
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise last
