"""The HTTP side of the server's port: health, readiness, metrics, and a page that says what this is.

An ASGI application; the listener hands it every request that is no WebSocket upgrade.
"""

import hmac
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

import msgspec
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from duolink.server.handshake import names_this_machine
from duolink.server.metrics import render
from duolink.server.settings import Config, is_loopback

Readiness = Callable[[], Sequence[str]]
"""Returns why the server is not ready (draining, an engine is down); empty when it is."""

_HEADERS: Mapping[str, str] = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>duolink</title>
<style>body { font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem }
code { background: #8882; padding: .1em .3em }</style>
<h1>duolink</h1>
<p>This is a duolink server: it carries messages between clients in real time.</p>
<ul>
<li>Clients connect by WebSocket to <code>/ws</code>.</li>
<li><code>/healthz</code> answers while the process lives, <code>/readyz</code> while it takes clients.</li>
<li><code>/metrics</code> is for Prometheus.</li>
<li><code>/sdk/duolink.js</code> is the SDK for web pages.</li>
<li><a href="/console"><code>/console</code></a> is for operators,
<a href="/playground"><code>/playground</code></a> (in development) for a first look.</li>
</ul>
<p>To talk: <code>duolink chat alice bob</code> here, <code>duolink chat bob alice</code> there.</p>
</html>
"""


def make_app(
    config: Config, registry: CollectorRegistry, not_ready: Readiness, *, routes: Sequence[BaseRoute] = ()
) -> Starlette:
    """Return the ASGI application. `routes` are more paths; they come first."""

    async def page(request: Request) -> Response:
        return HTMLResponse(_PAGE, headers=_HEADERS)

    async def healthz(request: Request) -> Response:
        return _json({"alive": True})

    async def readyz(request: Request) -> Response:
        reasons = list(not_ready())
        if reasons:
            return _json({"ready": False, "reasons": reasons}, HTTPStatus.SERVICE_UNAVAILABLE)
        return _json({"ready": True})

    async def metrics(request: Request) -> Response:
        _authorize_metrics(config, request)
        content_type, body = render(registry, request.headers.get("accept", ""))
        return Response(body, media_type=content_type, headers=_HEADERS)

    return Starlette(
        routes=[
            *routes,
            Route("/", page),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
        ],
        exception_handlers={HTTPException: _problem, Exception: _internal},
    )


def _authorize_metrics(config: Config, request: Request) -> None:
    """Let a scrape through in development, from this machine, or with the token.

    A proxy on this machine looks like loopback too; its forwarding headers give the stranger behind it away.
    So does a browser here that runs a stranger's page, whose name was rebound to 127.0.0.1: by its Host.
    """
    if names_this_machine(request.headers.get("host", "localhost")) and _is_local(config, request):
        return
    token = config.http.metrics_token
    if token is None:
        raise HTTPException(403, "metrics are for this machine; http.metrics_token opens them to others")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise HTTPException(401, "a bearer token is needed", {"www-authenticate": 'Bearer realm="metrics"'})


def _is_local(config: Config, request: Request) -> bool:
    if config.development:
        return True
    forwarded = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip", "via"))
    return request.client is not None and is_loopback(request.client.host) and not forwarded


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as a problem document (RFC 9457)."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return _json(content, status, {**(headers or {}), "content-type": "application/problem+json"})


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {404: "there is nothing at this path", 405: "this path answers GET and HEAD only"}
    return problem(error.status_code, details.get(error.status_code, error.detail), error.headers)


async def _internal(request: Request, error: Exception) -> Response:
    return problem(500, "the server failed to answer; its log says why")


def _json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = msgspec.json.encode(content)
    return Response(body, status, {**_HEADERS, "content-type": "application/json", **(headers or {})})
