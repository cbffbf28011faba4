"""How a connection ends that the far end may have ended already."""

import asyncio
import errno
from typing import Any

from duolink.server.linger import Linger


class Reset(asyncio.Transport):
    """A transport whose connection the far end has just reset."""

    aborted = False

    def set_protocol(self, protocol: Any) -> None: ...

    def resume_reading(self) -> None: ...

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    def abort(self) -> None:
        self.aborted = True


def test_a_connection_that_was_reset_meanwhile_is_aborted() -> None:
    """A browser sends its close frame and a reset when a page goes; the half-close then fails."""

    async def body() -> None:
        transport = Reset()
        deadline = asyncio.get_running_loop().call_later(60, transport.abort)
        Linger(transport, deadline, lambda: None).begin()
        assert transport.aborted
        deadline.cancel()

    asyncio.run(body())
