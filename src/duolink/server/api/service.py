"""The whole of the API, put together."""

from starlette.types import ASGIApp

from duolink.server.access import Access
from duolink.server.api.backend import Backend
from duolink.server.api.overview import Overview
from duolink.server.api.router import Api
from duolink.server.api.stream import Streams
from duolink.server.api.table import operations
from duolink.server.auth import Authenticator
from duolink.server.localclient import LocalClient


class Service:
    """The operator's API of a node."""

    def __init__(
        self,
        backend: Backend,
        client: LocalClient,
        authenticator: Authenticator,
        elsewhere: ASGIApp | None = None,
    ) -> None:
        """`client` speaks as `$server`; `elsewhere` gets the requests whose path is none of the API's."""
        self._backend = backend
        overview = Overview(backend)
        self.streams = Streams(backend, overview)
        self.app = Api(
            operations(backend, overview, self.streams, client),
            Access(backend.config, authenticator, backend.node.clock),
            backend.counts.api_request,
            self._failed,
            elsewhere,
        )
        """The ASGI application."""

    def close(self) -> None:
        """End the streams; the rest is answered as long as the port is open."""
        self.streams.close()

    def _failed(self, error: Exception) -> None:
        node = self._backend.node
        node.log.warning("api", "an answer of the API failed", node.clock.monotonic(), exc_info=error)
