"""The HTTP side, asked as an ASGI application."""

import asyncio
import contextlib
import json
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tests.unit.api_world import ask as api_ask

from duolink.server.http import make_app
from duolink.server.metrics import Counts, Gauges, make_registry
from duolink.server.settings import Auth, Config, Http

TOKEN = "0123456789abcdef"
DEVELOPMENT = Config()
CLOSED = Config(auth=Auth(external=True))
WITH_TOKEN = Config(auth=Auth(external=True), http=Http(metrics_token=TOKEN))


class Answer:
    def __init__(self, sent: list[Any]) -> None:
        self.status: int = sent[0]["status"]
        self.headers = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        self.body = b"".join(message.get("body", b"") for message in sent[1:])

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    path: str,
    config: Config = DEVELOPMENT,
    reasons: Any = (),
    method: str = "GET",
    client: Any = ("192.0.2.1", 5),
    routes: Any = (),
    **headers: str,
) -> Answer:
    """Send one request through the application; header names have `_` for `-`."""

    def not_ready() -> Any:
        if isinstance(reasons, Exception):
            raise reasons
        return reasons

    app = make_app(config, make_registry(Counts(), Gauges), not_ready, routes=routes)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
        "client": client,
        "server": ("127.0.0.1", 80),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    with contextlib.suppress(*([type(reasons)] if isinstance(reasons, Exception) else [])):
        asyncio.run(app(scope, receive, send))  # a defect is raised again after the answer, for the log
    return Answer(sent)


def test_health_answers_while_the_process_lives():
    answer = ask("/healthz", reasons=["draining"])
    assert (answer.status, answer.json()) == (200, {"alive": True})
    assert answer.headers["content-type"] == "application/json"


def test_readiness_says_why_not():
    assert (ask("/readyz").status, ask("/readyz").json()) == (200, {"ready": True})
    answer = ask("/readyz", reasons=["draining", "engine: down"])
    assert (answer.status, answer.json()) == (503, {"ready": False, "reasons": ["draining", "engine: down"]})


def test_the_page_says_what_this_is():
    answer = ask("/")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert b"duolink server" in answer.body


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/none"])
def test_every_answer_carries_the_safe_headers(path):
    headers = ask(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"].startswith("default-src 'none'")


def test_head_is_answered_without_a_body():
    answer = ask("/healthz", method="HEAD")
    assert answer.status == 200
    assert int(answer.headers["content-length"]) == len(b'{"alive":true}')


def test_errors_are_problem_documents_that_repeat_nothing():
    answer = ask("/<script>alert(1)</script>")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "there is nothing at this path",
    }
    answer = ask("/healthz", method="POST")
    assert (answer.status, answer.json()["title"]) == (405, "Method Not Allowed")
    assert "GET" in answer.headers["allow"]


def test_a_defect_is_a_problem_without_details():
    answer = ask("/readyz", reasons=RuntimeError("secret detail"))
    assert answer.status == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert b"secret detail" not in answer.body


def test_more_paths_come_first_and_an_application_gets_the_rest():
    async def plain(scope, receive, send):
        await PlainTextResponse(f"plain {scope['path']}")(scope, receive, send)

    async def extra(request):
        return PlainTextResponse("extra")

    routes = [Route("/", extra), Route("/healthz", extra)]
    registry = make_registry(Counts(), Gauges)

    async def told(app: Any, path: str) -> bytes:
        return (await api_ask(app, "GET", path)).body

    async def main() -> None:
        app = make_app(DEVELOPMENT, registry, lambda: (), routes=routes)
        assert [await told(app, path) for path in ("/", "/healthz")] == [b"extra", b"extra"]
        assert (await api_ask(app, "GET", "/api/server")).status == 404
        assert (await api_ask(app, "GET", "/healthz/")).status == 404, (
            "a redirect would name a stranger's host"
        )
        app = make_app(DEVELOPMENT, registry, lambda: (), routes=routes, app=plain)
        assert [await told(app, path) for path in ("/", "/x", "/healthz")] == [
            b"plain /",
            b"plain /x",
            b"extra",
        ]

    asyncio.run(main())


# --- metrics


def test_metrics_are_prometheus_text():
    answer = ask("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert b"# TYPE duolink_messages_total counter" in answer.body
    answer = ask("/metrics", accept="application/openmetrics-text")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")


@pytest.mark.parametrize("client", [("127.0.0.1", 5), ("::1", 5), ("::ffff:127.0.0.1", 5)])
def test_metrics_are_open_to_this_machine(client):
    assert ask("/metrics", CLOSED, client=client).status == 200


@pytest.mark.parametrize("header", ["x_forwarded_for", "forwarded", "x_real_ip", "via"])
def test_a_stranger_behind_a_proxy_on_this_machine_is_a_stranger(header):
    assert ask("/metrics", CLOSED, client=("127.0.0.1", 5), **{header: "127.0.0.1"}).status == 403


@pytest.mark.parametrize("config", [DEVELOPMENT, CLOSED])
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("LOCALHOST", 200),
        ("dev.localhost:80", 200),
        ("evil.example:8080", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost@evil.example", 403),
        ("", 403),
    ],
)
def test_metrics_are_closed_to_a_page_whose_name_was_rebound_to_this_machine(config, host, status):
    assert ask("/metrics", config, client=("127.0.0.1", 5), host=host).status == status


@pytest.mark.parametrize("client", [("192.0.2.1", 5), ("", 0), None])
def test_metrics_are_closed_to_others(client):
    answer = ask("/metrics", CLOSED, client=client)
    assert answer.status == 403
    assert "http.metrics_token" in answer.json()["detail"]


@pytest.mark.parametrize("given", [f"Bearer {TOKEN}", f"bearer {TOKEN} "])
def test_the_token_opens_metrics(given):
    assert ask("/metrics", WITH_TOKEN, authorization=given).status == 200
    assert ask("/metrics", WITH_TOKEN, authorization=given, host="metrics.example").status == 200


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer x", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer é"]
)
def test_another_token_opens_nothing(given):
    answer = ask("/metrics", WITH_TOKEN, authorization=given)
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert ask("/metrics", WITH_TOKEN).status == 401
