"""Who may ask the API, and that no stranger's page can."""

import time
from typing import Any

import pytest
from tests.unit.api_world import LOCAL, STRANGER, operating, run

from duolink.server.auth import AuthenticationError, Identity, sign
from duolink.server.settings import Auth, Config, ConfigError, Http, Key, Listen

SECRET = "an HS256 secret of 32 bytes, or more"
TOKEN = "an operator's token of 32 letters"
KEYS = Auth(keys=[Key(algorithm="HS256", key=SECRET)])
CLOSED = Config(auth=KEYS, http=Http(operator_token=TOKEN))
PAGE = "https://duolink.example"


def signed(**claims: Any) -> str:
    return sign({"sub": "olga", **claims}, SECRET, "HS256", 60, time.time())


def test_everybody_needs_a_token() -> None:
    """This machine too: a proxy here that sets no forwarding headers would let in all the world."""

    async def main() -> None:
        async with operating(CLOSED) as operator:
            for how in (
                {"client": LOCAL},
                {"client": LOCAL, "host": "localhost:1"},
                {"client": STRANGER},
                {"client": None},
                {"client": LOCAL, "x_forwarded_for": "127.0.0.1"},
                {"client": LOCAL, "via": "1.1 proxy"},
                {"client": LOCAL, "host": "evil.example"},
                {"client": STRANGER, "authorization": ""},
                {"client": STRANGER, "authorization": f"Basic {TOKEN}"},
            ):
                answer = await operator.call("GET", "/api/stats", **how)
                assert answer.status == 401, how
                assert answer.headers["www-authenticate"] == 'Bearer realm="duolink"'
            assert (await operator.call("GET", f"/api/stats?token={TOKEN}", client=STRANGER)).status == 401

    run(main())


def test_the_documents_are_open() -> None:
    async def main() -> None:
        async with operating(CLOSED) as operator:
            assert (await operator.call("GET", "/api", client=STRANGER)).status == 200
            assert (await operator.call("GET", "/api/openapi.json", client=STRANGER)).status == 200

    run(main())


def test_the_operators_token_opens_everything() -> None:
    async def main() -> None:
        async with operating(CLOSED) as operator:
            for token in (f"Bearer {TOKEN}", f"bearer  {TOKEN} "):
                answer = await operator.call("GET", "/api/stats", client=STRANGER, authorization=token)
                assert answer.status == 200
            for token in (f"Bearer {TOKEN}x", "Bearer é", f"Bearer {TOKEN[:-1]}"):
                answer = await operator.call("GET", "/api/stats", client=STRANGER, authorization=token)
                assert answer.status == 401
                assert 'error="invalid_token"' in answer.headers["www-authenticate"]
                assert TOKEN not in answer.body.decode()

    run(main())


def test_a_signed_token_needs_the_claim_operator() -> None:
    async def main() -> None:
        async with operating(CLOSED) as operator:

            async def status(token: str) -> int:
                how: dict[str, Any] = {"client": STRANGER, "authorization": f"Bearer {token}"}
                return (await operator.call("GET", "/api/clients", **how)).status

            assert await status(signed(operator=True)) == 200
            assert await status(signed()) == 403
            values: tuple[Any, ...] = (False, 1, "true", None, [])
            for value in values:
                assert await status(signed(operator=value)) == 403
            assert (
                await status(
                    sign({"sub": "x", "operator": True}, SECRET[:-1] + "x" * 9, "HS256", 60, time.time())
                )
                == 401
            )
            expired = sign({"sub": "x", "operator": True}, SECRET, "HS256", 60, time.time() - 3600)
            assert await status(expired) == 401

    run(main())


def test_in_development_only_a_rebound_name_needs_a_token() -> None:
    async def main() -> None:
        async with operating(Config(http=Http(operator_token=TOKEN))) as operator:
            assert (await operator.call("GET", "/api/stats", client=STRANGER)).status == 200
            assert (await operator.call("GET", "/api/stats", host="evil.example")).status == 401
            how: dict[str, Any] = {"host": "evil.example", "authorization": f"Bearer {TOKEN}"}
            assert (await operator.call("GET", "/api/stats", **how)).status == 200
            how["authorization"] = "Bearer other"
            assert (await operator.call("GET", "/api/stats", **how)).status == 401

    run(main())


class Application:
    """An embedding program's authenticator."""

    def authenticate(self, token: str | None, now: float) -> Identity:
        if token != "olga":
            raise AuthenticationError("token_invalid", "nobody")
        return Identity(user="olga", claims={"operator": True})

    def room(self, token: str | None, now: float) -> str:
        raise AuthenticationError("token_invalid", "nobody")


def test_an_embedding_programs_tokens_count_too() -> None:
    async def main() -> None:
        async with operating(Config(auth=Auth(external=True)), authenticator=Application()) as operator:
            how: dict[str, Any] = {"client": STRANGER, "authorization": "Bearer olga"}
            assert (await operator.get("/api/server", **how))["auth"] == "external"
            how["authorization"] = "Bearer other"
            assert (await operator.call("GET", "/api/server", **how)).status == 401

    run(main())


def test_the_token_is_long_and_is_not_shown() -> None:
    assert TOKEN not in repr(CLOSED) and "operator_token='…'" in repr(CLOSED)
    assert "operator_token=None" in repr(Config())


# --- strangers' pages ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/messages"), ("PUT", "/api/channels/c/state/k"), ("DELETE", "/api/clients/bob")],
)
def test_a_page_of_another_origin_changes_nothing(method: str, path: str) -> None:
    async def main() -> None:
        for config in (Config(), CLOSED):
            async with operating(config) as operator:
                pages: tuple[dict[str, Any], ...] = (
                    {"origin": "https://evil.example"},
                    {"origin": "null"},
                    {"origin": "http://127.0.0.1.evil.example"},
                    {"origin": "http://localhost:8080", "sec_fetch_site": "cross-site"},
                    {"sec_fetch_site": "cross-site"},
                )
                for how in pages:
                    answer = await operator.call(method, path, {}, host="localhost:8080", **how)
                    assert answer.status == 403, how

    run(main())


def test_pages_of_the_server_itself_and_of_allowed_origins_may() -> None:
    async def main() -> None:
        body = {"to": "bob", "data": 1}
        async with operating(Config()) as operator:
            own: dict[str, Any] = {
                "origin": "http://localhost:8080",
                "host": "localhost:8080",
                "sec_fetch_site": "same-origin",
            }
            assert (await operator.call("POST", "/api/messages", body, **own)).status == 202
        config = Config(
            auth=KEYS,
            http=Http(operator_token=TOKEN),
            listen=Listen(origins=[PAGE], trusted_proxies=["192.0.2.1"]),
        )
        async with operating(config) as operator:
            bearer: dict[str, Any] = {
                "authorization": f"Bearer {TOKEN}",
                "client": STRANGER,
                "host": "duo.example",
            }

            async def status(**how: Any) -> int:
                return (await operator.call("POST", "/api/messages", body, **bearer, **how)).status

            assert await status(origin=PAGE) == 202
            assert await status(origin="http://duo.example") == 202
            assert await status(origin="https://duo.example") == 403
            assert await status(origin="https://duo.example", x_forwarded_proto="https") == 202
            assert await status(origin="https://other.example", x_forwarded_proto="https") == 403

    run(main())


def test_a_page_of_another_site_does_not_read_either() -> None:
    async def main() -> None:
        async with operating() as operator:
            assert (await operator.call("GET", "/api/stats", sec_fetch_site="cross-site")).status == 403
            assert (await operator.call("GET", "/api", sec_fetch_site="cross-site")).status == 200
            assert (await operator.call("GET", "/api/stats", sec_fetch_site="none")).status == 200

    run(main())


def test_no_answer_lets_another_origin_read_it() -> None:
    async def main() -> None:
        async with operating() as operator:
            answer = await operator.call("GET", "/api/stats", origin="https://evil.example")
            assert not any(name.startswith("access-control") for name in answer.headers)
            answer = await operator.call("OPTIONS", "/api/messages", origin="https://evil.example")
            assert answer.status == 405

    run(main())


def test_a_form_cannot_post() -> None:
    async def main() -> None:
        async with operating() as operator:
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
                raw = b'{"to":"bob","data":1}'
                answer = await operator.call("POST", "/api/messages", raw=raw, content_type=kind)
                assert answer.status == 415
            answer = await operator.call("POST", "/api/messages", raw=b"", content_type="text/plain")
            assert answer.status == 415
            kind = "Application/JSON; charset=utf-8"
            answer = await operator.call("POST", "/api/messages", raw=raw, content_type=kind)
            assert answer.status == 202

    run(main())


def test_settings_that_would_let_strangers_name_keys_are_refused() -> None:
    for url in (
        "http://keys.example/jwks",
        "ftp://x",
        "https://u:p@keys.example/",
        "https://",
        "https://x:y/",
    ):
        with pytest.raises(ConfigError, match=r"auth\.jwks_url"):
            Config(auth=Auth(jwks_url=url))
    for url in (
        "https://keys.example/jwks.json",
        "http://127.0.0.1:1/",
        "http://[::1]/",
        "http://localhost/",
    ):
        assert not Config(auth=Auth(jwks_url=url)).development
