"""Keys from a URL: fetched, kept, rotated, bounded; and who presents a new one waits for it."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.api_world import STRANGER, operating

import duolink
from duolink.server import jwks
from duolink.server.app import App
from duolink.server.auth import AuthenticationError, TokenAuthenticator, UnknownKey, make_authenticator, sign
from duolink.server.jwks import Fetched, FetchFailed, JwksSource, fetch_jwks
from duolink.server.keys import parse_jwks
from duolink.server.settings import Auth, Config, ConfigError, Listen


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main, 20)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(bounded())


@cache
def private(kid: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def public(kid: str) -> dict[str, Any]:
    key: Any = serialization.load_pem_private_key(private(kid).encode(), None)
    made: dict[str, Any] = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    return {**made, "kid": kid, "use": "sig"}


def key_set(*kids: str) -> bytes:
    return json.dumps({"keys": [public(kid) for kid in kids]}).encode()


def token(kid: str | None, **claims: Any) -> str:
    claims = {"sub": "alice", "channels": ["*"], "links": ["*"], **claims}
    return sign(claims, private(kid or "a"), "ES256", 60, time.time(), kid)


class Site:
    """A server of keys, on this machine."""

    def __init__(self) -> None:
        self.body = key_set("a")
        self.status = 200
        self.headers: dict[str, str] = {}
        self.asked = 0
        self.hold = threading.Event()
        self.hold.set()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked += 1
                site.hold.wait(10)
                self.send_response(site.status)
                for name, value in site.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(site.body)))
                self.end_headers()
                self.wfile.write(site.body)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@contextmanager
def keys_at() -> Iterator[Site]:
    site = Site()
    try:
        yield site
    finally:
        site.hold.set()
        site.server.shutdown()
        site.server.server_close()


def config(site: Site, **more: Any) -> Config:
    return Config(auth=Auth(jwks_url=site.url, **more), listen=Listen(port=0))


# --- fetching --------------------------------------------------------------------------------


def test_a_set_is_fetched_with_the_age_its_server_says() -> None:
    with keys_at() as site:
        for said, age in (
            ("", None), ("max-age=300", 300.0), ("public, max-age=60, must-revalidate", 60.0),
            ("no-cache", 0.0), ("no-store, max-age=9", 0.0), ('max-age="7"', 7.0), ("s-maxage=3", None),
        ):  # fmt: skip
            site.headers = {"cache-control": said} if said else {}
            fetched = fetch_jwks(site.url)
            assert fetched.max_age == age and [key.kid for key in fetched.keys] == ["a"]


def test_what_is_no_set_of_keys_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with keys_at() as site:
        for status, body, why in (
            (500, b"", "answers 500"),
            (404, b"", "answers 404"),
            (200, b"<html>", "is not a JSON object"),
            (200, b'{"keys":[]}', "holds no key"),
            (200, b" " * ((1 << 20) + 1), "larger than 1 MiB"),
        ):
            site.status, site.body = status, body
            with pytest.raises(FetchFailed, match=why):
                fetch_jwks(site.url)
        site.status, site.headers = 302, {"location": "http://127.0.0.1:1/elsewhere"}
        with pytest.raises(FetchFailed, match="answers 302"):
            fetch_jwks(site.url)
    with pytest.raises(FetchFailed, match="cannot be fetched: Connection refused"):
        fetch_jwks(site.url)


def test_this_machine_is_not_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with keys_at() as site:
        assert fetch_jwks(site.url).keys


def test_a_server_that_drips_is_given_up() -> None:
    with keys_at() as site:
        site.body = b" " * 500_000 + key_set("a")
        with pytest.raises(FetchFailed):
            fetch_jwks(site.url, timeout=1e-9)


# --- keeping ---------------------------------------------------------------------------------


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, key: str, event: str, now: float, **fields: Any) -> None:
        self.lines.append(fields["problem"])


class Scripted:
    """A source whose fetches are what a test says, and its timers."""

    def __init__(self, *answers: Any, max_age: float = 3600.0) -> None:
        self.answers = list(answers)
        self.fetches = 0
        self.log = Log()
        self.counted: list[str] = []
        self.source = JwksSource(
            "https://keys.example", max_age, self.log, self.counted.append, fetch=self._fetch
        )

    def _fetch(self, url: str) -> Fetched:
        self.fetches += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Fetched(tuple(parse_jwks(key_set(*answer[0]))), answer[1])

    @property
    def kids(self) -> list[str | None]:
        return [key.kid for key in self.source.keys]

    def due(self) -> float:
        """Seconds until the next fetch."""
        assert self.source._timer is not None
        return self.source._timer.when() - asyncio.get_running_loop().time()

    async def fire(self) -> None:
        """Let the time come."""
        self.source._begin()
        assert self.source._fetching is not None
        await self.source._fetching


@pytest.mark.parametrize(
    ("said", "expected"), [(None, 2880.0), (300.0, 240.0), (0.0, 48.0), (1e9, 2880.0), (70.0, 56.0)]
)
def test_a_set_is_fetched_again_before_it_is_too_old(said: float | None, expected: float) -> None:
    async def main() -> None:
        made = Scripted((["a"], said), (["b"], said))
        await made.source.start()
        assert made.kids == ["a"] and made.due() == pytest.approx(expected, abs=1)
        await made.fire()
        assert made.kids == ["b"] and made.due() == pytest.approx(expected, abs=1)
        assert made.counted == ["ok", "ok"]
        made.source.close()

    run(main())


def test_the_last_good_set_stays_while_fetching_fails() -> None:
    async def main() -> None:
        made = Scripted((["a"], None), FetchFailed("gone"), FetchFailed("gone"), (["b"], None))
        await made.source.start()
        await made.fire()
        assert made.kids == ["a"] and made.log.lines == ["gone"] and made.due() == pytest.approx(10, abs=1)
        await made.fire()
        await made.fire()
        assert made.kids == ["b"] and made.counted == ["ok", "failed", "failed", "ok"]
        made.source.close()
        assert made.source.ask() is None

    run(main())


def test_the_start_tries_again_and_then_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "RETRY", 0.01)

    async def main() -> None:
        made = Scripted(FetchFailed("1"), FetchFailed("2"), (["a"], None))
        await made.source.start()
        assert made.kids == ["a"]
        made.source.close()
        made = Scripted(FetchFailed("1"), FetchFailed("2"), FetchFailed("3"))
        with pytest.raises(FetchFailed, match="3"):
            await made.source.start()

    run(main())


def test_a_fetch_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "TIMEOUT", 0.01)
    monkeypatch.setattr(jwks, "FIRST_TRIES", 1)
    release = threading.Event()

    def hang(url: str) -> Fetched:
        release.wait(5)
        raise FetchFailed("late")

    async def main() -> None:
        source = JwksSource("https://keys.example", 3600.0, Log(), fetch=hang)
        with pytest.raises(FetchFailed, match="does not answer"):
            await source.start()
        release.set()

    run(main())


def test_unknown_keys_are_asked_for_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        made = Scripted((["a"], None), (["a", "b"], None), (["c"], None))
        await made.source.start()
        first, second = made.source.ask(), made.source.ask()
        assert first is not None and first is second
        await first
        assert made.kids == ["a", "b"] and made.fetches == 2
        assert made.source.ask() is None, "not again so soon"
        made.source._asked -= 11
        third = made.source.ask()
        assert third is not None
        await third
        assert made.kids == ["c"]
        made.source.close()

    run(main())


def test_tokens_of_fetched_keys_count_and_those_of_unknown_ones_may_wait() -> None:
    async def main() -> None:
        made = Scripted((["a"], None), (["a", "b"], None))
        await made.source.start()
        check = make_authenticator(Auth(jwks_url="https://keys.example"), made.source)
        assert isinstance(check, TokenAuthenticator)
        now = time.time()
        assert check.authenticate(token("a"), now).user == "alice"
        assert check.authenticate(token(None), now).user == "alice"
        with pytest.raises(UnknownKey) as unknown:
            check.authenticate(token("b"), now)
        await unknown.value.fetched
        assert check.authenticate(token("b"), now).user == "alice"
        with pytest.raises(AuthenticationError) as refused:
            check.authenticate(token("c"), now)
        assert not isinstance(refused.value, UnknownKey)
        forged = sign({"sub": "x"}, private("z"), "ES256", 60, now, "a")
        made.source._asked -= 11
        with pytest.raises(AuthenticationError) as refused:
            check.authenticate(forged, now)
        assert not isinstance(refused.value, UnknownKey), "a known key is not fetched again for a forger"
        made.source.close()

    run(main())


# --- the server ------------------------------------------------------------------------------


def test_a_rotated_key_is_taken_from_the_first_hello_on() -> None:
    async def main() -> None:
        with keys_at() as site:
            app = App(config(site))
            await app.start()
            try:
                async with duolink.connect(app.url, client_id="alice", token=token("a")):
                    pass
                site.body = key_set("a", "b")
                async with duolink.connect(app.url, client_id="alice", token=token("b")) as alice:
                    assert alice.welcome is not None and not alice.welcome.resumed
                assert site.asked == 2
                with pytest.raises(duolink.Refused):
                    async with duolink.connect(app.url, client_id="alice", token=token("c")):
                        pass
                assert site.asked == 2, "not for every token"
                assert app.counts.jwks_fetches == {"ok": 2}
            finally:
                await app.stop()

    run(main())


def test_a_hello_whose_key_does_not_come_is_refused_and_one_that_leaves_is_forgotten() -> None:
    async def main() -> None:
        with keys_at() as site:
            app = App(config(site))
            await app.start()
            try:
                with pytest.raises(duolink.Refused):
                    async with duolink.connect(app.url, client_id="alice", token=token("b")):
                        pass
                assert app._keys is not None
                app._keys._asked -= 11
                site.hold.clear()
                leaving = duolink.connect(app.url, client_id="alice", token=token("b"))
                opening = asyncio.create_task(leaving.open())
                while app._keys._fetching is None:  # noqa: ASYNC110 - it comes with the hello
                    await asyncio.sleep(0)
                opening.cancel()
                await asyncio.wait([opening])
                await leaving.close()
                while app.node.connections:  # noqa: ASYNC110 - it goes in a turn of the loop
                    await asyncio.sleep(0)
                fetching = app._keys._fetching
                site.hold.set()
                if fetching is not None:
                    await fetching
                assert app.node.sessions.get("alice") is None
            finally:
                await app.stop()

    run(main())


def test_a_fresh_token_with_a_new_key_waits_for_it_too() -> None:
    async def main() -> None:
        with keys_at() as site:
            app = App(config(site))
            await app.start()
            given: list[str] = []

            def renew() -> str:
                given.append("b" if given else "a")
                return token(given[-1])

            try:
                async with duolink.connect(app.url, client_id="alice", token=renew) as alice:
                    site.body = key_set("b")
                    session = app.node.sessions.get("alice")
                    assert session is not None and session.connection is not None
                    before = session.identity
                    app.node.greeter.refresh(session.connection, duolink_refresh(token("b")))
                    while session.identity is before:  # noqa: ASYNC110 - it changes in a turn of the loop
                        await asyncio.sleep(0)
                    assert site.asked == 2 and alice.state.value == "online"
                    app.node.greeter.refresh(session.connection, duolink_refresh(token("c")))
            finally:
                await app.stop()

    run(main())


def duolink_refresh(text: str) -> Any:
    from duolink.protocol.messages import Refresh

    return Refresh(id=1, token=text)


def test_an_operators_token_waits_for_its_key() -> None:
    async def main() -> None:
        with keys_at() as site:
            async with operating(config(site)) as operator:
                site.body = key_set("b")
                how: dict[str, Any] = {
                    "client": STRANGER,
                    "authorization": f"Bearer {token('b', operator=True)}",
                }
                assert (await operator.call("GET", "/api/stats", **how)).status == 200
                assert site.asked == 2

    run(main())


def test_a_server_without_keys_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "RETRY", 0.01)

    async def main() -> None:
        with keys_at() as site:
            site.status = 503
            with pytest.raises(ConfigError, match=r"auth\.jwks_url: .* answers 503"):
                await App(config(site)).start()
            assert site.asked == 3

    run(main())


def test_making_a_source_needs_nothing_but_its_parts() -> None:
    count: Callable[[str], None] = jwks._nothing
    count("ok")
