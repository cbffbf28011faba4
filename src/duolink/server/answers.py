"""Answers over HTTP: JSON, problem documents, and the headers that all of them carry."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.responses import Response

HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}
"""What every answer of duolink's own carries."""


def json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a document."""
    body = msgspec.json.encode(content)
    return Response(body, status, {**HEADERS, "content-type": "application/json", **(headers or {})})


def encoded(body: bytes) -> Response:
    """Return a document that is JSON already."""
    return Response(body, 200, {**HEADERS, "content-type": "application/json"})


def nothing(status: int = 204) -> Response:
    """Return an answer without a body."""
    return Response(b"", status, dict(HEADERS))


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as a problem document (RFC 9457)."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return json(content, status, {**(headers or {}), "content-type": "application/problem+json"})
