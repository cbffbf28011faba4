"""A site that pages come from: what a test puts there, and the built SDK. Its Content-Security-Policy is as
strict as a page with the SDK can have."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
SDK = ROOT / "web/sdk/dist"
PAGES = Path(__file__).parent / "pages"

POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' ws://127.0.0.1:*"
)

TYPES = {".html": "text/html", ".js": "text/javascript", ".map": "application/json"}

PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>{script}<main>{body}</main>'
)


class Site:
    """Serves on a port of its own until it is closed. `/sdk/duolink.js` is the SDK; `/` a page with a seat
    for a client (`pages/seat.js`)."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        for path in PAGES.iterdir():
            self.file(f"/{path.name}", path.read_text())
        self.page("/", script="/seat.js")
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                body = site.find(path)
                # Browsers ask for an icon, and complain when there is none.
                self.send_response(200 if body is not None else 204 if path == "/favicon.ico" else 404)
                suffix = Path(path).suffix or ".html"
                self.send_header("Content-Type", f"{TYPES.get(suffix, 'text/plain')}; charset=utf-8")
                self.send_header("Content-Security-Policy", POLICY)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def page(self, path: str, body: str = "", *, script: str = "", title: str = "Test") -> None:
        """Put a page there; `script` is the path of its module."""
        module = f'<script type="module" src="{script}"></script>' if script else ""
        self._files[path] = PAGE.format(title=title, script=module, body=body).encode()

    def file(self, path: str, text: str) -> None:
        """Put a file there; the path's suffix says what it is."""
        self._files[path] = text.encode()

    def find(self, path: str) -> bytes | None:
        """What is at a path."""
        if path not in self._files and path.startswith("/sdk/") and (SDK / path[5:]).is_file():
            return (SDK / path[5:]).read_bytes()
        return self._files.get(path)

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
