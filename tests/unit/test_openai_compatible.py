"""
The way to suppliers: the same rules for every client behind the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.adapters.openai_compatible.addresses import is_public_address
from tokenworks.adapters.openai_compatible.http_client import HttpUpstream
from tokenworks.adapters.openai_compatible.relay_client import RelayUpstream
from tokenworks.foundation.errors import SupplierFaultError
from tokenworks.gateway.ports import (
    AddressRefusedError,
    AnswerTooLargeError,
    BadAnswerError,
    ConnectFaultError,
    CutAnswerError,
    RedirectRefusedError,
    Upstream,
    UpstreamRequest,
    UpstreamTimeoutError,
)
from tokenworks.gateway.sse import StreamMeter
from tokenworks.testing.supplier_behaviour import Behaviour, Framing, LineEnd
from tokenworks.testing.supplier_stub import SupplierStub

BODY = b'{"model":"stub-model","messages":[{"role":"user","content":"hi"}]}'
STREAM_BODY = BODY[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'

UPSTREAMS: dict[str, Callable[[], Upstream]] = {"aiohttp": HttpUpstream, "relay": RelayUpstream}


@pytest.fixture(params=UPSTREAMS)
async def upstream(request: pytest.FixtureRequest) -> AsyncIterator[Upstream]:
    """
    A client behind the port; each test runs with each.
    """
    upstream = UPSTREAMS[request.param]()
    yield upstream
    await upstream.close()


@pytest.fixture
async def stub() -> AsyncIterator[SupplierStub]:
    """
    A healthy supplier.
    """
    async with SupplierStub() as stub:
        yield stub


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """
    A server's TLS settings with a certificate of its own, and a client's that trust it.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "supplier")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    file = tmp_path_factory.mktemp("tls") / "supplier.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(secret + certificate)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=certificate.decode())


def request_to(
    base_url: str,
    *,
    body: bytes = BODY,
    allow_private: bool = True,
    connect_timeout_s: float = 60.0,
    first_byte_timeout_s: float = 60.0,
    idle_timeout_s: float = 60.0,
    answer_bytes_max: int = 10_000_000,
) -> UpstreamRequest:
    """
    Return a request to a supplier on this machine.
    """
    return UpstreamRequest(
        url=f"{base_url}/chat/completions",
        headers={"Content-Type": "application/json", "Authorization": "Bearer secret"},
        body=body,
        allow_private=allow_private,
        connect_timeout_s=connect_timeout_s,
        first_byte_timeout_s=first_byte_timeout_s,
        idle_timeout_s=idle_timeout_s,
        answer_bytes_max=answer_bytes_max,
    )


@contextlib.asynccontextmanager
async def raw_server(
    *answers: bytes, is_closing: bool = False, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[str]:
    """
    Answer the requests of all connections with these bytes, one after the other.
    """
    left = list(answers)
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r")[0] or 0)
                await reader.readexactly(length)
                writer.write(left.pop(0) if left else b"")
                if is_closing:
                    break
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.sleep(0)


def plain(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """
    Return an answer with its length.
    """
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def read_all(upstream: Upstream, request: UpstreamRequest) -> bytes:
    """
    Return the body of one whole call.
    """
    answer = await upstream.send(request)
    try:
        return await answer.read(request.answer_bytes_max)
    finally:
        await answer.close()


async def test_a_plain_answer_comes_whole_with_status_and_headers(
    upstream: Upstream, stub: SupplierStub
) -> None:
    """
    Status, the few headers of the port and the body are the supplier's.
    """
    answer = await upstream.send(request_to(stub.base_url))
    body = await answer.read(1_000_000)
    await answer.close()
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.headers) <= {"content-type", "x-request-id"}
    assert b'"usage"' in body


async def test_the_supplier_sees_the_request_and_identity_encoding(
    upstream: Upstream, stub: SupplierStub
) -> None:
    """
    Body and headers arrive as given; nothing packed is asked for.
    """
    await read_all(upstream, request_to(stub.base_url))
    (seen,) = stub.requests
    assert seen.body == BODY
    assert seen.header("authorization") == "Bearer secret"
    assert seen.header("accept-encoding") == "identity"
    assert seen.header("cookie") is None


async def test_calls_in_a_row_share_one_connection(upstream: Upstream, stub: SupplierStub) -> None:
    """
    A connection whose answer was read is kept alive.
    """
    for _ in range(5):
        await read_all(upstream, request_to(stub.base_url))
    assert stub.stats()["connections_total"] == 1


@pytest.mark.parametrize("framing", list(Framing))
async def test_a_stream_comes_in_pieces(
    upstream: Upstream, stub: SupplierStub, framing: Framing
) -> None:
    """
    Pieces are never empty and join to the stream, however it is framed.
    """
    stub.set_behaviour(Behaviour(framing=framing, chunk_pace_ms=1))
    answer = await upstream.send(request_to(stub.base_url, body=STREAM_BODY))
    pieces = [piece async for piece in answer.chunks()]
    await answer.close()
    assert len(pieces) > 1
    assert all(pieces)
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(),
        Behaviour(multi_line_data=True),
        Behaviour(comments=True),
        Behaviour(is_space_omitted=True),
        Behaviour(unknown_fields=True),
        Behaviour(line_end=LineEnd.CRLF),
        Behaviour(fragment_bytes_max=7),
    ],
)
async def test_streams_of_every_dialect_are_metered_to_the_token(
    upstream: Upstream, stub: SupplierStub, behaviour: Behaviour
) -> None:
    """
    However events are written and cut, the pieces, the usage and the end are the same.
    """
    stub.set_behaviour(behaviour)
    body = STREAM_BODY[:-1] + b',"n":2,"max_tokens":5}'
    answer = await upstream.send(request_to(stub.base_url, body=body))
    meter = StreamMeter(public_model="pub", wants_usage_chunk=False)
    passed = b"".join([meter.feed(piece) async for piece in answer.chunks()]) + meter.finish()
    await answer.close()
    assert (meter.fault, meter.is_done) == (None, True)
    assert meter.upstream_model == "stub-model"
    assert [choice.pieces for choice in meter.choices.values()] == [5, 5]
    assert meter.usage is not None
    assert b"stub-model" not in passed


async def test_an_error_status_is_an_answer(upstream: Upstream, stub: SupplierStub) -> None:
    """
    A supplier that refuses has answered: the gateway reads why.
    """
    stub.set_behaviour(Behaviour(status=429, retry_after_s=7))
    answer = await upstream.send(request_to(stub.base_url))
    assert (answer.status, answer.headers["retry-after"]) == (429, "7")
    assert b"error" in await answer.read(10_000)
    await answer.close()


async def test_nobody_listening_is_a_connect_fault(upstream: Upstream, stub: SupplierStub) -> None:
    """
    A refused connection says that nothing was seen of the request.
    """
    await stub.refuse_connections()
    with pytest.raises(ConnectFaultError) as caught:
        await upstream.send(request_to(stub.base_url))
    assert caught.value.code == "supplier_unreachable"


@pytest.mark.parametrize("url", ["http://name.invalid", "no url", "ftp://127.0.0.1", "http://"])
async def test_an_unusable_address_is_a_connect_fault(upstream: Upstream, url: str) -> None:
    """
    Whatever is wrong with the address, nothing was sent.
    """
    with pytest.raises(ConnectFaultError):
        await upstream.send(request_to(url))


async def test_a_private_address_needs_permission(upstream: Upstream, stub: SupplierStub) -> None:
    """
    Without it no connection is opened, also when the address stands in the URL.
    """
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(AddressRefusedError):
            await upstream.send(request_to(f"http://{host}:{stub.port}/v1", allow_private=False))
    assert stub.stats()["connections_total"] == 0


async def test_permission_for_one_request_opens_nothing_for_another(
    upstream: Upstream, stub: SupplierStub
) -> None:
    """
    A kept-alive private connection serves only requests that may use it.
    """
    await read_all(upstream, request_to(stub.base_url))
    with pytest.raises(AddressRefusedError):
        await upstream.send(request_to(stub.base_url, allow_private=False))


async def test_a_supplier_that_never_answers_times_out(
    upstream: Upstream, stub: SupplierStub
) -> None:
    """
    The wait for the head is bounded by the first byte timeout.
    """
    stub.set_behaviour(Behaviour(hang=True))
    with pytest.raises(UpstreamTimeoutError):
        await upstream.send(request_to(stub.base_url, first_byte_timeout_s=0.1))


async def test_a_stalled_stream_times_out(upstream: Upstream, stub: SupplierStub) -> None:
    """
    Between two reads the idle timeout counts, not the one for the first byte.
    """
    stub.set_behaviour(Behaviour(stall_after_chunks=3))
    answer = await upstream.send(
        request_to(stub.base_url, body=STREAM_BODY, first_byte_timeout_s=30, idle_timeout_s=0.2)
    )
    with pytest.raises(UpstreamTimeoutError):
        async for _ in answer.chunks():
            pass
    await answer.close()


async def test_a_slow_but_steady_stream_does_not_time_out(
    upstream: Upstream, stub: SupplierStub
) -> None:
    """
    Every byte starts the idle time again.
    """
    stub.set_behaviour(Behaviour(chunk_pace_ms=150, completion_tokens=10))
    request = request_to(
        stub.base_url, body=STREAM_BODY, first_byte_timeout_s=1.0, idle_timeout_s=1.0
    )
    while True:
        async with longest_pause() as pause_s:
            try:
                assert (await read_all(upstream, request)).endswith(b"data: [DONE]\n\n")
                return
            except UpstreamTimeoutError:
                # Where the machine let nobody run for so long, the supplier was not steady.
                assert pause_s() > 0.5


@contextlib.asynccontextmanager
async def longest_pause() -> AsyncGenerator[Callable[[], float]]:
    """
    Measure for how long this process did not run at all.
    """
    pauses_s = [0.0]

    async def look() -> None:
        loop = asyncio.get_running_loop()
        seen_s = loop.time()
        while True:
            await asyncio.sleep(0.01)
            pauses_s.append(loop.time() - seen_s)
            seen_s = loop.time()

    looking = asyncio.create_task(look())
    try:
        yield lambda: max(pauses_s)
    finally:
        looking.cancel()


@pytest.mark.parametrize("body", [BODY, STREAM_BODY])
async def test_a_cut_answer_is_a_fault(upstream: Upstream, stub: SupplierStub, body: bytes) -> None:
    """
    A body that ends before its announced end never looks complete.
    """
    stub.set_behaviour(Behaviour(cut_after_chunks=2))
    with pytest.raises(CutAnswerError):
        await read_all(upstream, request_to(stub.base_url, body=body))


@pytest.mark.parametrize(
    "behaviour", [Behaviour(close_before_headers=True), Behaviour(reset_before_headers=True)]
)
async def test_a_fresh_connection_that_closes_is_not_tried_again(
    upstream: Upstream, stub: SupplierStub, behaviour: Behaviour
) -> None:
    """
    The supplier may have begun to work: another attempt is the gateway's decision.
    """
    stub.set_behaviour(behaviour)
    with pytest.raises(CutAnswerError):
        await upstream.send(request_to(stub.base_url))
    assert stub.stats()["requests"] == 1


@pytest.mark.parametrize(
    "behaviour", [Behaviour(close_before_headers=True), Behaviour(reset_before_headers=True)]
)
async def test_a_dead_pooled_connection_is_replaced_once(
    upstream: Upstream, stub: SupplierStub, behaviour: Behaviour
) -> None:
    """
    A kept-alive connection that dies without a byte is replaced by a fresh one.
    """
    await read_all(upstream, request_to(stub.base_url))
    stub.set_behaviour(behaviour, times=1)
    assert b'"usage"' in await read_all(upstream, request_to(stub.base_url))
    stub.set_behaviour(behaviour)
    with pytest.raises(CutAnswerError):
        await upstream.send(request_to(stub.base_url))


async def test_a_partial_head_on_a_pooled_connection_is_not_tried_again(
    upstream: Upstream,
) -> None:
    """
    Once a byte of the answer came, the supplier has worked.
    """
    async with raw_server(plain(b"{}"), b"HTTP/1.1 200 OK\r\ncontent-le", plain(b"{}")) as url:
        await read_all(upstream, request_to(url))
        with pytest.raises(UpstreamTimeoutError):
            await upstream.send(request_to(url, first_byte_timeout_s=0.1))


@pytest.mark.parametrize("status", [b"301 Moved", b"307 Temporary Redirect", b"304 Not Modified"])
async def test_a_redirect_is_refused(upstream: Upstream, status: bytes) -> None:
    """
    A redirect could lead into a private network with the supplier's key.
    """
    answer = plain(b"", b"location: http://169.254.169.254/", status=status)
    async with raw_server(answer) as url:
        with pytest.raises(RedirectRefusedError):
            await upstream.send(request_to(url))


async def test_a_packed_answer_is_refused(upstream: Upstream) -> None:
    """
    Identity was asked; packed bytes would be metered as text.
    """
    async with raw_server(plain(b"xx", b"content-encoding: gzip")) as url:
        with pytest.raises(BadAnswerError):
            await upstream.send(request_to(url))


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000 + b"\r\n",
    ],
)
async def test_broken_http_is_a_bad_answer(upstream: Upstream, answer: bytes) -> None:
    """
    What is no HTTP, or has a head without bounds, is the supplier's fault.
    """
    async with raw_server(answer, is_closing=True) as url:
        with pytest.raises(BadAnswerError):
            await upstream.send(request_to(url))


async def test_cookies_are_not_kept(upstream: Upstream) -> None:
    """
    One buyer's session with a supplier is never another's.
    """
    async with SupplierStub() as stub, raw_server(plain(b"{}", b"set-cookie: a=b; path=/")) as url:
        await read_all(upstream, request_to(url))
        await read_all(upstream, request_to(stub.base_url))
        assert stub.requests[-1].header("cookie") is None


async def test_the_proxy_of_the_environment_is_ignored(
    upstream: Upstream, stub: SupplierStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Keys and prompts go to the supplier only.
    """
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert b'"usage"' in await read_all(upstream, request_to(stub.base_url))


@pytest.mark.parametrize(
    "answer",
    [
        plain(b"x" * 5_000),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        + (b"3e8\r\n" + b"x" * 1000 + b"\r\n") * 5
        + b"0\r\n\r\n",
    ],
)
async def test_a_body_has_a_limit(upstream: Upstream, answer: bytes) -> None:
    """
    However its length is told, more than the limit is a fault; exactly the limit is not.
    """
    async with raw_server(answer, answer, answer) as url:
        assert len(await read_all(upstream, request_to(url, answer_bytes_max=5_000))) == 5_000
        with pytest.raises(AnswerTooLargeError):
            await read_all(upstream, request_to(url, answer_bytes_max=4_999))
        open_answer = await upstream.send(request_to(url, answer_bytes_max=4_999))
        with pytest.raises(AnswerTooLargeError):
            async for _ in open_answer.chunks():
                pass
        await open_answer.close()


async def test_an_answer_closed_early_drops_its_connection(
    upstream: Upstream, stub: SupplierStub
) -> None:
    """
    What is left of an abandoned answer never becomes part of the next one.
    """
    stub.set_behaviour(Behaviour(chunk_pace_ms=5))
    answer = await upstream.send(request_to(stub.base_url, body=STREAM_BODY))
    async for _ in answer.chunks():
        break
    await answer.close()
    await answer.close()
    stub.set_behaviour(Behaviour())
    assert (await read_all(upstream, request_to(stub.base_url))).startswith(b"{")
    assert stub.stats()["connections_total"] == 2


async def test_a_slow_reader_slows_the_supplier_down(upstream: Upstream) -> None:
    """
    The hub holds a bounded part of an answer nobody reads.
    """
    written = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(1_000):
                writer.write(b"x" * 100_000)
                await writer.drain()
                written += 100_000
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    answer = await upstream.send(
        request_to(f"http://127.0.0.1:{port}", answer_bytes_max=100_000_000)
    )
    await asyncio.sleep(0.3)
    assert written < 50_000_000
    await answer.close()
    server.close()
    await asyncio.sleep(0.05)


async def test_many_calls_at_once_each_get_their_own_answer(
    upstream: Upstream, stub: SupplierStub
) -> None:
    """
    Answers never change places between connections.
    """
    stub.set_behaviour(Behaviour(first_byte_delay_ms=5))
    bodies = await asyncio.gather(
        *(read_all(upstream, request_to(stub.base_url)) for _ in range(64))
    )
    assert len({body[: body.index(b",")] for body in bodies}) == 64


async def test_a_call_that_is_cancelled_leaves_nothing_behind(
    upstream: Upstream, stub: SupplierStub
) -> None:
    """
    The late answer of a cancelled call is not the next call's answer.
    """
    stub.set_behaviour(Behaviour(gate=True), times=1)
    call = asyncio.create_task(upstream.send(request_to(stub.base_url)))
    await stub.wait_until_waiting(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    stub.release()
    await read_all(upstream, request_to(stub.base_url))
    assert stub.stats()["connections_total"] == 2


async def test_an_announcement_is_not_the_answer(upstream: Upstream) -> None:
    """
    100 and 103 come before the head that counts.
    """
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nretry-after: 1\r\n\r\n"
    async with raw_server(early + plain(b"{}")) as url:
        answer = await upstream.send(request_to(url))
        assert (answer.status, answer.headers.get("retry-after")) == (200, None)
        assert await answer.read(10) == b"{}"
        await answer.close()


async def test_bytes_nobody_asked_for_are_nobodys_answer(upstream: Upstream) -> None:
    """
    A connection that sends more than it was asked for is not used again.
    """
    async with raw_server(plain(b"1") + plain(b"late"), plain(b"2"), plain(b"3")) as url:
        assert await read_all(upstream, request_to(url)) == b"1"
        assert await read_all(upstream, request_to(url)) == b"2"
        assert await read_all(upstream, request_to(url)) == b"3"


@pytest.mark.parametrize("headers", [{"x": "1\r\ny: 2"}, {"x": "1\ny: 2"}, {"x: 1\r\ny": "2"}])
async def test_a_header_cannot_break_out_of_its_line(
    upstream: Upstream, stub: SupplierStub, headers: dict[str, str]
) -> None:
    """
    A name or value with a line end is refused before a byte is sent.
    """
    request = UpstreamRequest(
        url=f"{stub.base_url}/models", headers=headers, body=b"", allow_private=True
    )
    with pytest.raises(ConnectFaultError):
        await upstream.send(request)
    assert stub.stats()["requests"] == 0


async def test_models_are_asked_for_without_a_body(upstream: Upstream, stub: SupplierStub) -> None:
    """
    The same way serves the test of a supplier.
    """
    answer = await upstream.send(
        UpstreamRequest(
            url=f"{stub.base_url}/models", headers={}, body=b"", method="GET", allow_private=True
        )
    )
    assert b"stub-model" in await answer.read(10_000)
    await answer.close()


async def test_an_untrusted_certificate_is_a_connect_fault(
    upstream: Upstream, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """
    Nothing of the request is sent to whom the system does not trust.
    """
    async with raw_server(plain(b"{}"), tls=tls[0]) as url:
        with pytest.raises(ConnectFaultError):
            await upstream.send(request_to(url))


async def test_a_trusted_supplier_answers_over_tls(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """
    The relay client speaks https, and keeps those connections too.
    """
    upstream = RelayUpstream(tls=tls[1])
    async with raw_server(plain(b"1"), plain(b"2"), tls=tls[0]) as url:
        assert url.startswith("https://")
        assert await read_all(upstream, request_to(url)) == b"1"
        assert await read_all(upstream, request_to(url)) == b"2"
        await upstream.close()


async def test_idle_connections_make_room_and_busy_ones_do_not(stub: SupplierStub) -> None:
    """
    The bound on connections holds; what cannot be served is refused at once.
    """
    upstream = RelayUpstream(connections_max=1)
    async with raw_server(plain(b"{}")) as url:
        await read_all(upstream, request_to(url))
        stub.set_behaviour(Behaviour(gate=True))
        busy = asyncio.create_task(read_all(upstream, request_to(stub.base_url)))
        await stub.wait_until_waiting(1)
        with pytest.raises(ConnectFaultError, match="too many connections"):
            await upstream.send(request_to(url))
        stub.release()
        assert b'"usage"' in await busy
    await upstream.close()


Outcome = tuple[int, bytes] | str


async def outcome_of(upstream: Upstream, url: str) -> Outcome:
    """
    Return status and body, or that there was a fault.
    """
    try:
        answer = await upstream.send(request_to(url))
        try:
            return answer.status, b"".join([piece async for piece in answer.chunks()])
        finally:
            await answer.close()
    except SupplierFaultError:
        return "fault"
    finally:
        await upstream.close()


@st.composite
def http_answers(draw: st.DrawFn) -> bytes:
    """
    Return an answer with a body framed in any way, maybe cut.
    """
    body = draw(st.binary(max_size=300))
    status = draw(st.sampled_from([b"200 OK", b"404 Not Found", b"500", b"204 No Content"]))
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    head = b"HTTP/1.1 " + status + b"\r\nContent-Type: x\r\n"
    if status.startswith(b"204"):
        return head + b"\r\n"
    if framing == "length":
        answer = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    elif framing == "chunked":
        size = draw(st.integers(1, 100))
        parts = [body[i : i + size] for i in range(0, len(body), size)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        answer = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    else:
        answer = head + b"Connection: close\r\n\r\n" + body
    return answer[: draw(st.integers(0, len(answer)) | st.just(len(answer)))]


async def outcomes_of(answer: bytes, places: list[int]) -> list[Outcome]:
    """
    Return what each client makes of the same bytes, cut at the same places.
    """
    ends = [*sorted(place for place in places if place < len(answer)), len(answer)]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(BODY))
        start = 0
        for end in ends:
            writer.write(answer[start:end])
            await writer.drain()
            await asyncio.sleep(0)
            start = end
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        return [await outcome_of(make(), url) for make in UPSTREAMS.values()]
    finally:
        server.close()


@settings(max_examples=150, deadline=None)
@given(http_answers(), st.lists(st.integers(0, 400), max_size=5))
def test_both_clients_read_the_same_answer(answer: bytes, places: list[int]) -> None:
    """
    Whole answers have the same bytes, cut ones are faults, however they are framed.
    """
    first, *others = asyncio.run(outcomes_of(answer, places))
    assert others == [first] * len(others)


@settings(max_examples=150, deadline=None)
@given(http_answers(), st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_broken_bytes_end_in_an_answer_or_a_fault(answer: bytes, place: int, noise: bytes) -> None:
    """
    Nothing a supplier sends makes a client hang or raise anything but a fault.
    """
    broken = answer[:place] + noise + answer[place:]
    for outcome in asyncio.run(outcomes_of(broken, [])):
        assert outcome == "fault" or isinstance(outcome, tuple)


async def test_every_fault_hides_the_secret(upstream: Upstream, stub: SupplierStub) -> None:
    """
    Neither the error nor the request shows the supplier's key.
    """
    await stub.refuse_connections()
    request = request_to(stub.base_url)
    with pytest.raises(SupplierFaultError) as caught:
        await upstream.send(request)
    assert "secret" not in str(caught.value) + repr(request)


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_private_addresses_are_known_in_every_spelling(address: str, *, is_public: bool) -> None:
    """
    Loopback, private, link-local, shared, multicast, and IPv4 wrapped in IPv6.
    """
    assert is_public_address(address) is is_public
