"""The composition root over real sockets: every part is there, wired to the settings it should obey."""

import asyncio
import datetime
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from duolink.server.app import App, Driver, raise_descriptor_limit
from duolink.server.auth import sign
from duolink.server.config import Auth, Config, ConfigError, Key, Links, Listen, Session, Wire
from duolink.server.node import Node
from duolink.server.timers import Timers

SECRET = "an HS256 secret of 32 bytes, or more"
AUTH = Auth(keys=[Key(algorithm="HS256", key=SECRET)])


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main, 15)

    asyncio.run(bounded())


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[App]:
    app = App(config)
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


def listen(**more: Any) -> Listen:
    return Listen(port=0, **more)


def open_socket(app: App, path: str = "/ws", **options: Any) -> connect:
    return connect(f"ws://127.0.0.1:{app.port}{path}", compression=None, ping_interval=None, **options)


async def enter(connection: ClientConnection, client_id: str = "alice", token: str = "") -> dict[str, Any]:
    """Say hello; return the first message of the answer."""
    hello = {"type": "hello", "protocol": 1, "client_id": client_id, "token": token}
    await connection.send(json.dumps(hello))
    answer: dict[str, Any] = json.loads(str(await connection.recv()).split("\n")[0])
    return answer


async def get(url: str) -> tuple[int, str]:
    def fetch() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(fetch)


async def refused(app: App, path: str, **options: Any) -> int:
    """Return the HTTP status with which a handshake is refused."""
    with pytest.raises(InvalidStatus) as answer:
        async with open_socket(app, path, **options):
            pass
    return answer.value.response.status_code


def token(**claims: Any) -> str:
    return sign(claims, SECRET, "HS256", 60, time.time())


def test_one_port_serves_clients_people_and_probes() -> None:
    async def main() -> None:
        async with serving(Config(listen=listen())) as app:
            assert app.url == f"ws://127.0.0.1:{app.port}/ws" and app.tcp_address == ""
            for path in ("", "healthz", "readyz"):
                assert (await get(app.http_url + path))[0] == 200
            async with open_socket(app) as alice, open_socket(app) as bob:
                welcome = await enter(alice)
                assert welcome["type"] == "welcome" and welcome["durable"] is False
                await enter(bob, "bob")
                line = {
                    "type": "message",
                    "to": "bob",
                    "run": welcome["run"],
                    "seq": 1,
                    "base": 1,
                    "data": "hi",
                }
                await alice.send(json.dumps(line))
                assert json.loads(await bob.recv())["data"] == "hi"
                assert "duolink_connections 2.0" in (await get(app.http_url + "metrics"))[1]

    run(main())


def test_tcp_talks_to_the_same_node() -> None:
    async def main() -> None:
        async with serving(Config(listen=listen(tcp_port=0))) as app:
            assert app.tcp_address == f"127.0.0.1:{app.tcp_port}"
            reader, writer = await asyncio.open_connection("127.0.0.1", app.tcp_port)
            writer.write(b"HELLO\n")
            assert (await reader.readline()).startswith(b"duolink ")
            hello = b'{"type":"hello","protocol":1,"client_id":"device"}'
            writer.write(len(hello).to_bytes(4, "big") + hello)
            answer = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
            assert json.loads(answer)["type"] == "welcome"
            writer.close()
            await writer.wait_closed()

    run(main())


def test_stopping_says_goodbye_and_closes_everything() -> None:
    async def main() -> None:
        app = App(Config(listen=listen(), session=Session(drain_spread_s=2)))
        await app.start()
        port = app.port
        async with open_socket(app) as client, open_socket(app, "/echo") as echo:
            await enter(client)
            stopping = asyncio.create_task(app.stop())
            goodbye = json.loads(await client.recv())
            assert (goodbye["type"], goodbye["code"], goodbye["spread"]) == ("goodbye", 1012, 2000)
            for connection in (client, echo):
                with pytest.raises(ConnectionClosed) as closed:
                    await connection.recv()
                assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
            await stopping
        with socket.create_server(("127.0.0.1", port)):
            pass

    run(main())


def test_stopping_without_a_drain() -> None:
    async def main() -> None:
        app = App(Config(listen=listen(tcp_port=0)))
        await app.start()
        async with open_socket(app) as client:
            await enter(client)
            await app.stop(drain=False)
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001

    run(main())


def test_it_is_not_ready_before_and_after() -> None:
    async def main() -> None:
        app = App(Config(listen=listen()))
        assert app.not_ready() == ("starting",)
        await app.start()
        assert app.not_ready() == ()
        await app.stop()
        assert app.not_ready() == ("draining",)

    run(main())


# --- echo and connect ------------------------------------------------------------------------------


def test_echo_takes_65536_bytes_and_no_more() -> None:
    async def main() -> None:
        async with serving(Config(listen=listen())) as app, open_socket(app, "/echo") as echo:
            for message in ("x" * 65_536, b"\0" * 65_536, ""):
                await echo.send(message)
                assert await echo.recv() == message
            await echo.send("x" * 65_537)
            with pytest.raises(ConnectionClosed) as closed:
                await echo.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009

    run(main())


def test_connect_seats_two_pages() -> None:
    offer, answer = '{"type":"offer","data":"<sdp>"}', '{"type":"answer", "data":"<sdp>"}'

    async def main() -> None:
        async with serving(Config(listen=listen())) as app, open_socket(app, "/connect?room=r1") as one:
            await one.send(offer)
            async with open_socket(app, "/connect?room=r1") as two:
                assert await two.recv() == offer
                await two.send(answer)
                assert await one.recv() == answer
                async with open_socket(app, "/connect?room=r1") as three:
                    with pytest.raises(ConnectionClosed) as closed:
                        await three.recv()
                    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
            assert await one.recv() == '{"type":"left"}'
            assert await refused(app, "/connect") == 400

    run(main())


def test_with_authentication_both_are_off() -> None:
    async def main() -> None:
        async with serving(Config(listen=listen(), auth=AUTH)) as app:
            assert await refused(app, "/echo") == 404
            assert await refused(app, "/connect?room=r1") == 404
            async with open_socket(app) as nobody:
                assert (await enter(nobody))["code"] == "unauthorized"
            async with open_socket(app) as alice:
                assert (await enter(alice, token=token(sub="alice")))["type"] == "welcome"

    run(main())


def test_with_authentication_connect_needs_a_ticket() -> None:
    async def main() -> None:
        async with serving(Config(listen=listen(connect=True), auth=AUTH)) as app:
            path = "/connect?room=r1"
            assert await refused(app, path) == 401
            for bad in (token(room="r2"), token(sub="alice"), "nonsense"):
                assert await refused(app, path, subprotocols=[Subprotocol(f"ticket.{bad}")]) == 403
            ticket = Subprotocol("ticket." + token(room="r1"))
            async with (
                open_socket(app, path, subprotocols=[ticket]) as one,
                open_socket(app, path, subprotocols=[ticket]) as two,
            ):
                assert one.subprotocol == ticket, "else a browser fails the connection"
                await one.send('{"type":"offer"}')
                assert await two.recv() == '{"type":"offer"}'

    run(main())


# --- limits ----------------------------------------------------------------------------------------


def test_connections_of_an_address_are_bounded_over_all_ports() -> None:
    async def main() -> None:
        config = Config(listen=listen(tcp_port=0, max_connections_per_address=1))
        async with serving(config) as app:
            async with open_socket(app) as first:
                await enter(first)
                assert await refused(app, "/ws") == 429
                assert await refused(app, "/echo") == 429
                reader, writer = await asyncio.open_connection("127.0.0.1", app.tcp_port)
                assert json.loads((await reader.read())[4:])["code"] == 3005
                writer.close()
                await writer.wait_closed()
                reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 429 ")
                writer.close()
                await writer.wait_closed()
            metrics = (await get(app.http_url + "metrics"))[1]
            assert 'duolink_handshake_refusals_total{reason="connections"} 3.0' in metrics
            async with open_socket(app) as second:
                assert (await enter(second))["type"] == "welcome"

    run(main())


def test_max_connections_counts_all_ports_together() -> None:
    async def main() -> None:
        async with serving(Config(listen=listen(tcp_port=0, max_connections=1))) as app:
            first = await open_socket(app)
            await enter(first)
            reader, writer = await asyncio.open_connection("127.0.0.1", app.tcp_port)
            assert json.loads((await reader.read())[4:])["code"] == 3005
            writer.close()
            await writer.wait_closed()
            await first.close()
        async with serving(Config(listen=listen(tcp_port=0, max_connections=1))) as app:
            reader, writer = await asyncio.open_connection("127.0.0.1", app.tcp_port)
            writer.write(b"HELLO\n")
            await reader.readline()
            assert await refused(app, "/ws") == 503
            writer.close()
            await writer.wait_closed()

    run(main())


def test_behind_a_trusted_proxy_the_forwarded_address_counts() -> None:
    async def main() -> None:
        config = Config(listen=listen(max_connections_per_address=1, trusted_proxies=["127.0.0.1"]))
        async with serving(config) as app:
            one, two = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
            async with (
                open_socket(app, "/echo", additional_headers=one),
                open_socket(app, "/echo", additional_headers=two),
            ):
                assert await refused(app, "/echo", additional_headers=one) == 429

    run(main())


def test_behind_a_trusted_proxy_with_tls_its_page_is_of_our_origin() -> None:
    async def main() -> None:
        for proxies, status in (["127.0.0.0/8"], 101), ([], 403):
            config = Config(listen=listen(trusted_proxies=proxies, echo=True), auth=AUTH)
            async with serving(config) as app:
                headers = {"X-Forwarded-Proto": "https"}
                origin = Origin(f"https://127.0.0.1:{app.port}")
                if status == 403:
                    assert await refused(app, "/echo", origin=origin, additional_headers=headers) == 403
                else:
                    async with open_socket(app, "/echo", origin=origin, additional_headers=headers):
                        pass

    run(main())


def test_a_refusal_behind_the_gate_gives_the_address_back() -> None:
    async def main() -> None:
        async with serving(Config(listen=listen(max_connections_per_address=1))) as app:
            for _ in range(3):
                assert await refused(app, "/connect") == 400

    run(main())


def test_larger_messages_are_a_setting() -> None:
    async def main() -> None:
        config = Config(
            listen=listen(),
            wire=Wire(max_message=512 << 10, send_buffer=8 << 20),
            links=Links(window_bytes=4 << 20),
        )
        async with serving(config) as app, open_socket(app, max_size=None) as alice:
            run_number = (await enter(alice))["run"]
            line = {"type": "message", "to": "alice", "run": run_number, "seq": 1, "base": 1}
            await alice.send(json.dumps({**line, "data": "x" * 500_000}))
            assert len(json.loads(await alice.recv())["data"]) == 500_000

    run(main())


# --- what goes wrong --------------------------------------------------------------------------------


def test_an_external_authenticator_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"auth\.external"):
        App(Config(auth=Auth(external=True)))


def test_when_one_port_is_taken_neither_stays_open() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            app = App(Config(listen=listen(tcp_port=taken.getsockname()[1])))
            with pytest.raises(OSError):
                await app.start()
            with socket.create_server(("127.0.0.1", app.port)):
                pass

    run(main())


def test_tls(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    alternative = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    made = builder.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "localhost.pem"
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))

    async def main() -> None:
        secure = listen(tcp_port=0, tls_certificate=str(path), tls_key=str(path))
        config = Config(listen=secure, auth=AUTH)
        trusting = ssl.create_default_context(cafile=str(path))
        async with serving(config) as app:
            assert app.url.startswith("wss://") and app.http_url.startswith("https://")
            async with connect(f"wss://localhost:{app.port}/ws", ssl=trusting) as client:
                assert (await enter(client, token=token(sub="alice")))["type"] == "welcome"
            for scheme, answer in (("https", b"202"), ("http", b"403")):  # a page of the server's own
                reader, writer = await asyncio.open_connection("localhost", app.port, ssl=trusting)
                body = b'{"to":"bob","data":1}'
                bearer = token(sub="olga", operator=True).encode()
                writer.write(
                    b"POST /api/messages HTTP/1.1\r\nHost: localhost:%d\r\nOrigin: %s://localhost:%d\r\n"
                    b"Authorization: Bearer %s\r\n"
                    b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
                    % (app.port, scheme.encode(), app.port, bearer, len(body), body)
                )
                assert (await reader.readline()).split()[1] == answer
                writer.close()
                await writer.wait_closed()
            reader, writer = await asyncio.open_connection("localhost", app.tcp_port, ssl=trusting)
            writer.write(b"HELLO")
            assert (await reader.readline()).startswith(b"duolink ")
            writer.close()
            await writer.wait_closed()

    run(main())


# --- the driver -------------------------------------------------------------------------------------


class Sleeper:
    """A loop that only sleeps, on its own clock, and as much of a node as a driver sees: its timers."""

    def __init__(self) -> None:
        self.time = 100.0
        self.sleeps: list[tuple[float, Callable[[], None]]] = []  # until when; at most one
        self.wakes = 0
        self.timers = Timers()
        self.clock = self

    def call_later(self, delay: float, callback: Callable[[], None]) -> "Sleeper":
        assert delay >= 0 and not self.sleeps
        self.sleeps.append((self.time + delay, callback))
        return self

    def cancel(self) -> None:
        self.sleeps.clear()

    def wake(self, early: float = 0.0) -> None:
        """Time passes until the sleep is over."""
        until, callback = self.sleeps.pop()
        self.time = until - early
        self.wakes += 1
        callback()

    def monotonic(self) -> float:
        return self.time

    def next_timer(self) -> float:
        return self.timers.next()

    def poll(self, now: float) -> None:
        self.timers.poll(now)


def driven() -> tuple[Sleeper, Driver]:
    sleeper = Sleeper()
    driver = Driver(cast(asyncio.AbstractEventLoop, sleeper), cast(Node, sleeper))
    driver.start()
    return sleeper, driver


def test_the_driver_sleeps_until_the_next_timer_and_no_longer() -> None:
    sleeper, driver = driven()
    done: list[float] = []
    assert not sleeper.sleeps  # nothing to wait for: the process is left alone
    sleeper.timers.at(130.0, done.append)
    assert sleeper.sleeps[0][0] == 130.0
    sooner = sleeper.timers.at(100.01, done.append)  # behind the driver's back
    assert sleeper.sleeps[0][0] == 100.01
    sleeper.timers.at(150.0, done.append)
    assert sleeper.sleeps[0][0] == 100.01
    sleeper.wake()
    assert done == [100.01] and sleeper.sleeps[0][0] == 130.0
    sooner.cancel()
    sleeper.timers.at(99.0, done.append)  # long overdue
    assert sleeper.sleeps[0][0] == 100.01
    sleeper.wake()
    sleeper.wake()
    assert done == [100.01, 100.01, 130.0] and sleeper.wakes == 3
    driver.stop()
    driver.stop()
    sleeper.timers.at(130.5, done.append)
    assert not sleeper.sleeps


def test_a_driver_that_is_woken_early_sleeps_again() -> None:
    sleeper, _ = driven()
    done: list[float] = []
    sleeper.timers.at(101.0, done.append)
    sleeper.wake(early=0.0004)
    assert not done and sleeper.sleeps[0][0] == 101.0
    sleeper.wake()
    assert done == [101.0]


def test_what_a_timer_sets_is_slept_for_once() -> None:
    sleeper, _ = driven()

    def again(now: float) -> None:
        sleeper.timers.at(now + 5.0, again)
        sleeper.timers.at(now + 1.0, lambda now: None)
        assert not sleeper.sleeps

    sleeper.timers.at(101.0, again)
    sleeper.wake()
    assert [until for until, _ in sleeper.sleeps] == [102.0]


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda which: (1024, 4096))
    monkeypatch.setattr("resource.setrlimit", lambda which, limit: raised.append(limit))
    assert raise_descriptor_limit() == 4096 and raised == [(4096, 4096)]


@pytest.mark.parametrize(("host", "url"), [("::", "ws://[::1]:0/ws"), ("0.0.0.0", "ws://127.0.0.1:0/ws")])
def test_the_url_of_a_server_on_every_address(host: str, url: str) -> None:
    assert App(Config(listen=Listen(host=host), auth=AUTH)).url == url
