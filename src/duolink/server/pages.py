"""The pages of the server: the playground, the console, and the TypeScript SDK as a module for other pages.

They are built by `scripts/web` into the folder `pages` beside this module (and are in the wheel). The files
are read once and kept in memory, packed; nothing that is not among them can be asked for. Where they have
not been built, their addresses say so, and the rest of the server does not miss them.
"""

import gzip
import hashlib
import mimetypes
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from duolink.server.settings import Config

ROOT: Final = Path(__file__).with_suffix("")
"""Where the builds put their files: `playground/…`, `console/…`, `sdk/duolink.js`."""

SDK: Final = ("duolink.js", "duolink.js.map")
"""What is served of the SDK; its types are in the npm package."""

SMALLEST_PACKED: Final = 512
"""Bytes below which packing saves no packet."""

FOR_EVER: Final = "public, max-age=31536000, immutable"
"""For files that have a hash in their name: another content has another address."""

ASK_AGAIN: Final = "no-cache"
"""For the others: kept, but asked for by its tag each time (RFC 9111 section 5.2.2.4)."""

HEADERS: Final[Mapping[str, str]] = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}

Endpoint = Callable[[Request], Awaitable[Response]]

_plain_host = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?").fullmatch


@dataclass(frozen=True, slots=True)
class File:
    """One file as it is served. `tag` is its strong entity tag (RFC 9110 section 8.8.3), without quotes."""

    body: bytes
    packed: bytes | None
    tag: str
    media_type: str
    cache_control: str

    @classmethod
    def of(cls, name: str, body: bytes) -> "File":
        """Make one of a file's name below `ROOT` and its content."""
        packed = gzip.compress(body, 9, mtime=0) if len(body) >= SMALLEST_PACKED else body
        return cls(
            body,
            packed if len(packed) < len(body) else None,
            hashlib.sha256(body).hexdigest()[:24],
            _media_type(name),
            FOR_EVER if "/assets/" in name else ASK_AGAIN,
        )

    def answer(self, request: Request, headers: Mapping[str, str]) -> Response:
        """Answer a request for it: with 304 where the asker has it, packed where the asker can unpack."""
        packed = self.packed if _takes_gzip(request.headers.get("accept-encoding", "")) else None
        tag = f'"{self.tag}-gzip"' if packed is not None else f'"{self.tag}"'
        common = {
            **HEADERS,
            **headers,
            "etag": tag,
            "cache-control": self.cache_control,
            "vary": "accept-encoding",
        }
        if _is_among(tag, request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=common)
        if packed is not None:
            return Response(
                packed, headers={**common, "content-encoding": "gzip"}, media_type=self.media_type
            )
        return Response(self.body, headers=common, media_type=self.media_type)


class Pages:
    """The built pages: name below `ROOT` → file."""

    def __init__(self, files: Mapping[str, File]) -> None:
        self._files = files

    def has(self, page: str) -> bool:
        """Tell whether a page (`playground`, `console`) has been built."""
        return f"{page}/index.html" in self._files

    def routes(self, config: Config) -> list[Route]:
        """Return the routes of what the settings allow. `/` leads to the playground, if there is one."""
        routes = [Route("/sdk/{name:path}", self._sdk)]
        for page, served in (("playground", config.playground), ("console", config.http.console)):
            if served:
                routes.append(Route(f"/{page}", self._page(page)))
                routes.append(Route(f"/{page}/{{name:path}}", self._page(page)))
        if config.playground and self.has("playground"):
            routes.append(Route("/", _lead_to_playground))
        return routes

    def _page(self, page: str) -> Endpoint:
        async def answer(request: Request) -> Response:
            if not self.has(page):
                return _not_built(page)
            name = request.path_params.get("name") or "index.html"
            return self._find(f"{page}/{name}").answer(
                request,
                {"content-security-policy": policy(request), "cross-origin-resource-policy": "same-origin"},
            )

        return answer

    async def _sdk(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name in SDK and f"sdk/{name}" not in self._files:
            return _not_built("SDK")
        # A page of any origin may import it: it is public, and whom the server lets in is decided elsewhere.
        allowed = {"access-control-allow-origin": "*", "cross-origin-resource-policy": "cross-origin"}
        return self._find(f"sdk/{name}").answer(request, {"content-security-policy": _NOTHING, **allowed})

    def _find(self, name: str) -> File:
        try:
            return self._files[name]
        except KeyError:
            raise HTTPException(404) from None


async def _lead_to_playground(request: Request) -> Response:
    return RedirectResponse("/playground/", headers={**HEADERS, "cache-control": "no-store"})


@cache
def built(root: Path = ROOT) -> Pages:
    """Read what has been built. A folder is read once in the life of the process."""
    names = [f"sdk/{name}" for name in SDK if (root / "sdk" / name).is_file()]
    for page in ("playground", "console"):
        files = sorted(path for path in (root / page).rglob("*") if path.is_file())
        names += [path.relative_to(root).as_posix() for path in files]
    return Pages({name: File.of(name, (root / name).read_bytes()) for name in names})


def policy(request: Request) -> str:
    """Return the Content-Security-Policy of a page: its own scripts, styles and images, and WebSockets to
    the server it came from. (`'self'` covers those by CSP Level 3; older browsers want them by name.)"""
    host = request.headers.get("host", "")
    sockets = f" ws://{host} wss://{host}" if _plain_host(host) else ""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self'{sockets}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


_NOTHING: Final = "default-src 'none'; frame-ancestors 'none'"

_NOT_BUILT: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>duolink: not built</title>
<h1>The {page} has not been built</h1>
<p>This server runs from a source tree in which the pages have not been built yet. Build them with
<code>make web</code> (it needs Node.js 20 or newer with npm), then start the server again.</p>
<p>Everything else works: clients connect as ever.</p>
</html>
"""


def _not_built(page: str) -> Response:
    headers = {**HEADERS, "cache-control": "no-store", "content-security-policy": _NOTHING}
    return HTMLResponse(_NOT_BUILT.format(page=page), 404, headers)


def _media_type(name: str) -> str:
    """The type by the name, whatever the machine's own tables say."""
    if name.endswith(".js"):
        return "text/javascript"
    if name.endswith(".map"):
        return "application/json"
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _takes_gzip(accept_encoding: str) -> bool:
    """Judge an Accept-Encoding field (RFC 9110 section 12.5.3)."""
    for part in accept_encoding.lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() in ("gzip", "x-gzip", "*"):
            return not re.fullmatch(r"\s*q=0(\.0*)?\s*", weight)
    return False


def _is_among(tag: str, if_none_match: str) -> bool:
    """Judge an If-None-Match field (RFC 9110 section 13.1.2): by weak comparison."""
    given = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return tag in given or given == ["*"]
