"""The listener over real sockets: one port for both, limits, admission, TLS, drain."""

import asyncio
import datetime
import errno
import logging
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route as HTTPRoute
from tests.conformance.websocket_peer import (
    CLOSE,
    LOOPS,
    TEXT,
    Frame,
    Recorder,
    close,
    frame,
    request,
    run,
    serving,
)

from duolink.server.asgi import ASGIServer
from duolink.server.handshake import OriginPolicy, Refused
from duolink.server.listener import Listener, Route
from duolink.server.options import ListenerOptions

BOTH_LOOPS = pytest.mark.parametrize("loop", LOOPS)


async def answer(http: Request) -> PlainTextResponse:
    body = await http.body()
    return PlainTextResponse(f"{http.method} {http.url.path} {http.url.scheme} {len(body)}")


async def stuck(http: Request) -> PlainTextResponse:
    http.scope["reached"].set()
    await asyncio.Event().wait()
    raise AssertionError


def app() -> Any:
    return Starlette(routes=[HTTPRoute("/page", answer, methods=["GET", "POST"])])


def get(path: str, method: str = "GET", extra: str = "", body: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{extra}\r\n{body}".encode()


@BOTH_LOOPS
def test_http_on_the_same_port(loop):
    async def test():
        http = ASGIServer(app())
        async with serving(http=http) as endpoint:
            peer = await endpoint.connect()
            peer.send(get("/page"))
            response = await peer.response()
            assert (response.status, response.body) == (200, b"GET /page http 0")
            assert response.headers["date"].endswith("GMT") and "server" not in response.headers
            # Kept alive, and a body that comes later than its head.
            peer.send(get("/page", "POST", "Content-Length: 5\r\n", "he"))
            await peer.trickle(b"llo")
            assert (await peer.response()).body == b"POST /page http 5"
            peer.send(get("/page", "HEAD"))
            response = await peer.response(head_only=True)
            assert response.status == 200 and response.headers["content-length"] == "17"
            peer.send(get("/nowhere"))
            assert (await peer.response()).status == 404
            assert http.connections == endpoint.listener.connections == 1
            websocket = await endpoint.connect("/echo")
            websocket.send(frame(TEXT, b"hello"))
            assert await websocket.frame() == Frame(TEXT, b"hello")

    run(test, loop)


def test_http_body_in_the_segment_of_its_head():
    async def test():
        async with serving(http=ASGIServer(app())) as endpoint:
            peer = await endpoint.connect()
            chunked = get("/page", "POST", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")
            peer.send(chunked + get("/page"))  # and a pipelined request
            assert (await peer.response()).body == b"POST /page http 5"
            assert (await peer.response()).body == b"GET /page http 0"

    run(test)


def test_http_10():
    async def test():
        async with serving(http=ASGIServer(app())) as endpoint:
            peer = await endpoint.connect()
            peer.send(b"GET /page HTTP/1.0\r\n\r\n")
            assert (await peer.ended()).endswith(b"GET /page http 0")

    run(test)


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /page HTTP/1.1\r\nX: ",
        get("/page", "POST", "Content-Length: 5\r\n", "he"),
        get("/page", "POST", "Transfer-Encoding: chunked\r\n", "5\r\nhe"),
    ],
    ids=["head", "body", "chunked"],
)
def test_a_later_request_that_does_not_go_on_ends_the_connection(begun):
    """The first head has a deadline of the listener's; uvicorn has none for those after it."""

    async def test():
        ended: list[bool] = []
        http = ASGIServer(app(), head_timeout=0.05, body_timeout=0.05)
        async with serving(http=http, enter=lambda address, headers: lambda: ended.append(True)) as endpoint:
            peer = await endpoint.connect()
            peer.send(get("/page"))
            await peer.response()
            peer.send(begun)
            assert await peer.ended() == b""
            assert http.connections == 0 and ended == [True]

    run(test)


def test_a_body_that_goes_on_has_all_the_time_it_needs():
    async def test():
        async with serving(http=ASGIServer(app(), body_timeout=2.0)) as endpoint:
            peer = await endpoint.connect()
            peer.send(get("/page", "POST", "Content-Length: 6\r\n"))
            for _ in range(6):
                await asyncio.sleep(0.5)
                peer.send(b"x")
            assert (await peer.response()).body == b"POST /page http 6"

    run(test)


def test_a_client_that_does_not_read_its_answer_is_cut_off():
    async def huge(request: Request) -> Response:
        return Response(bytes(32 << 20))

    async def test():
        application: Any = Starlette(routes=[HTTPRoute("/", huge)])
        http = ASGIServer(application, body_timeout=0.05)
        ended = asyncio.Event()
        async with serving(http=http, enter=lambda address, headers: ended.set) as endpoint:
            peer = await endpoint.connect()
            peer.send(get("/"))
            await ended.wait()
            assert http.connections == 0

    run(test)


def test_an_upgrade_after_http_is_refused():
    async def test():
        async with serving(http=ASGIServer(app())) as endpoint:
            peer = await endpoint.connect()
            peer.send(get("/page"))
            await peer.response()
            peer.send(request("/echo"))
            response = await peer.response()
            assert (response.status, response.headers["connection"]) == (426, "close")
            assert await peer.ended() == b""

    run(test)


def test_without_an_application_http_is_not_found():
    async def test():
        async with serving() as endpoint:
            peer = await endpoint.connect()
            peer.send(get("/page"))
            assert (await peer.response()).status == 404
            assert endpoint.counts["handshake_refused", "no_http"] == 1

    run(test)


def test_malformed_http_is_refused_without_a_log(caplog):
    async def test():
        async with serving(http=ASGIServer(app())) as endpoint:
            peer = await endpoint.connect()
            peer.send(b"GET /page HTTP/1.1\r\n\r\n")  # no Host: uvicorn's to refuse
            assert (await peer.response()).status == 400

    with caplog.at_level(logging.INFO):
        run(test)
    assert not [record for record in caplog.records if record.name != "asyncio"]


def test_closing_cuts_off_requests_that_do_not_end():
    async def test():
        reached = asyncio.Event()
        routes = [HTTPRoute("/stuck", stuck)]

        async def with_event(scope, receive, send):
            scope["reached"] = reached
            await Starlette(routes=routes)(scope, receive, send)

        async with serving(ListenerOptions(close_timeout=0.05), http=ASGIServer(with_event)) as endpoint:
            peer = await endpoint.connect()
            peer.send(get("/stuck"))
            await asyncio.wait_for(reached.wait(), 5)
            await endpoint.listener.close()
            assert endpoint.listener.connections == 0

    run(test)


@BOTH_LOOPS
def test_stop_accepting_keeps_what_exists(loop):
    async def test():
        async with serving() as endpoint:
            peer = await endpoint.connect("/echo")
            endpoint.listener.stop_accepting()
            endpoint.listener.stop_accepting()
            with pytest.raises(OSError):
                await endpoint.connect()
            peer.send(frame(TEXT, b"still here"))
            assert await peer.frame() == Frame(TEXT, b"still here")

    run(test, loop)


@BOTH_LOOPS
def test_close_ends_everything(loop):
    async def test():
        async with serving(http=ASGIServer(app())) as endpoint:
            polite, user = await endpoint.record()
            silent = await endpoint.connect("/echo")
            half = await endpoint.connect()
            half.send(b"GET ")
            idle = await endpoint.connect()
            page = await endpoint.connect()
            page.send(get("/page"))
            await page.response()
            refused = await endpoint.connect()
            refused.send(b"bad\r\n\r\n")
            await refused.response()
            assert endpoint.listener.wires == 2
            closing = asyncio.create_task(endpoint.listener.close(1012, "restart"))
            assert await polite.frame() == Frame(CLOSE, (1012).to_bytes(2) + b"restart")
            polite.send(close(1012))
            assert await polite.frame() is None
            await polite.aclose()
            await silent.aclose()
            await asyncio.wait_for(asyncio.gather(closing, endpoint.listener.wait_empty()), 5)
            assert await user.until_closed() == (1012, "restart")
            assert await idle.ended() == await page.ended() == b""
            assert endpoint.listener.connections == 0

    run(test, loop)


def test_admission():
    async def test():
        asked = []

        def admit(address):
            asked.append(address)
            return 1.5 if len(asked) == 1 else None

        async with serving(admit=admit) as endpoint:
            peer = await endpoint.connect()
            peer.send(request())
            response = await peer.response()
            assert (response.status, response.headers["retry-after"]) == (503, "2")
            await endpoint.connect("/echo")
            assert asked == ["127.0.0.1", "127.0.0.1"]
            assert endpoint.counts["handshake_refused", "admission"] == 1

    run(test)


def test_more_connections_than_allowed_are_turned_away():
    async def test():
        async with serving(ListenerOptions(max_connections=2, close_timeout=1)) as endpoint:
            first = await endpoint.connect("/echo")
            await endpoint.connect("/echo")
            peer = await endpoint.connect()
            assert (await peer.response()).status == 503
            assert endpoint.counts["connection_refused", "max_connections"] == 1
            first.send(close(1000))
            await first.frames()
            await first.aclose()
            while endpoint.listener.wires == 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
            await endpoint.connect("/echo")

    run(test)


def test_more_handshakes_than_allowed_are_turned_away():
    async def test():
        async with serving(ListenerOptions(max_handshakes=2, close_timeout=1)) as endpoint:
            slow = [await endpoint.connect() for _ in range(2)]
            peer = await endpoint.connect()
            assert (await peer.response()).status == 503
            assert endpoint.counts["connection_refused", "max_handshakes"] == 1
            assert endpoint.listener.handshakes == 2
            await slow[0].open()  # what is admitted can finish
            await endpoint.connect("/echo")

    run(test)


def test_a_head_may_not_take_for_ever_byte_by_byte():
    """The deadline is one for the whole head: progress does not extend it."""

    async def test():
        async with serving(ListenerOptions(handshake_timeout=0.1, close_timeout=1)) as endpoint:
            peer = await endpoint.connect()

            async def drip():
                peer.send(b"GET /echo HTTP/1.1\r\n")
                for number in range(1_000_000):
                    peer.send(b"X-%d: y\r\n" % number if number < 50 else b"")
                    await asyncio.sleep(0.005)

            dripping = asyncio.create_task(drip())
            assert (await peer.response()).status == 408
            dripping.cancel()
            assert endpoint.counts["handshake_refused", "request_timeout"] == 1

    run(test)


def test_a_factory_refuses(caplog):
    def refuse(wire, upgrade):
        if upgrade.query == "bug":
            raise ZeroDivisionError
        raise Refused(409, "both seats are taken", label="room_full")

    async def test():
        async with serving(routes={"/room": Route(refuse)}) as endpoint:
            peer = await endpoint.connect()
            peer.send(request("/room"))
            response = await peer.response()
            assert (response.status, response.body) == (409, b"both seats are taken\n")
            assert endpoint.counts["handshake_refused", "room_full"] == 1
            peer = await endpoint.connect()
            peer.send(request("/room?bug"))
            response = await peer.response()
            assert (response.status, response.body) == (500, b"internal error\n")

    run(test)
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


def test_a_wire_cannot_be_used_before_it_is_open(caplog):
    class Early(Recorder):
        def __init__(self, wire, upgrade):
            super().__init__(wire, upgrade)
            for use in (lambda: wire.write(b"x"), wire.ping, lambda: wire.close(1000)):
                with pytest.raises(RuntimeError):
                    use()
            assert wire.buffered() == 0

    async def test():
        async with serving(routes={"/early": Route(Early)}) as endpoint:
            await endpoint.connect("/early")

    run(test)


def test_development_origins():
    async def test():
        async with serving(origins=OriginPolicy(development=True)) as endpoint:
            peer = await endpoint.connect()
            peer.send(request(add={"Origin": "http://localhost:5173"}))
            assert (await peer.response()).status == 101

    run(test)


def test_out_of_descriptors(caplog):
    """Accepting rests, says so once, and goes on."""

    async def test():
        async with serving() as endpoint:
            listener = endpoint.listener
            (listening,) = listener._acceptor._sockets

            class Exhausted:
                def accept(self):
                    raise OSError(errno.EMFILE, "Too many open files")

                def fileno(self):
                    return listening.fileno()

            exhausted: Any = Exhausted()
            listener._acceptor._accept(exhausted)
            rest = listener._acceptor._resting.pop(exhausted)
            rest.cancel()
            listener._acceptor._resting[listening] = rest
            listener._acceptor._accept_again(listening)
            await endpoint.connect("/echo")

    run(test)
    assert [record.getMessage() for record in caplog.records] == [
        "cannot accept connections: Too many open files"
    ]


def test_both_families_share_the_port():
    async def test():
        if not socket.has_ipv6:
            pytest.skip("no IPv6")
        async with serving(host="localhost") as endpoint:
            assert len({sock.getsockname()[1] for sock in endpoint.listener._acceptor._sockets}) == 1

    run(test)


def test_a_port_in_use_is_an_error():
    async def test():
        async with serving() as endpoint:
            with pytest.raises(OSError):
                await Listener({}, port=endpoint.port).start()

    run(test)


def test_no_descriptor_leaks():
    async def test():
        def descriptors():
            return len(list(Path("/proc/self/fd").iterdir()))

        async with serving(http=ASGIServer(app())) as endpoint:
            counts = []
            for _ in range(3):  # the first time, the loop may open something of its own
                for data in (request(), get("/page"), b"bad\r\n\r\n", b"GET ", b"", request() + frame(3)):
                    peer = await endpoint.connect()
                    peer.send(data)
                    peer.writer.write_eof()
                    await peer.ended()
                    await peer.aclose()
                await endpoint.quiet()
                counts.append(descriptors())
            assert counts[1] == counts[2]

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs procfs")
    run(test)


def test_idle_connections_own_no_timer():
    async def test():
        async with serving() as endpoint:
            await endpoint.connect("/echo")
            assert endpoint.listener.handshakes == 0
            loop = asyncio.get_running_loop()
            pending = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
            assert len(pending) == 1  # this test's own

    run(test, "asyncio")


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_message": 0},
        {"read_buffer": 1024},
        {"write_high": 10, "write_low": 20},
        {"close_timeout": 0.0},
        {"handshake_timeout": float("nan")},
        {"max_fragments": 0},
    ],
)
def test_options_that_contradict_themselves(wrong):
    with pytest.raises(ValueError):
        ListenerOptions(**wrong)


# TLS.


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    """A server's and a client's context for `localhost`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path_factory.mktemp("tls") / "localhost.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=str(pem))


@BOTH_LOOPS
def test_tls(contexts, loop):
    server, client = contexts

    async def test():
        options = ListenerOptions(close_timeout=3600)
        async with serving(options, tls=server, client_tls=client, http=ASGIServer(app())) as endpoint:
            peer = await endpoint.connect()
            peer.send(request("/record", add={"Origin": "https://example.com"}) + frame(TEXT, b"early"))
            assert (await peer.response()).status == 101
            user = endpoint.users[0]
            assert user.wire.secure
            await user.until((b"early", False))
            user.wire.write(user.wire.frame(b"x" * 200_000))
            assert await peer.frame() == Frame(TEXT, b"x" * 200_000)
            peer.send(frame(TEXT, b"y" * 300_000))
            await user.until((b"y" * 300_000, False))
            peer.send(close(1000, b"bye"))
            assert await peer.frame() == Frame(CLOSE, b"\x03\xe8")
            assert await peer.frame() is None
            assert await user.until_closed() == (1000, "bye")

            page = await endpoint.connect()
            page.send(get("/page"))
            assert (await page.response()).body == b"GET /page https 0"

            plain_origin = await endpoint.connect()
            plain_origin.send(request(add={"Origin": "http://example.com"}))
            assert (await plain_origin.response()).status == 403

            bad = await endpoint.connect("/echo")
            bad.send(frame(3))
            found = await bad.frame()
            assert found is not None and found.payload[:2] == (1002).to_bytes(2)
            for peer in (page, plain_origin, bad):
                await peer.aclose()
            await endpoint.quiet()  # by the end of both sides, not by the close deadline

    run(test, loop)


@BOTH_LOOPS
def test_failed_tls_handshakes_are_counted_and_not_reported(contexts, loop):
    server, _ = contexts

    async def test():
        options = ListenerOptions(handshake_timeout=0.1, close_timeout=1)
        async with serving(options, tls=server) as endpoint:
            for data, end in (
                (b"GET / HTTP/1.1\r\n\r\n", False),
                (b"", True),
                (b"\x16\x03", True),
                (b"\x16", False),
            ):
                peer = await endpoint.connect()
                peer.send(data)
                if end:
                    peer.writer.write_eof()
                await peer.reader.read()
            await endpoint.quiet()
            assert endpoint.counts["connection_refused", "tls"] == 4

    run(test, loop)


@BOTH_LOOPS
def test_close_amid_tls_handshakes(contexts, loop):
    server, _ = contexts

    async def test():
        async with serving(tls=server) as endpoint:
            peer = await endpoint.connect()
            peer.send(b"\x16\x03")
            while not endpoint.listener.handshakes:  # noqa: ASYNC110
                await asyncio.sleep(0)
            await asyncio.wait_for(endpoint.listener.close(), 5)
            assert endpoint.listener.connections == 0

    run(test, loop)
