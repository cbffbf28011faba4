"""What the program that embeds a node may hear and decide.

Every hook is optional and gets plain values. A hook that raises is logged and changes nothing; one that
decides and raises has decided *no*. Hooks run inside the node's turn: they must be quick and must not call
the node back, except through its `local` connection.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from duolink.server.auth import Identity

Action = Literal["subscribe", "publish"]


@dataclass(slots=True, kw_only=True)
class Hooks:
    """The hooks of a node."""

    authorize: Callable[[Identity, Action, str], bool | None] | None = None
    """(identity, action, channel) → whether it may; None leaves it to the identity's own rights."""

    connected: Callable[[str, Identity, bool], None] | None = None
    """(client id, identity, resumed): a connection carries the client now."""

    disconnected: Callable[[str, int], None] | None = None
    """(client id, close code): that connection has ended; the session may wait to be resumed."""

    ended: Callable[[str], None] | None = None
    """(client id): its session is over."""

    message: Callable[[str, str, str, int, int, bytes, bool], None] | None = None
    """(sender, receiver, lane, run, seq, data, binary): a link message was handed over; repeats too."""

    published: Callable[[str, str, int, bytes, bool], None] | None = None
    """(channel, sender, offset, data, binary): a log has a new publication."""
