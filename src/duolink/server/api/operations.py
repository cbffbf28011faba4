"""The table of what the API does: the router, the OpenAPI document and the page are made from it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from starlette.responses import Response

from duolink.server.api.arguments import Ask, Parameter

Method = Literal["GET", "POST", "PUT", "DELETE"]

Handler = Callable[[Ask], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. `path` has `{names}` for segments; `answers` are the types of the bodies by
    status, `None` for none, a text for a media type that is no JSON; `errors` the statuses beside those every
    operation has."""

    method: Method
    path: str
    name: str
    tag: str
    summary: str
    handler: Handler
    description: str = ""
    parameters: Sequence[Parameter] = ()
    body: Any = None
    body_required: bool = True
    answers: dict[int, Any]
    errors: tuple[int, ...] = ()
    example: Any = None
    """An example of the body that is sent."""

    @property
    def segments(self) -> tuple[str, ...]:
        """The path's segments."""
        return tuple(self.path.split("/"))

    @property
    def open(self) -> bool:
        """Whether anybody may ask: it tells nothing of this server."""
        return self.tag == "documents"
