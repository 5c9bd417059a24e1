"""
The bytes of a request, and where its URL leads.

Owns: what may stand in a URL, a header's name and a header's value. Both depend on few inputs
(one for each offer), so both are kept and a call only joins bytes.

Invariant: nothing that a request carries can end a line of its head.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from tokenworks import __version__
from tokenworks.gateway.ports import ConnectFaultError, UpstreamRequest

_OWN_HEADERS: Final = (
    f"accept-encoding: identity\r\nuser-agent: tokenworks/{__version__}\r\n".encode()
)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PATH: Final = re.compile(r"[!-~]+")
_NOT_IN_VALUE: Final = re.compile(r"[\r\n\0]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    Where a URL leads, and the first line and host of its requests.
    """

    host: str
    port: int
    is_tls: bool
    path: str
    host_header: str

    def head_of(self, method: str) -> bytes:
        """
        Return the request line and the host.
        """
        return f"{method} {self.path} HTTP/1.1\r\nhost: {self.host_header}\r\n".encode("ascii")


@lru_cache(maxsize=1024)
def to_target(url: str) -> Target:
    """
    Read a supplier's URL.

    Raises:
        ConnectFaultError: No host, a user in it, another scheme, or characters that a request
            line cannot hold.
    """
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode() if parts.hostname else ""
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
    except (ValueError, UnicodeError) as error:
        raise ConnectFaultError("The supplier has no usable address.") from error
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if (
        parts.scheme not in {"http", "https"}
        or not host
        or parts.username is not None
        or not _PATH.fullmatch(path)
        or not _PATH.fullmatch(host)
    ):
        raise ConnectFaultError("The supplier has no usable address.")
    shown = f"[{host}]" if ":" in host else host
    if parts.port is not None:
        shown = f"{shown}:{parts.port}"
    return Target(host=host, port=port, is_tls=is_tls, path=path, host_header=shown)


def to_message(request: UpstreamRequest, target: Target) -> bytes:
    """
    Return a whole request, head and body (RFC 9112).

    Raises:
        ConnectFaultError: A header's name is no token, or its value would end the line.
    """
    head = _to_headers(tuple(request.headers.items()))
    return b"%b%b%bcontent-length: %d\r\n\r\n%b" % (
        target.head_of(request.method),
        _OWN_HEADERS,
        head,
        len(request.body),
        request.body,
    )


@lru_cache(maxsize=256)
def _to_headers(headers: tuple[tuple[str, str], ...]) -> bytes:
    """
    Return header lines; few sets exist, one for each supplier and kind of answer.
    """
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or _NOT_IN_VALUE.search(value):
            raise ConnectFaultError("The supplier's headers cannot be sent.")
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1", "replace")
