"""The HTTP side of the server's port: health, readiness, metrics, the operator's API, and a page that says
what this is.

An ASGI application; the listener hands it every request that is no WebSocket upgrade.
"""

from collections.abc import Callable, Sequence
from http import HTTPStatus

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from duolink.server.access import bearer, is_here, same, unauthorized
from duolink.server.answers import HEADERS, json, problem
from duolink.server.metrics import render
from duolink.server.settings import Config

Readiness = Callable[[], Sequence[str]]
"""Returns why the server is not ready (draining, an engine is down); empty when it is."""

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
<li><a href="/console"><code>/console</code></a> and <a href="/api"><code>/api</code></a> are for operators,
<a href="/playground"><code>/playground</code></a> (in development) for a first look.</li>
</ul>
<p>To talk: <code>duolink chat alice bob</code> here, <code>duolink chat bob alice</code> there.</p>
</html>
"""


def make_app(
    config: Config,
    registry: CollectorRegistry,
    not_ready: Readiness,
    *,
    api: ASGIApp | None = None,
    routes: Sequence[BaseRoute] = (),
    app: ASGIApp | None = None,
) -> Starlette:
    """Return the ASGI application. `api` answers under `/api`, `routes` are more paths (they come first), and
    `app` gets whatever is left: without one, that is answered 404."""

    async def page(request: Request) -> Response:
        return HTMLResponse(_PAGE, headers=HEADERS)

    async def healthz(request: Request) -> Response:
        return json({"alive": True})

    async def readyz(request: Request) -> Response:
        reasons = list(not_ready())
        if reasons:
            return json({"ready": False, "reasons": reasons}, HTTPStatus.SERVICE_UNAVAILABLE)
        return json({"ready": True})

    async def metrics(request: Request) -> Response:
        _authorize_metrics(config, request)
        content_type, body = render(registry, request.headers.get("accept", ""))
        return Response(body, media_type=content_type, headers=HEADERS)

    if app is not None:  # whose page that is
        routes = [route for route in routes if getattr(route, "path", "") != "/"]
    own: list[BaseRoute] = [
        *routes,
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
    ]
    if api is not None:
        own += [Route("/api", api), Route("/api/{rest:path}", api)]
    if app is None:
        own.append(Route("/", page))
    made = Starlette(routes=own, exception_handlers={HTTPException: _problem, Exception: _internal})
    made.router.redirect_slashes = False  # a redirect would name the host a stranger gave
    if app is not None:
        made.router.default = app
    return made


def _authorize_metrics(config: Config, request: Request) -> None:
    """Let a scrape through in development, from this machine, or with the token."""
    if is_here(config, request):
        return
    token = config.http.metrics_token
    if token is None:
        raise HTTPException(403, "metrics are for this machine; http.metrics_token opens them to others")
    if not same(bearer(request), token):
        raise unauthorized("metrics", "a bearer token is needed")


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {404: "there is nothing at this path", 405: "this path answers GET and HEAD only"}
    return problem(error.status_code, details.get(error.status_code, error.detail), error.headers)


async def _internal(request: Request, error: Exception) -> Response:
    return problem(500, "the server failed to answer; its log says why")
