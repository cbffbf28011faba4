"""What a request asks: its parameters and its body, checked before anybody acts on them."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
from msgspec import Meta, Struct
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from duolink.protocol import limits
from duolink.server.log import printable

MAX_BODY: Final = 4 * limits.MAX_PAYLOAD
"""Bytes of a request's body: the largest message a server may be set to take, all of it escaped, and its
envelope."""

BODY_TIMEOUT: Final = 10.0
"""Seconds a body may take to arrive."""

MAX_PARAMETERS: Final = 16
"""Parameters of one query."""

Limit = Annotated[int, Meta(ge=1, le=1000, description="At most so many items.")]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a query or a header."""

    name: str
    type: Any
    description: str
    default: Any = msgspec.UNSET
    place: Literal["query", "header"] = "query"


LIMIT: Final = Parameter("limit", Limit, "At most so many items.", 100)
AFTER: Final = Parameter("after", str, "Begin behind this name: the `next` of the page before.", "")
PREFIX: Final = Parameter("prefix", str, "Only names that begin like this.", "")


class Ask(Struct):
    """One request to an operation: `path` are the names in its path, `query` its parameters, each with its
    default, `body` what came with it."""

    request: Request
    path: dict[str, str]
    query: dict[str, Any]
    body: Any = None


def segments(raw_path: bytes) -> list[str]:
    """Return the segments of a path that is percent-encoded, each decoded by itself. Raises `HTTPException`
    404 for one that is not UTF-8."""
    try:
        return [unquote_to_bytes(part).decode() for part in raw_path.split(b"/")]
    except UnicodeDecodeError:
        raise HTTPException(404) from None


def read_parameters(request: Request, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return the values of parameters. Raises `HTTPException` 400 for what they may not be."""
    given: dict[str, str] = {}
    try:
        query = request.scope["query_string"].decode("ascii")
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=bool(query), errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )  # fmt: skip
    except ValueError:
        raise HTTPException(400, "the query is malformed") from None
    known = {parameter.name: parameter for parameter in parameters}
    for name, value in pairs:
        if name not in known or known[name].place != "query":
            raise HTTPException(400, f"there is no parameter {printable(name, 40)!r} here")
        if name in given:
            raise HTTPException(400, f"{name} is given twice")
        given[name] = value
    for parameter in parameters:
        if parameter.place == "header" and parameter.name in request.headers:
            given[parameter.name] = request.headers[parameter.name]
    return {name: _value(parameter, given) for name, parameter in known.items()}


def _value(parameter: Parameter, given: Mapping[str, str]) -> Any:
    value = given.get(parameter.name)
    if value is None:
        return parameter.default
    try:
        return msgspec.convert(value, parameter.type, strict=False)
    except msgspec.ValidationError as error:
        raise HTTPException(400, f"{parameter.name}: {printable(str(error))}") from None


async def read_body(request: Request, type_: Any, required: bool) -> Any:
    """Return the body as a document, or the document's defaults where none came and none is needed. Raises
    `HTTPException` 400, 408, 413, 415."""
    body = await _collect(request)
    if not body and not required:
        return type_()
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise HTTPException(415, "the body must be application/json")
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(400, f"the body: {printable(str(error))}") from None


async def _collect(request: Request) -> bytes:
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length[:20]) > MAX_BODY:
        raise HTTPException(413, f"at most {MAX_BODY} bytes")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY:
                    raise HTTPException(413, f"at most {MAX_BODY} bytes")
                parts.append(part)
    except TimeoutError:
        raise HTTPException(408, "the body took too long") from None
    except ClientDisconnect:
        raise HTTPException(400, "the body is incomplete") from None
    return b"".join(parts)
