"""A whole server whose API is asked in-process; every answer is checked against the OpenAPI document."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from msgspec import structs

from duolink.server.app import App
from duolink.server.config import Config

LOCAL = ("127.0.0.1", 5000)
STRANGER = ("192.0.2.1", 5000)


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main, 20)
        assert len(asyncio.all_tasks()) == 1, "tasks outlive the server"

    asyncio.run(bounded())


class Answer:
    """What an application sent."""

    def __init__(self, sent: list[Any]) -> None:
        self.status: int = sent[0]["status"]
        self.headers = {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}
        self.body = b"".join(message.get("body", b"") for message in sent[1:])

    def json(self) -> Any:
        return json.loads(self.body)


def scope_of(method: str, path: str, client: Any, headers: dict[str, str]) -> dict[str, Any]:
    """Return the scope of a request; header names have `_` for `-`."""
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path, errors="replace"),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
        "client": client,
        "server": ("127.0.0.1", 80),
    }


async def ask(
    app: Any, method: str, path: str, body: bytes = b"", client: Any = LOCAL, **headers: str
) -> Answer:
    """Send one request through an ASGI application."""
    sent: list[Any] = []
    parts = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope_of(method, path, client, headers), receive, send)
    return Answer(sent)


class Operator:
    """Somebody who asks a server's API."""

    def __init__(self, app: App, document: Any) -> None:
        self.app, self.document = app, document

    async def call(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, **options: Any
    ) -> Answer:
        """Ask, check the answer against the document, and return it."""
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        if data:
            options.setdefault("content_type", "application/json")
        answer = await ask(self.app._service.app, method, path, data, **options)
        self.check(method, path, answer)
        return answer

    async def get(self, path: str, **options: Any) -> Any:
        """Ask for something that is there, and return it."""
        answer = await self.call("GET", path, **options)
        assert answer.status == 200, answer.body
        return answer.json()

    def check(self, method: str, path: str, answer: Answer) -> None:
        """Fail unless the document says that such an answer may come."""
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "content-security-policy" in answer.headers
        if answer.status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            self.conforms({"$ref": "#/components/schemas/Problem"}, answer.json())
            assert answer.json()["status"] == answer.status
        operation = self.operation(method, path)
        if operation is None:
            assert answer.status in (404, 405)
            return
        responses = operation["responses"]
        assert str(answer.status) in responses, f"{method} {path}: {answer.status} is not documented"
        content = responses[str(answer.status)].get("content")
        if content and "application/json" in content and answer.status < 400:
            assert answer.headers["content-type"] == "application/json"
            self.conforms(content["application/json"]["schema"], answer.json())

    def operation(self, method: str, path: str) -> Any:
        """Return the operation of a path in the document."""
        path = path.partition("?")[0]
        path = "/api" if path == "/api/" else path
        for template, operations in self.document["paths"].items():
            pattern = re.sub(r"\\\{\w+\\\}", "[^/]*", re.escape(template))
            if re.fullmatch(pattern, path):
                return operations.get("get" if method == "HEAD" else method.lower())
        return None

    def conforms(self, schema: Any, value: Any) -> None:
        """Fail unless a value is what a schema of the document says, and has nothing it does not name."""
        whole = {**schema, "components": self.document["components"]}
        Draft202012Validator(whole).validate(value)
        name = schema.get("$ref", "").rpartition("/")[2]
        if name:
            assert value.keys() <= self.document["components"]["schemas"][name]["properties"].keys()


@asynccontextmanager
async def operating(config: Config | None = None, **options: Any) -> AsyncIterator[Operator]:
    """A server on a port of its own, and its operator."""
    config = config or Config()
    listen = structs.replace(config.listen, port=0)
    app = App(structs.replace(config, listen=listen), **options)
    await app.start()
    try:
        document = (await ask(app._service.app, "GET", "/api/openapi.json")).json()
        yield Operator(app, document)
    finally:
        await app.stop()
