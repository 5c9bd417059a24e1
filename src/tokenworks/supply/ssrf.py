"""
Check that a supplier's URL leads to the open internet, unless the operator vouches for it.

A supplier's URL is text that somebody typed, and the hub will send requests there with a
key. Without this check the hub could be made to call its own host, its private network or
the cloud's metadata service (server-side request forgery).

The order of the checks: shape of the URL, scheme, host name resolves, each address. All
addresses of a name must be allowed. The metadata services of clouds, multicast and the
unspecified address are refused even when private addresses are allowed: no supplier lives
there.

Known limit: the check holds for the moment it is made. A name may resolve to another
address later ("DNS rebinding"), so whoever makes the connection must judge the address it
really connects to (``find_fault`` is the rule) and follow no redirects.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import SplitResult, urlsplit

from tokenworks.supply.errors import UrlNotAllowedError

URL_LENGTH_MAX: Final = 2_000
RESOLVE_TIMEOUT_S: Final = 5.0
ADDRESSES_MAX: Final = 64

_PORTS: Final = {"https": 443, "http": 80}
_URL_CHARACTERS: Final = re.compile(r"[!-~]+")
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*"
)

_METADATA_SERVICES: Final = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # AWS, Azure, Google and most others
            "169.254.170.2",  # AWS containers
            "169.254.170.23",  # AWS EKS
            "169.254.0.23",  # Tencent
            "100.100.100.200",  # Alibaba
            "192.0.0.192",  # Oracle
            "168.63.129.16",  # Azure's host, public in form only
            "fd00:ec2::254",  # AWS over IPv6
            "fd00:ec2::23",  # AWS EKS over IPv6
            "fd20:ce::254",  # Google over IPv6
        ),
    )
)
_NAT64_WELL_KNOWN: Final = ipaddress.IPv6Network("64:ff9b::/96")
_IPV4_BITS: Final = 0xFFFF_FFFF

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Resolver(Protocol):
    """
    Turns a host name into addresses, as text.
    """

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """
        Return every address of ``host``.

        Raises:
            OSError: The name does not resolve.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedUrl:
    """
    A base URL that was found allowed, and what it resolved to then.
    """

    url: str  # normal form, without a slash at the end
    host: str
    port: int
    addresses: tuple[str, ...]
    allow_private: bool  # under which it was checked
    note: str  # one sentence for the operator


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """
    Ask the system's resolver, in a thread so that a slow name server blocks nobody.

    Raises:
        OSError: The name does not resolve, or not in time.
    """
    asking = asyncio.to_thread(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    answers = await asyncio.wait_for(asking, RESOLVE_TIMEOUT_S)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


async def check_base_url(
    url: str, *, allow_private: bool, resolve: Resolver = resolve_host
) -> CheckedUrl:
    """
    Return the normal form of a supplier's base URL if the hub may call it.

    Args:
        url: ``https://host[:port][/path]``; ``http`` only with ``allow_private``.
        allow_private: The operator vouches for loopback, private and link-local addresses.
        resolve: Replaced in tests.

    Raises:
        UrlNotAllowedError: Malformed, or an address is not allowed.
    """
    parts = _split(url)
    if parts.scheme == "http" and not allow_private:
        message = "A supplier on the internet needs https; http only with --allow-private."
        raise UrlNotAllowedError(message, param="base_url")
    host, port = _host_and_port(parts)
    try:
        addresses = tuple(await resolve(host, port))
    except (OSError, UnicodeError) as error:
        message = f"The host {host!r} does not resolve."
        raise UrlNotAllowedError(message, param="base_url") from error
    if not 1 <= len(addresses) <= ADDRESSES_MAX:
        message = f"The host {host!r} resolves to {len(addresses)} addresses."
        raise UrlNotAllowedError(message, param="base_url")
    for address in addresses:
        fault = find_fault(address, allow_private=allow_private)
        if fault is not None:
            # The address itself is not told: an outsider could map the network with it.
            message = f"The host {host!r} leads to {fault}."
            raise UrlNotAllowedError(message, param="base_url")
    shown_host = f"[{host}]" if ":" in host else host
    shown_port = "" if port == _PORTS[parts.scheme] else f":{port}"
    return CheckedUrl(
        url=f"{parts.scheme}://{shown_host}{shown_port}{parts.path.rstrip('/')}",
        host=host,
        port=port,
        addresses=addresses,
        allow_private=allow_private,
        note=_note(host, addresses),
    )


def find_fault(address: str, *, allow_private: bool) -> str | None:
    """
    Return why the hub may not connect to an address, or ``None`` when it may.

    Addresses that carry another one inside (mapped, NAT64, 6to4, Teredo) are judged by both.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "something that is no address"
    candidates = [parsed, *_embedded(parsed)]
    if parsed in _NAT64_WELL_KNOWN:
        # What a host without IPv4 sees of the IPv4 internet (RFC 6052): only the inner counts.
        candidates.remove(parsed)
    for candidate in candidates:
        fault = _fault_of(candidate, allow_private=allow_private)
        if fault is not None:
            return fault
    return None


def origin_of(url: str) -> str:
    """
    Return scheme, host and port of a checked URL: who receives what is sent there.
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _fault_of(address: _Address, *, allow_private: bool) -> str | None:
    if address in _METADATA_SERVICES:
        return "a cloud's metadata service, which is never a supplier"
    if address.is_multicast or address.is_unspecified:
        return "a multicast or unspecified address, which is never a supplier"
    if address == ipaddress.IPv4Address(_IPV4_BITS):
        return "the broadcast address, which is never a supplier"
    if allow_private:
        return None
    if address.is_loopback:
        return "this machine itself; pass --allow-private if that is meant"
    if address.is_link_local:
        return "a link-local address; pass --allow-private if that is meant"
    is_site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    if not address.is_global or address.is_private or address.is_reserved or is_site_local:
        return "a private or reserved network; pass --allow-private if that is meant"
    return None


def _embedded(address: _Address) -> list[ipaddress.IPv4Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64_WELL_KNOWN:
        found.append(ipaddress.IPv4Address(int(address) & _IPV4_BITS))
    if int(address) >> 32 == 0 and int(address) > 1:  # ::a.b.c.d, long deprecated
        found.append(ipaddress.IPv4Address(int(address)))
    return [inner for inner in found if inner is not None]


def _split(url: str) -> SplitResult:
    if len(url) > URL_LENGTH_MAX or not _URL_CHARACTERS.fullmatch(url) or "\\" in url:
        message = f"A URL is at most {URL_LENGTH_MAX} printable ASCII characters without spaces."
        raise UrlNotAllowedError(message, param="base_url")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        message = "This is not a URL."
        raise UrlNotAllowedError(message, param="base_url") from error
    if parts.scheme not in _PORTS:
        message = "A supplier's URL begins with https:// (or http://)."
        raise UrlNotAllowedError(message, param="base_url")
    if "@" in parts.netloc:
        message = "A supplier's URL holds no user name or password; give the key on its own."
        raise UrlNotAllowedError(message, param="base_url")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        message = "A supplier's URL has no query and no fragment."
        raise UrlNotAllowedError(message, param="base_url")
    if any(segment in {".", ".."} for segment in parts.path.split("/")):
        message = "A supplier's URL has no dot segments in its path."
        raise UrlNotAllowedError(message, param="base_url")
    return parts


def _host_and_port(parts: SplitResult) -> tuple[str, int]:
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        message = "The port of the URL is not a number from 1 to 65535."
        raise UrlNotAllowedError(message, param="base_url") from error
    host = (host or "").rstrip(".")
    is_ipv6 = parts.netloc.startswith("[")
    if not host or not (is_ipv6 or _HOST_NAME.fullmatch(host)):
        message = "The URL names no host, or one that is not a name or an address."
        raise UrlNotAllowedError(message, param="base_url")
    if is_ipv6 and "%" in host:
        message = "The URL's address names a network interface."
        raise UrlNotAllowedError(message, param="base_url")
    if port == 0:
        message = "The port of the URL is not a number from 1 to 65535."
        raise UrlNotAllowedError(message, param="base_url")
    return host, port or _PORTS[parts.scheme]


def _note(host: str, addresses: Sequence[str]) -> str:
    is_public = all(find_fault(address, allow_private=False) is None for address in addresses)
    kind = "public" if is_public else "private, allowed by the operator"
    more = f" and {len(addresses) - 1} more" if len(addresses) > 1 else ""
    return f"{host} resolves to {addresses[0]}{more} ({kind})."
