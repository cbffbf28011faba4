"""The opening handshake (RFC 6455 section 4): every request with the answer it must get."""

import asyncio
import base64

import pytest
from tests.conformance.websocket_peer import (
    ACCEPT,
    KEY,
    LOOPS,
    TEXT,
    Frame,
    frame,
    request,
    run,
    serving,
)

from duolink.server.handshake import Headers, HeadReader, OriginPolicy, Refused, Request, Upgrade, judge
from duolink.server.options import ListenerOptions

LONG = "x" * 8192
ACCEPTED = {
    "plain": request(),
    "firefox": request(connection="keep-alive, Upgrade"),
    "connection case": request(connection="UPGRADE"),
    "connection list without spaces": request(connection="keep-alive,upgrade,close"),
    "connection in two fields": request(connection="keep-alive", add={"connection": "Upgrade"}),
    "empty members of the list": request(connection=", ,Upgrade,"),
    "upgrade case": request(upgrade="WebSocket"),
    "upgrade list": request(upgrade="h2c, websocket"),
    "upgrade with a version": request(upgrade="websocket/13"),
    "field name case": request().replace(b"Sec-WebSocket-Key", b"SEC-websocket-KEY"),
    "no space after the colon": request().replace(b": ", b":"),
    "white space around values": request().replace(b": websocket", b":  \t websocket \t"),
    "an empty line first": b"\r\n" + request(),
    "query": request("/echo?token=none&x=%20"),
    "absolute target": request("http://example.com/echo"),
    "absolute target with query": request("http://example.com:80/echo?a=b"),
    "host with port": request(host="example.com:8080"),
    "host IPv6": request(host="[::1]:8080"),
    "content-length 0": request(add={"Content-Length": "0"}),
    "extensions are ignored": request(add={"Sec-WebSocket-Extensions": "permessage-deflate"}),
    "unknown subprotocol": request(add={"Sec-WebSocket-Protocol": "chat, superchat"}),
    "8 KiB of cookies": request(add={"Cookie": LONG}),
    "bytes above ASCII in a value": request(add={"X-Name": "caf\u00e9"}),
    "own origin": request(add={"Origin": "http://example.com"}),
    "own origin with its default port": request(host="example.com:80", add={"Origin": "http://example.com"}),
    "own origin, other case of the host": request(host="Example.COM", add={"Origin": "http://example.com"}),
    "no origin": request(),
}  # fmt: skip
REFUSED = {
    "POST": (400, request(line="POST /echo HTTP/1.1")),
    "HEAD": (400, request(line="HEAD /echo HTTP/1.1")),
    "get in lower case": (400, request(line="get /echo HTTP/1.1")),
    "HTTP/1.0": (400, request(line="GET /echo HTTP/1.0")),
    "HTTP/2.0": (505, request(line="GET /echo HTTP/2.0")),
    "HTTP/1.2": (505, request(line="GET /echo HTTP/1.2")),
    "no version": (400, request(line="GET /echo")),
    "two spaces": (400, request(line="GET  /echo HTTP/1.1")),
    "space in the target": (400, request(line="GET /e cho HTTP/1.1")),
    "target not ASCII": (400, request(line="GET /\u00e9 HTTP/1.1")),
    "no target": (400, request(line="GET HTTP/1.1")),
    "target without slash": (400, request(line="GET echo HTTP/1.1")),
    "target *": (400, request(line="GET * HTTP/1.1")),
    "fragment in the target": (400, request("/echo#top")),
    "not HTTP at all": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "no host": (400, request(drop="Host")),
    "two hosts": (400, request(add={"Host+": "example.com"})),
    "empty host": (400, request(host="")),
    "host with a path": (400, request(host="example.com/evil")),
    "host with user": (400, request(host="me@example.com")),
    "no key": (400, request(drop="Sec-WebSocket-Key")),
    "two keys": (400, request(add={"Sec-WebSocket-Key+": KEY})),
    "empty key": (400, request(sec_websocket_key="")),
    "key of 15 bytes": (400, request(sec_websocket_key=base64.b64encode(b"x" * 15).decode())),
    "key of 18 bytes": (400, request(sec_websocket_key=base64.b64encode(b"x" * 18).decode())),
    "key without padding": (400, request(sec_websocket_key=KEY.rstrip("="))),
    "key not base64": (400, request(sec_websocket_key="!" * 22 + "==")),
    "key not ASCII": (400, request(sec_websocket_key="\u00e9" * 22 + "==")),
    "no version field": (426, request(drop="Sec-WebSocket-Version")),
    "version 8": (426, request(sec_websocket_version="8")),
    "version 14": (426, request(sec_websocket_version="14")),
    "version list": (426, request(sec_websocket_version="13, 8")),
    "two versions": (400, request(add={"Sec-WebSocket-Version+": "13"})),
    "upgrade without connection": (400, request(drop="Connection")),
    "connection: close": (400, request(connection="close")),
    "connection: upgraded": (400, request(connection="upgraded")),
    "body": (400, request(add={"Content-Length": "5"}) + b"hello"),
    "content-length not a number": (400, request(add={"Content-Length": "zero"})),
    "chunked": (400, request(add={"Transfer-Encoding": "chunked"})),
    "bare LF": (400, request().replace(b"\r\n", b"\n")),
    "one bare LF": (400, request().replace(b"\r\nUpgrade", b"\nUpgrade")),
    "lone CR in a value": (400, request(add={"X": "a\rb"})),
    "NUL in a value": (400, request(add={"X": "a\0b"})),
    "folded line": (400, request(add={"X": "a\r\n b"})),
    "folded first line": (400, request().replace(b"Host", b" Host", 1)),
    "space before the colon": (400, request().replace(b"Host:", b"Host :")),
    "no colon": (400, request(add={"X": "a\r\nnonsense"})),
    "empty name": (400, request(add={"": "a"})),
    "bad name": (400, request(add={"X(1)": "a"})),
    "17 KiB": (431, request(add={"Cookie": LONG, "Cookie+": LONG, "X": "y" * 1024})),
    "64 KiB": (431, request(add={"Cookie": "x" * 65_536})),
    "head without end": (431, b"GET /echo HTTP/1.1\r\nX: " + b"x" * 20_000),
    "request line without end": (431, b"GET /" + b"x" * 20_000),
    "200 fields": (431, request(add={f"X-{number}": "y" for number in range(200)})),
    "unknown path": (404, request("/nowhere")),
    "path in other case": (404, request("/Echo")),
    "path with a slash more": (404, request("/echo/")),
    "path escaped": (404, request("/%65cho")),
    "foreign origin": (403, request(add={"Origin": "http://evil.example"})),
    "own name in a longer one": (403, request(add={"Origin": "http://example.com.evil.example"})),
    "own origin on another port": (403, request(add={"Origin": "http://example.com:8080"})),
    "own origin on TLS": (403, request(add={"Origin": "https://example.com"})),
    "null origin": (403, request(add={"Origin": "null"})),
    "empty origin": (403, request(add={"Origin": ""})),
    "two origins": (403, request(add={"Origin": "http://example.com", "Origin+": "http://example.com"})),
    "origin with a path": (403, request(add={"Origin": "http://example.com/"})),
    "loopback origin": (403, request(add={"Origin": "http://localhost:3000"})),
    "subprotocol no token": (400, request(add={"Sec-WebSocket-Protocol": "a b"})),
}  # fmt: skip


@pytest.mark.parametrize("pieces", ["whole", "byte by byte"])
@pytest.mark.parametrize("name", ACCEPTED)
def test_accepts(name, pieces):
    async def test():
        async with serving() as endpoint:
            peer = await endpoint.connect()
            if pieces == "whole":
                peer.send(ACCEPTED[name])
            else:
                await peer.trickle(ACCEPTED[name])
            response = await peer.response()
            assert response.status == 101
            assert response.headers == {
                "upgrade": "websocket",
                "connection": "Upgrade",
                "sec-websocket-accept": ACCEPT,
            }
            peer.send(frame(TEXT, b"hello"))
            assert await peer.frame() == Frame(TEXT, b"hello")
            assert endpoint.counts["handshake_accepted", "/echo"] == 1

    run(test)


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name):
    status, data = REFUSED[name]

    async def test():
        async with serving() as endpoint:
            peer = await endpoint.connect()
            peer.send(data)
            response = await peer.response()
            assert response.status == status
            assert "close" in response.headers["connection"]
            assert response.headers["content-type"].startswith("text/plain") and response.body
            if status == 426:
                assert response.headers["sec-websocket-version"] == "13"
                assert response.headers["upgrade"] == "websocket"
            assert await peer.ended() == b""
            await peer.aclose()
            await endpoint.quiet()
            assert sum(n for (event, _), n in endpoint.counts.items() if event == "handshake_refused") == 1

    run(test)


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_byte_by_byte(name):
    """The same verdict, however the head is cut; without sockets, so every cut really happens."""
    status, data = REFUSED[name]

    def verdict():
        reader = HeadReader(16_384)
        for index in range(len(data)):
            if (found := reader.feed(data[index : index + 1])) is not None:
                return judge(found[0], {"/echo": ()}, OriginPolicy(), False)

    with pytest.raises(Refused) as refusal:
        verdict()
    assert refusal.value.status == status


@pytest.mark.parametrize("loop", LOOPS)
def test_pipelined_first_frame_is_not_lost(loop):
    async def test():
        async with serving() as endpoint:
            peer = await endpoint.connect()
            # More than the parser's first buffer, and the last frame in two reads.
            texts = [b"%04d" % number * 100 for number in range(20)]
            last = frame(TEXT, b"the end")
            peer.send(request() + b"".join(frame(TEXT, text) for text in texts) + last[:5])
            assert (await peer.response()).status == 101
            for text in texts:
                assert await peer.frame() == Frame(TEXT, text)
            peer.send(last[5:])
            assert await peer.frame() == Frame(TEXT, b"the end")

    run(test, loop)


def test_what_the_factory_learns():
    async def test():
        async with serving() as endpoint:
            peer = await endpoint.connect()
            offers = {"Sec-WebSocket-Protocol": "chat, other", "Sec-WebSocket-Protocol+": "duolink"}
            peer.send(request("/record?room=a%20b&x", add=offers))
            response = await peer.response()
            assert response.headers["sec-websocket-protocol"] == "other"  # the client's order decides
            user = endpoint.users[0]
            assert (user.upgrade.path, user.upgrade.query) == ("/record", "room=a%20b&x")
            assert user.upgrade.subprotocol == "other"
            assert user.upgrade.headers.get("host") == "example.com"
            assert user.upgrade.headers.get("cookie") is None
            assert (user.wire.kind, user.wire.peer_address, user.wire.secure) == (
                "websocket",
                "127.0.0.1",
                False,
            )

    run(test)


POLICY = OriginPolicy(frozenset({"https://app.example", "vscode-file://vscode-app"}))
DEVELOPMENT = OriginPolicy(development=True)


@pytest.mark.parametrize(
    ("proxied", "forwarded", "allowed"),
    [
        (True, {"X-Forwarded-Proto": "https"}, True),
        (True, {"X-Forwarded-Proto": "http, HTTPS"}, True),
        (True, {"X-Forwarded-Proto": "https, http"}, False),
        (True, {}, False),
        (False, {"X-Forwarded-Proto": "https"}, False),  # anybody can write that
    ],
)
def test_behind_a_proxy_with_tls_its_page_is_of_our_origin(proxied, forwarded, allowed):
    head = request(add={"Origin": "https://example.com", **forwarded})
    if allowed:
        asked = judge(head, {"/echo": ()}, OriginPolicy(), False, proxied)
        assert isinstance(asked, Upgrade) and asked.secure
    else:
        with pytest.raises(Refused) as refused:
            judge(head, {"/echo": ()}, OriginPolicy(), False, proxied)
        assert refused.value.status == 403


@pytest.mark.parametrize(
    ("policy", "origin", "host", "secure", "allowed"),
    [
        (POLICY, "https://app.example", "api.example", True, True),
        (POLICY, "https://app.example", "api.example", False, True),
        (POLICY, "vscode-file://vscode-app", "api.example", True, True),
        (POLICY, "https://APP.example", "api.example", True, False),
        (POLICY, "https://app.example:443", "api.example", True, False),
        (POLICY, "http://app.example", "api.example", True, False),
        (POLICY, "https://api.example", "api.example", True, True),
        (POLICY, "https://api.example", "api.example:443", True, True),
        (POLICY, "https://api.example:8443", "api.example:8443", True, True),
        (POLICY, "https://api.example", "api.example:8443", True, False),
        (POLICY, "http://api.example", "api.example", True, False),
        (POLICY, "https://[2001:db8::1]:8443", "[2001:DB8::1]:8443", True, True),
        (POLICY, "https://sub.api.example", "api.example", True, False),
        (POLICY, "ws://api.example", "api.example", False, False),
        (POLICY, "null", "api.example", True, False),
        (POLICY, "http://localhost", "api.example", True, False),
        (DEVELOPMENT, "null", "api.example", False, True),
        (DEVELOPMENT, "http://localhost", "api.example", False, True),
        (DEVELOPMENT, "https://LOCALHOST:5173", "api.example", False, True),
        (DEVELOPMENT, "http://127.0.0.1:5173", "api.example", False, True),
        (DEVELOPMENT, "http://127.1.2.3", "api.example", False, True),
        (DEVELOPMENT, "http://[::1]:5173", "api.example", False, True),
        (DEVELOPMENT, "http://128.0.0.1", "api.example", False, False),
        (DEVELOPMENT, "http://localhost.evil.example", "api.example", False, False),
        (DEVELOPMENT, "http://127.0.0.1.evil.example", "api.example", False, False),
        (DEVELOPMENT, "ftp://localhost", "api.example", False, False),
        (DEVELOPMENT, "https://app.example", "api.example", False, False),
        (DEVELOPMENT, "http://app.localhost:8080", "app.localhost:8080", False, True),
        # A name of a stranger's that was rebound to 127.0.0.1: of one origin with the server.
        (DEVELOPMENT, "http://evil.example:8080", "evil.example:8080", False, False),
        (DEVELOPMENT, "http://127.0.0.1.evil.example:8080", "127.0.0.1.evil.example:8080", False, False),
    ],
)
def test_origin_policy(policy, origin, host, secure, allowed):
    assert policy.allows(origin, host, secure) is allowed


def test_plain_http_is_handed_on():
    head = b"GET /health?full HTTP/1.0\r\nAccept: a\r\nAccept: b, c\r\n\r\n"
    asked = judge(head, {"/echo": ()}, OriginPolicy(), False)
    assert isinstance(asked, Request)
    assert (asked.method, asked.target, asked.version) == ("GET", "/health?full", "1.0")
    assert asked.headers.all("accept") == ["a", "b, c"]
    assert asked.headers.items("accept") == ["a", "b", "c"]


@pytest.mark.parametrize("upgrade", ["h2c", "TLS/1.0", "websockets"])
def test_other_upgrades_are_plain_http(upgrade):
    assert isinstance(judge(request(upgrade=upgrade), {"/echo": ()}, OriginPolicy(), False), Request)


def test_response_names_the_subprotocol():
    upgrade = Upgrade("/", "", Headers([]), "duolink", KEY)
    assert b"\r\nSec-WebSocket-Protocol: duolink\r\n\r\n" in upgrade.response()


def test_a_head_costs_linear_time():
    """A long run of white space must not make the parser look at it again and again."""
    head = request(add={"X": "a" + " " * 16_000 + "b"})[:-4]
    reader = HeadReader(16_384)
    for index in range(len(head)):
        assert reader.feed(head[index : index + 1]) is None
    found = reader.feed(b"\r\n\r\nrest")
    assert found is not None and found[1] == b"rest"
    assert isinstance(judge(found[0], {"/echo": ()}, OriginPolicy(), False), Upgrade)


def test_endless_empty_lines_are_no_request():
    reader = HeadReader(100)
    assert reader.feed(b"\r") is None
    assert reader.feed(b"\n") is None
    assert not reader.started
    with pytest.raises(Refused):
        reader.feed(b"\r\n\r\n")


def test_slow_head_is_refused():
    async def test():
        async with serving(ListenerOptions(handshake_timeout=0.05, close_timeout=1.0)) as endpoint:
            peer = await endpoint.connect()
            peer.send(b"GET /echo HTTP/1.1\r\nHost: ")
            response = await peer.response()
            assert response.status == 408
            assert await peer.ended() == b""

    run(test)


def test_silent_connection_is_dropped():
    async def test():
        async with serving(ListenerOptions(handshake_timeout=0.05)) as endpoint:
            peer = await endpoint.connect()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await peer.response()
            await endpoint.quiet()
            assert endpoint.counts["handshake_refused", "silent"] == 1

    run(test)
