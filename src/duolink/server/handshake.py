"""The opening handshake of RFC 6455, judged without any I/O.

`HeadReader` collects a request head from bytes as they arrive; `judge` decides what it asks for: plain
HTTP (a `Request`) or a WebSocket (an `Upgrade`, with the 101 response). Everything wrong raises `Refused`,
which carries the response that says so. Lists, repeated fields and any case are accepted where HTTP
allows them (`Connection: keep-alive, Upgrade`); what servers disagree about (bare LF, folded lines,
repeated Host) is refused, because disagreement is what request smuggling is made of.
"""

import binascii
import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from duolink.server.settings import is_loopback

MAX_FIELDS = 128
"""The most header fields of a request; browsers send under 30, picows and Apache take 128 and 100."""

_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 section 5.6.2
_is_token = re.compile(_TOKEN).fullmatch
_request_line = re.compile(rb"(" + _TOKEN.encode() + rb") ([!-~]+) HTTP/([0-9])\.([0-9])").fullmatch
_bare_lf = re.compile(rb"(?<!\r)\n").search
_forbidden_in_value = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_AUTHORITY = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~%!$&'()*+,;=]+)(?::([0-9]{0,5}))?"
_authority = re.compile(_AUTHORITY).fullmatch
_origin = re.compile(r"(https?)://" + _AUTHORITY).fullmatch
_absolute_target = re.compile(r"https?://([^/?#]+)(/[^#]*|\?[^#]*|)", re.IGNORECASE).fullmatch
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class Refused(Exception):
    """A request is refused: `status` and `reason` go to the client, `label` to the metrics.

    `reason` is our own sentence, never the client's text. Factories of wire users raise it too.
    """

    def __init__(
        self, status: int, reason: str, *, label: str = "", headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.label = label or HTTPStatus(status).phrase.lower().replace(" ", "_")
        self.headers = tuple(headers)

    def response(self) -> bytes:
        """Return the whole response, after which the connection closes."""
        body = (self.reason + "\n").encode()
        connection = "close"
        if self.status == HTTPStatus.UPGRADE_REQUIRED:  # RFC 9110 section 15.5.22: names the protocol
            connection = "close, upgrade\r\nUpgrade: websocket"
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            f"Connection: {connection}",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class Headers:
    """The header fields of a request, in order; names are lower case, values latin-1."""

    __slots__ = ("fields",)

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        self.fields = tuple(fields)

    def all(self, name: str) -> list[str]:
        """Return the values of every field of this (lower-case) name."""
        return [value for key, value in self.fields if key == name]

    def get(self, name: str) -> str | None:
        """Return the first value of this (lower-case) name, or None."""
        for key, value in self.fields:
            if key == name:
                return value
        return None

    def items(self, name: str) -> list[str]:
        """Return the members of a comma-separated list that may span several fields."""
        return [item for value in self.all(name) for part in value.split(",") if (item := part.strip(" \t"))]


@dataclass(frozen=True, slots=True)
class Request:
    """A plain HTTP request head, well-formed, to be handed on."""

    method: str
    target: str
    version: str
    """`1.0` or `1.1`."""
    headers: Headers


@dataclass(frozen=True, slots=True)
class Upgrade:
    """An accepted WebSocket handshake."""

    path: str
    query: str
    """What follows the `?`, not decoded; empty when there is none."""
    headers: Headers
    subprotocol: str | None
    key: str
    secure: bool = False
    """Whether the client's side of the request was encrypted: by TLS here, or at a trusted proxy."""

    def response(self) -> bytes:
        """Return the 101 response (RFC 6455 section 4.2.2)."""
        accept = b64encode(hashlib.sha1(self.key.encode() + _ACCEPT_GUID, usedforsecurity=False).digest())
        protocol = f"Sec-WebSocket-Protocol: {self.subprotocol}\r\n" if self.subprotocol else ""
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (accept, protocol.encode())
        )


@dataclass(frozen=True, slots=True)
class OriginPolicy:
    """Which web origins may open a WebSocket: the defence against cross-site WebSocket hijacking.

    A request without Origin does not come from a browser and is allowed. Otherwise the origin must be
    the server's own (the scheme, host and port the request was sent to) or stand in `allowed`, exactly
    as browsers write it.

    `development` allows pages from this machine and from files (`null`) instead of the server's own origin:
    a stranger's page whose name was rebound to 127.0.0.1 would be of that, and nobody is authenticated.
    """

    allowed: frozenset[str] = frozenset()
    development: bool = False

    def allows(self, origin: str, host: str, secure: bool) -> bool:
        """Judge an Origin field's value, given the Host field's and whether TLS carried the request."""
        if origin in self.allowed:
            return True
        if origin == "null":
            return self.development
        match = _origin(origin)
        if match is None:
            return False
        scheme, name, port = match.groups()
        if self.development:
            return names_this_machine(name)
        own = _authority(host)
        if own is not None and scheme == ("https" if secure else "http"):
            default = _DEFAULT_PORTS[scheme]
            return (name.lower(), port or default) == (own[1].lower(), own[2] or default)
        return False


def names_this_machine(host: str) -> bool:
    """Tell whether a Host field means the machine itself: a loopback address, `localhost`, or a name below it
    (RFC 6761 section 6.3), with or without a port. No name of a stranger's does, wherever it resolves to."""
    match = _authority(host)
    if match is None:
        return False
    name = match[1].strip("[]").lower().removesuffix(".")
    return is_loopback(name) or name.endswith(".localhost")


class HeadReader:
    """Collects one request head, however it is cut into reads; linear in its size."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit

    @property
    def started(self) -> bool:
        """Whether the client has sent anything yet."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Take a read; return (head with its empty line, what followed it) once the head is whole.

        Raises Refused: 400 for what is no HTTP/1 head, 431 beyond the limit.
        """
        buffer = self._buffer
        if not buffer or buffer == b"\r":  # one empty line before the request: RFC 9112 section 2.2
            buffer += data
            if buffer.startswith(b"\r\n"):
                del buffer[:2]
            scanned = 0
            if buffer and buffer != b"\r" and not _is_token(chr(buffer[0])):
                raise Refused(400, "not an HTTP request", label="malformed")
        else:
            scanned = len(buffer)
            buffer += data
        end = buffer.find(b"\r\n\r\n", max(0, scanned - 3))
        size = len(buffer) if end < 0 else end + 4
        if _bare_lf(buffer, scanned, min(size, self._limit)) is not None:
            raise Refused(400, "lines must end with CR LF", label="malformed")
        if size > self._limit:
            raise Refused(431, "request head too large", label="head_too_large")
        if end < 0:
            return None
        return bytes(buffer[:size]), bytes(buffer[size:])


def parse_head(head: bytes) -> Request:
    """Parse a request head (with its empty line). Raises Refused with 400, 431 or 505."""
    lines = head[:-4].split(b"\r\n")
    match = _request_line(lines[0])
    if match is None:
        raise Refused(400, "malformed request line", label="malformed")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in b"01":
        raise Refused(505, "only HTTP/1.0 and HTTP/1.1 are spoken here", label="http_version")
    if len(lines) - 1 > MAX_FIELDS:
        raise Refused(431, "too many header fields", label="head_too_large")
    fields = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        # A folded line begins with white space, which is no token; neither is a name before " :".
        text = name.decode("latin-1")
        if not colon or not _is_token(text) or _forbidden_in_value(value):
            raise Refused(400, "malformed header field", label="malformed")
        fields.append((text.lower(), value.decode("latin-1")))
    return Request(method.decode(), target.decode(), f"1.{minor.decode()}", Headers(fields))


def judge(
    head: bytes,
    paths: Mapping[str, Sequence[str]],
    origins: OriginPolicy,
    secure: bool,
    proxied: bool = False,
) -> Request | Upgrade:
    """Decide what a request head asks for.

    `paths` maps each path that speaks WebSocket to the subprotocols it supports. `secure`: TLS carried it
    here; `proxied`: from a trusted proxy, whose word for the client's side counts. A request for any other
    upgrade (h2c) is plain HTTP, as RFC 9110 section 7.8 allows. Raises Refused.
    """
    request = parse_head(head)
    headers = request.headers
    # A version may follow the name: RFC 9110 section 7.8.
    if not any(item.partition("/")[0].lower() == "websocket" for item in headers.items("upgrade")):
        return request
    host = _check_request(request)
    key = _check_fields(headers)
    path, query = _split_target(request.target)
    supported = paths.get(path)
    if supported is None:
        raise Refused(404, "no WebSocket here", label="unknown_path")
    forwarded = headers.items("x-forwarded-proto") if proxied else []
    if forwarded:  # several: the nearest proxy, the one we know, wrote the last
        secure = forwarded[-1].lower() in ("https", "wss")
    _check_origin(headers, host, origins, secure)
    return Upgrade(path, query, headers, _choose_subprotocol(headers, supported), key, secure)


def _check_request(request: Request) -> str:
    """RFC 6455 section 4.2.1, items 1 to 2, and HTTP's own rules; returns the Host."""
    headers = request.headers
    if request.method != "GET" or request.version != "1.1":
        raise Refused(400, "a WebSocket is opened by GET and HTTP/1.1", label="method")
    hosts = headers.all("host")
    if len(hosts) != 1 or _authority(hosts[0]) is None:
        raise Refused(400, "exactly one valid Host is needed", label="host")
    if "upgrade" not in [item.lower() for item in headers.items("connection")]:
        raise Refused(400, "Upgrade without Connection: upgrade", label="connection")
    if headers.all("transfer-encoding") or any(value.strip("0") for value in headers.all("content-length")):
        raise Refused(400, "an upgrade has no body", label="body")
    return hosts[0]


def _check_fields(headers: Headers) -> str:
    """RFC 6455 section 4.2.1, items 5 and 6; returns the key."""
    versions = headers.all("sec-websocket-version")
    if len(versions) > 1:
        raise Refused(400, "more than one Sec-WebSocket-Version", label="version")
    if versions != ["13"]:
        raise Refused(
            426, "WebSocket version 13 is needed", label="version", headers=[("Sec-WebSocket-Version", "13")]
        )
    keys = headers.all("sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise Refused(400, "exactly one valid Sec-WebSocket-Key is needed", label="key")
    return keys[0]


def _is_key(value: str) -> bool:
    try:
        return len(value) == 24 and len(binascii.a2b_base64(value.encode("ascii"), strict_mode=True)) == 16
    except ValueError:  # binascii.Error and UnicodeEncodeError are both
        return False


def _split_target(target: str) -> tuple[str, str]:
    """Return path and query of an origin-form or absolute-form target (RFC 9112 section 3.2)."""
    absolute = _absolute_target(target)
    if absolute is not None:
        target = absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]
    if not target.startswith("/") or "#" in target:
        raise Refused(400, "malformed request target", label="malformed")
    path, _, query = target.partition("?")
    return path, query


def _check_origin(headers: Headers, host: str, origins: OriginPolicy, secure: bool) -> None:
    sent = headers.all("origin")
    if not sent:
        return
    if len(sent) > 1 or not origins.allows(sent[0], host, secure):
        raise Refused(403, "origin not allowed", label="origin")


def _choose_subprotocol(headers: Headers, supported: Sequence[str]) -> str | None:
    """Return the first offer that is supported, or None: RFC 6455 section 4.2.2, item 5."""
    offers = headers.items("sec-websocket-protocol")
    if not all(map(_is_token, offers)):
        raise Refused(400, "malformed Sec-WebSocket-Protocol", label="subprotocol")
    return next((offer for offer in offers if offer in supported), None)
