"""Accepting connections: the sockets of a port, and those of its connections that have no transport yet."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

logger = logging.getLogger(__name__)

ACCEPTS_PER_TURN: Final = 64
"""Connections accepted in one loop turn, so that a storm of them does not hold up those that exist."""

OUT_OF_DESCRIPTORS_PAUSE: Final = 1.0
"""Seconds without accepting when the process or the system has no descriptors left; asyncio's value."""

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Accepts what connects to a port, from `start` until `stop`, and hands each socket to `accepted`, with
    the address of its far end. Who takes it makes its transport with `arrive`, or closes it."""

    def __init__(self, backlog: int, accepted: Callable[[socket.socket, str], None]) -> None:
        self._backlog = backlog
        self._accepted = accepted
        self._loop: asyncio.AbstractEventLoop
        self._sockets: list[socket.socket] = []
        self._resting: dict[socket.socket, asyncio.TimerHandle] = {}
        self._arrivals: dict[asyncio.Task[None], socket.socket] = {}

    @property
    def arrivals(self) -> int:
        """Connections that have no transport yet: they are in their TLS handshake, or about to have one."""
        return len(self._arrivals)

    async def start(self, host: str, port: int) -> int:
        """Bind and listen; return the port (0 lets the system choose). Raises OSError when that fails."""
        self._loop = loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
                listening = _bind(family, (address[0], port, *address[2:]), self._backlog)
                self._sockets.append(listening)
                port = listening.getsockname()[1]
        except OSError:
            self.stop()
            raise
        for listening in self._sockets:
            loop.add_reader(listening, self._accept, listening)
        return port

    def stop(self) -> None:
        """Close the port; connections that exist live on. Repeating is safe."""
        for rest in self._resting.values():
            rest.cancel()
        self._resting.clear()
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self._sockets.clear()

    def arrive(self, connection: socket.socket, making: Coroutine[Any, Any, None]) -> None:
        """Let a connection get its transport."""
        task = self._loop.create_task(making)
        self._arrivals[task] = connection
        task.add_done_callback(self._arrivals.pop)

    def abort(self) -> None:
        """End the TLS handshakes that are under way. (Cancelling one would log an error.)"""
        for connection in self._arrivals.values():
            with suppress(OSError):  # its far end may have gone
                connection.shutdown(socket.SHUT_RDWR)

    async def wait(self) -> None:
        """Wait until nobody is arriving any more."""
        if self._arrivals:
            await asyncio.wait(list(self._arrivals))

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    continue  # accept(2): errors of the new connection are reported here
                logger.error("cannot accept connections: %s", error.strerror)
                self._rest(listening)
                return
            connection.setblocking(False)
            self._accepted(connection, address[0])

    def _rest(self, listening: socket.socket) -> None:
        """Stop accepting for a while: the socket stays readable, and would be tried without end."""
        self._loop.remove_reader(listening)
        self._resting[listening] = self._loop.call_later(
            OUT_OF_DESCRIPTORS_PAUSE, self._accept_again, listening
        )

    def _accept_again(self, listening: socket.socket) -> None:
        del self._resting[listening]
        self._loop.add_reader(listening, self._accept, listening)


def _bind(family: int, address: tuple[str | int, ...], backlog: int) -> socket.socket:
    # With the protocol named, accepted sockets get TCP_NODELAY from the loops; without, they do not.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # IPv4 has a socket of its own
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(backlog)
    except OSError:
        listening.close()
        raise
    return listening
