"""
Which URLs and addresses the hub may call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tokenworks.supply.errors import UrlNotAllowedError
from tokenworks.supply.ssrf import CheckedUrl, check_base_url, find_fault, origin_of, resolve_host

PUBLIC = "93.184.216.34"


async def check(url: str, *addresses: str, allow_private: bool = False) -> CheckedUrl:
    """
    Check a URL whose host resolves to ``addresses`` (a public one when none is given).
    """

    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses or (PUBLIC,)

    return await check_base_url(url, allow_private=allow_private, resolve=resolve)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://api.example/v1/", "https://api.example/v1"),
        ("HTTPS://API.Example.:443", "https://api.example"),
        ("https://api.example:8443/a/b//", "https://api.example:8443/a/b"),
        ("https://[2606:4700::1111]/v1", "https://[2606:4700::1111]/v1"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ],
)
async def test_url_gets_one_normal_form(url: str, normal: str) -> None:
    """
    Case, default port, root dot and the last slash do not make another supplier.
    """
    checked = await check(url)
    assert checked.url == normal
    assert checked.addresses == (PUBLIC,)
    assert "(public)" in checked.note


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example",
        "ftp://api.example",
        "file:///etc/passwd",
        "gopher://api.example",
        "https://",
        "https:///v1",
        "https://user@api.example",
        "https://user:password@api.example",
        "https://api.example@10.0.0.1",
        "https://api.example?x=1",
        "https://api.example/v1?",
        "https://api.example#x",
        "https://api.example:0",
        "https://api.example:65536",
        "https://api.example:port",
        "https://api example",
        "https://api.example/\r\nHost: evil",
        "https://api.example\\@evil",
        "https://api.example/v1/../admin",
        "https://bücher.example",
        "https://-api.example",
        "https://api..example",
        "https://[::1",
        "https://[fe80::1%25eth0]",
        "https://api.example/" + "a" * 2_000,
    ],
)
async def test_malformed_url_is_refused(url: str) -> None:
    """
    Whatever two parsers could read in two ways is refused.
    """
    with pytest.raises(UrlNotAllowedError) as refused:
        await check(url, allow_private=True)
    assert refused.value.code == "url_not_allowed"


PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.1.1",
    "192.0.2.1",
    "198.18.0.1",
    "240.0.0.1",
    "::1",
    "fe80::1",
    "fc00::1",
    "fd12:3456::1",
    "fec0::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
]
NEVER = [
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "100.100.100.200",
    "fd00:ec2::254",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "not an address",
]
OPEN = [PUBLIC, "8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "100.63.255.255"]


@pytest.mark.parametrize("address", PRIVATE + NEVER)
async def test_address_outside_the_internet_is_refused(address: str) -> None:
    """
    Loopback, private, link-local, reserved: in any spelling and inside any other address.
    """
    assert find_fault(address, allow_private=False) is not None
    with pytest.raises(UrlNotAllowedError) as refused:
        await check("https://api.example", address)
    assert address not in refused.value.message


@pytest.mark.parametrize("address", OPEN)
async def test_address_on_the_internet_is_allowed(address: str) -> None:
    """
    Public addresses pass, also as a host without IPv4 sees them (NAT64).
    """
    assert find_fault(address, allow_private=False) is None
    assert (await check("https://api.example", address)).addresses == (address,)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1", "fd12:3456::1", "100.64.0.1"])
async def test_operator_may_vouch_for_a_private_address(address: str) -> None:
    """
    With allow_private a model on this machine or network is a supplier, over plain http too.
    """
    checked = await check("http://llama.lan:8080/", address, allow_private=True)
    assert checked.url == "http://llama.lan:8080"
    assert "allowed by the operator" in checked.note


@pytest.mark.parametrize("address", NEVER)
async def test_nobody_may_vouch_for_a_metadata_service(address: str) -> None:
    """
    The cloud's metadata service hands out credentials; it is never a supplier.
    """
    with pytest.raises(UrlNotAllowedError):
        await check("https://api.example", address, allow_private=True)


async def test_one_bad_address_spoils_the_name() -> None:
    """
    A name must be public in all its addresses, or the next connection may go elsewhere.
    """
    with pytest.raises(UrlNotAllowedError):
        await check("https://api.example", PUBLIC, "10.0.0.1")


async def test_plain_http_needs_the_operators_word() -> None:
    """
    Over http everyone on the way could read the supplier's key.
    """
    with pytest.raises(UrlNotAllowedError, match="https"):
        await check("http://api.example")


@pytest.mark.parametrize("host", ["2130706433", "0x7f.0.0.1", "127.1", "localhost"])
async def test_other_spellings_of_this_machine_are_resolved_and_refused(host: str) -> None:
    """
    What the system's resolver takes for this machine is judged as this machine.
    """
    with pytest.raises(UrlNotAllowedError):
        await check_base_url(f"https://{host}", allow_private=False)


async def test_name_that_does_not_resolve_is_refused() -> None:
    """
    Neither a failing nor a slow nor an empty answer is an address.
    """

    async def fails(host: str, port: int) -> Sequence[str]:
        raise OSError

    async def is_late(host: str, port: int) -> Sequence[str]:
        raise TimeoutError

    async def is_empty(host: str, port: int) -> Sequence[str]:
        return ()

    for resolve in (fails, is_late, is_empty):
        with pytest.raises(UrlNotAllowedError):
            await check_base_url("https://api.example", allow_private=False, resolve=resolve)


async def test_resolver_does_not_block_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Names are resolved in a thread, once each address.
    """

    def answer(*_: object, **__: object) -> list[tuple[object, ...]]:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return [(2, 1, 6, "", (PUBLIC, 443)), (2, 2, 17, "", (PUBLIC, 443))]

    monkeypatch.setattr("socket.getaddrinfo", answer)
    assert await resolve_host("api.example", 443) == [PUBLIC]


def test_origin_is_who_receives() -> None:
    """
    Scheme, host and port; the path does not matter.
    """
    assert origin_of("https://api.example:8443/v1") == "https://api.example:8443"
