"""From a request to its operation: paths, rights, arguments, problems, counting."""

from collections.abc import Callable, Iterable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from duolink.server.access import Access
from duolink.server.answers import problem
from duolink.server.api.arguments import Ask, read_body, read_parameters, segments
from duolink.server.api.operations import Operation


class Api:
    """The API as an ASGI application. Paths it does not know go to `elsewhere`, if there is one."""

    def __init__(
        self,
        operations: Iterable[Operation],
        access: Access,
        count: Callable[[str, int], None],
        failed: Callable[[Exception], None],
        elsewhere: ASGIApp | None = None,
    ) -> None:
        """`count` is told the path (as in the table) and status of each answer; `failed` of defects."""
        self._access = access
        self._count = count
        self._failed = failed
        self._elsewhere = elsewhere
        self._paths: dict[int, list[tuple[tuple[str, ...], dict[str, Operation]]]] = {}
        for operation in operations:
            self._add(operation)

    def _add(self, operation: Operation) -> None:
        wanted = operation.segments
        paths = self._paths.setdefault(len(wanted), [])
        for known, methods in paths:
            if known == wanted:
                methods[operation.method] = operation
                return
        paths.append((wanted, {operation.method: operation}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        found = self._find(scope)
        if found is None and self._elsewhere is not None:
            await self._elsewhere({**scope, "path_params": {}}, receive, send)
            return
        path = "/api/…"
        try:
            if found is None:
                raise HTTPException(404, "there is nothing at this path")
            methods, names = found
            path = next(iter(methods.values())).path
            response = await self._answer(request, methods, names)
        except HTTPException as error:
            response = problem(error.status_code, error.detail, error.headers)
        except Exception as error:
            self._failed(error)
            response = problem(500, "the server failed to answer; its log says why")
        self._count(path, response.status_code)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> tuple[dict[str, Operation], dict[str, str]] | None:
        raw = scope.get("raw_path") or scope["path"].encode()
        try:
            asked = segments(raw.removesuffix(b"/") if raw == b"/api/" else raw)
        except HTTPException:
            return None
        for wanted, methods in self._paths.get(len(asked), ()):
            names: dict[str, str] = {}
            for want, given in zip(wanted, asked, strict=True):
                if want[:1] == "{":
                    names[want[1:-1]] = given
                elif want != given:
                    break
            else:
                return methods, names
        return None

    async def _answer(
        self, request: Request, methods: dict[str, Operation], names: dict[str, str]
    ) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        operation = methods.get(method)
        if operation is None:
            allowed = sorted(methods) + (["HEAD"] if "GET" in methods else [])
            raise HTTPException(405, f"this path answers {', '.join(allowed)}", {"allow": ", ".join(allowed)})
        if not operation.open:
            await self._access.check(request, method)
        query = read_parameters(request, operation.parameters)
        body: Any = None
        if operation.body is not None:
            body = await read_body(request, operation.body, operation.body_required)
        return await operation.handler(Ask(request, names, query, body))
