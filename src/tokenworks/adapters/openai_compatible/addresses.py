"""
Which addresses a supplier's name may lead to.

The check stands where a socket is made, not where a URL is entered: a name can lead
elsewhere tomorrow (DNS rebinding), and an address written in a URL is never resolved.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Final

REFUSED_TEXT: Final = "leads to a private address"

AddressInfo = tuple[
    int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]
]
"""
One answer of ``getaddrinfo``.
"""

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


def is_public_address(address: str) -> bool:
    """
    Return whether an IP address belongs to the public internet.

    IPv4 inside IPv6 (mapped, 6to4, NAT64) is judged as IPv4.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            ip = inner
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def open_public_socket(
    address: AddressInfo,
) -> socket.socket:
    """
    Make an unconnected socket for one resolved address, if it is public.

    Raises:
        OSError: It is not.
    """
    family, kind, protocol, _, (host, *_) = address
    if not is_public_address(str(host)):
        raise OSError(errno.EACCES, REFUSED_TEXT)
    return socket.socket(family=family, type=kind, proto=protocol)
