"""The API as an OpenAPI 3.1 document and as a page for people, both made from the table of operations."""

import re
from collections.abc import Sequence
from html import escape
from typing import Any, Final

import msgspec
from starlette.responses import HTMLResponse, Response

from duolink.server import answers
from duolink.server.api import documents as doc
from duolink.server.api.arguments import Ask, Parameter
from duolink.server.api.examples import EXAMPLES
from duolink.server.api.operations import Operation

DESCRIPTION: Final = (
    "What an operator sees of a duolink server and does about it. Times are milliseconds since 1970 (UTC), "
    "durations milliseconds unless a name ends in `_s`. Errors are problem documents (RFC 9457). Lists come "
    "in pages: give the `next` of one as `after` for the following one; `null` is the end, and a page may be "
    "shorter than its `limit`. Names in paths are percent-encoded, `/` as `%2F`.\n\n"
    "A server in development needs no token. Otherwise it is `http.operator_token` of the settings, or a "
    "token of `[auth]` with the claim `operator: true`. Tokens are never taken from the URL. Pages of other "
    "origins are refused, unless `listen.origins` names them."
)

TAGS: Final = {
    "documents": "The API about itself.",
    "server": "The server as a whole.",
    "clients": "Clients with a session on this node, or a mailbox.",
    "messages": "Messages from `$server`.",
    "channels": "Channels, their history and shared state.",
    "mailboxes": "What waits for clients that are away.",
}

_PROBLEMS: Final = {
    400: "A parameter or the body is not what it may be.",
    401: "A token is needed, or this one is no good.",
    403: "The token lacks the claim `operator`, or the request comes from a page of another site.",
    404: "There is no such thing.",
    408: "The body took too long.",
    409: "The name has another version.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    503: "It cannot be done now; try again later.",
    507: "The shared state has no room.",
}

_NAMES: Final = {
    "client": "A client id.",
    "name": "A channel.",
    "key": "A name of the shared state.",
}
"""What the names in paths are."""

_STYLE: Final = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
code, pre { background: #8882; padding: .1em .3em; border-radius: 3px }
pre { padding: .6em; overflow-x: auto }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top;
padding: .2em .8em .2em 0; border-bottom: 1px solid #8884 } h3 { margin-top: 2.5em }
summary { cursor: pointer } @media (prefers-color-scheme: dark) { body { background: #111; color: #ddd }
a { color: #8bf } }
"""


class OpenApi:
    """Serves the document and the page, once they are made."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._document = b""
        self._page = ""

    def make(self, operations: Sequence[Operation]) -> None:
        """Make both of a table."""
        document = make_document(operations, self._version)
        self._document = msgspec.json.encode(document)
        self._page = _page(document)

    async def document(self, ask: Ask) -> Response:
        """The document."""
        return answers.encoded(self._document)

    async def page(self, ask: Ask) -> Response:
        """The page."""
        return HTMLResponse(self._page, headers=answers.HEADERS)


def make_document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """Return the OpenAPI document of a table."""
    types = _types(operations)
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    by_type = {id(type_): schema for type_, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        entry = paths.setdefault(operation.path, {})
        entry[operation.method.lower()] = _operation(operation, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "duolink operator's API",
            "version": version,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "this server"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "security": [{}, {"operator": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {
                str(status): {
                    "description": text,
                    "content": {
                        "application/problem+json": {
                            "schema": {"$ref": "#/components/schemas/Problem"},
                            "example": {
                                "type": "about:blank", "title": "…", "status": status, "detail": text,
                            },
                        }
                    },
                }
                for status, text in _PROBLEMS.items()
            },
            "securitySchemes": {
                "operator": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`http.operator_token`, or a token with the claim `operator: true`.",
                }
            },
        },
    }  # fmt: skip


def _types(operations: Sequence[Operation]) -> list[Any]:
    types: list[Any] = [doc.Problem, doc.ServerInfo, doc.Stats, doc.Happening]
    for operation in operations:
        types += [p.type for p in operation.parameters]
        types += [
            body for body in operation.answers.values() if body is not None and not isinstance(body, str)
        ]
        if operation.body is not None:
            types.append(operation.body)
    return list({id(type_): type_ for type_ in types}.values())


def _operation(operation: Operation, schemas: dict[int, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [
            *(_name(name) for name in re.findall(r"\{(\w+)\}", operation.path)),
            *(_parameter(parameter, schemas) for parameter in operation.parameters),
        ],
        "responses": {
            str(status): _answer(operation, status, body, schemas)
            for status, body in operation.answers.items()
        },
    }
    if operation.description:
        made["description"] = operation.description
    if operation.body is not None:
        content: dict[str, Any] = {"schema": schemas[id(operation.body)]}
        if operation.example is not None:
            content["example"] = operation.example
        made["requestBody"] = {
            "required": operation.body_required, "content": {"application/json": content},
        }  # fmt: skip
    errors = {*operation.errors, 400}
    if operation.open:
        made["security"] = [{}]
    else:
        errors |= {401, 403}
    if operation.body is not None:
        errors |= {408, 413, 415}
    for status in sorted(errors):
        made["responses"][str(status)] = {"$ref": f"#/components/responses/{status}"}
    return made


def _name(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": _NAMES[name],
        "schema": {"type": "string", "minLength": 1},
    }


def _parameter(parameter: Parameter, schemas: dict[int, Any]) -> dict[str, Any]:
    schema = dict(schemas[id(parameter.type)])
    if parameter.default not in (None, msgspec.UNSET, ""):
        schema["default"] = parameter.default
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.default is msgspec.UNSET,
        "description": parameter.description,
        "schema": schema,
    }


def _answer(operation: Operation, status: int, body: Any, schemas: dict[int, Any]) -> dict[str, Any]:
    text = {200: "It is so.", 202: "It is under way.", 204: "It is done."}[status]
    if body is None:
        return {"description": text}
    if isinstance(body, str):
        schema: dict[str, Any] = {"type": "object"} if body == "application/json" else {"type": "string"}
        return {"description": text, "content": {body: {"schema": schema}}}
    content: dict[str, Any] = {"schema": schemas[id(body)]}
    if operation.name in EXAMPLES:
        content["example"] = EXAMPLES[operation.name]
    return {"description": text, "content": {"application/json": content}}


# --- the page ---------------------------------------------------------------------------------


def _page(document: dict[str, Any]) -> str:
    info = document["info"]
    parts = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n',
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(info["title"])}</title>\n',
        f"<style>{_STYLE}</style>\n<h1>{escape(info['title'])}</h1>\n",
        f"<p>Version {escape(info['version'])}. ",
        'For programs: <a href="/api/openapi.json">/api/openapi.json</a> (OpenAPI 3.1).</p>\n',
        *(f"<p>{_text(paragraph)}</p>\n" for paragraph in info["description"].split("\n\n")),
    ]
    found = [(path, method, op) for path, ops in document["paths"].items() for method, op in ops.items()]
    for tag in document["tags"]:
        mine = [each for each in found if tag["name"] in each[2]["tags"]]
        if mine:
            parts.append(f"<h2>{escape(tag['name'])}</h2>\n<p>{_text(tag['description'])}</p>\n")
            parts += [_section(*each) for each in mine]
    parts.append("<h2>documents</h2>\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        pretty = msgspec.json.format(msgspec.json.encode(schema), indent=2).decode()
        parts.append(
            f'<details id="{escape(name)}"><summary><code>{escape(name)}</code> '
            f"{_text(schema.get('description', ''))}</summary><pre>{escape(pretty)}</pre></details>\n"
        )
    return "".join([*parts, "</html>\n"])


def _section(path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [f"<h3><code>{method.upper()} {escape(path)}</code></h3>\n<p>{_text(operation['summary'])}."]
    if "description" in operation:
        parts.append(f" {_text(operation['description'])}")
    parts.append("</p>\n")
    if operation["parameters"]:
        parts.append("<table><tr><th>parameter</th><th>in</th><th>meaning</th></tr>\n")
        for each in operation["parameters"]:
            cells = f"<code>{escape(each['name'])}</code>", escape(each["in"]), _text(each["description"])
            parts.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n")
        parts.append("</table>\n")
    body = operation.get("requestBody")
    if body is not None:
        content = body["content"]["application/json"]
        parts.append(f"<p>Body: {_reference(content['schema'])}")
        if "example" in content:
            example = msgspec.json.encode(content["example"]).decode()
            parts.append(f", for example <code>{escape(example)}</code>")
        parts.append("</p>\n")
    answered = []
    for status, answer in operation["responses"].items():
        for kind, content in answer.get("content", {}).items():
            what = _reference(content["schema"]) if kind == "application/json" else escape(kind)
            answered.append(f"{status}: {what}")
        if "content" not in answer:
            answered.append(status)
    return "".join([*parts, f"<p>Answers: {', '.join(answered)}</p>\n"])


def _reference(schema: dict[str, Any]) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    return f'<a href="#{escape(name)}"><code>{escape(name)}</code></a>' if name else "<code>object</code>"


def _text(text: str) -> str:
    """Return text with `code` marked up."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
