"""What comes at most once, for the functions that take it: ephemeral messages and signals."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from duolink.client.message import decode
from duolink.protocol.messages import Ephemeral, Signal

if TYPE_CHECKING:
    from duolink.client.client import Client


class Once:
    """Hands over what nobody keeps: without a handler it is dropped."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def ephemeral(self, ephemeral: Ephemeral) -> None:
        """An ephemeral message has come, from a peer or in a channel."""
        client = self._client
        if ephemeral.channel:
            channel = client._channels.get(ephemeral.channel)
            if channel is not None and channel._on_ephemeral is not None:
                self._call("ephemeral handler", channel._on_ephemeral, ephemeral, ephemeral.sender)
            return
        link = client._links.get(ephemeral.sender)
        if link is not None and link._on_ephemeral is not None:
            self._call("ephemeral handler", link._on_ephemeral, ephemeral)

    def signal(self, signal: Signal) -> None:
        """A signal has come."""
        link = self._client._links.get(signal.sender)
        if link is not None and link._on_signal is not None:
            self._call("signal handler", link._on_signal, signal)

    def _call(self, what: str, handler: Callable[..., Any], message: Ephemeral | Signal, *more: Any) -> None:
        try:
            data = decode(message.data, isinstance(message, Ephemeral) and message.binary)
            result = handler(data, *more)
        except Exception as error:
            self._client._report(what, error)
            return
        if hasattr(result, "__await__"):
            self._client._spawn(self._finish_call(what, result))

    async def _finish_call(self, what: str, result: Any) -> None:
        try:
            await result
        except Exception as error:
            self._client._report(what, error)
