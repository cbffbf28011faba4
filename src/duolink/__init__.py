"""duolink: a real-time link between clients. Every message arrives once, in order, or is named as lost.

    async with duolink.connect("ws://127.0.0.1:8080", client_id="alice") as client:
        link = client.link("bob")
        await link.send({"hi": 1})
        async for message in link:
            print(message.data)

The names below are imported when they are first used, so that a server does not load the client,
nor a client the server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duolink.client.channel import Channel, HistoryPage
    from duolink.client.client import Client, connect
    from duolink.client.errors import (
        Busy,
        ClientClosed,
        CommandFailed,
        CommandTimeout,
        Conflict,
        DuolinkError,
        Forked,
        InvalidData,
        JournalError,
        Lost,
        Refused,
        RequestFailed,
        RequestTimeout,
        Unreachable,
        Unsettled,
        WindowFull,
    )
    from duolink.client.events import (
        ChannelGap,
        Event,
        HandlerFailed,
        MessagesLost,
        PeerChanged,
        PresenceChanged,
        State,
        StateChanged,
        SubscriptionEnded,
        Trouble,
    )
    from duolink.client.link import Link
    from duolink.client.message import Message, Sent
    from duolink.client.pool import ConnectionPool, PoolClosed, PoolExhausted, PoolTimeout
    from duolink.client.publication import Position, Publication
    from duolink.client.state import StateDeleted, StateSet
    from duolink.client.subscription import Subscription
    from duolink.protocol.codes import CloseCode, LossReason, PeerState
    from duolink.protocol.options import Options
    from duolink.server.embedding import Server

_HOMES = {
    "duolink.client.channel": ("Channel", "HistoryPage"),
    "duolink.client.client": ("Client", "connect"),
    "duolink.client.errors": (
        "Busy",
        "ClientClosed",
        "CommandFailed",
        "CommandTimeout",
        "Conflict",
        "DuolinkError",
        "Forked",
        "InvalidData",
        "JournalError",
        "Lost",
        "Refused",
        "RequestFailed",
        "RequestTimeout",
        "Unreachable",
        "Unsettled",
        "WindowFull",
    ),
    "duolink.client.events": (
        "ChannelGap",
        "Event",
        "HandlerFailed",
        "MessagesLost",
        "PeerChanged",
        "PresenceChanged",
        "State",
        "StateChanged",
        "SubscriptionEnded",
        "Trouble",
    ),
    "duolink.client.link": ("Link",),
    "duolink.client.message": ("Message", "Sent"),
    "duolink.client.pool": ("ConnectionPool", "PoolClosed", "PoolExhausted", "PoolTimeout"),
    "duolink.client.publication": ("Position", "Publication"),
    "duolink.client.state": ("StateDeleted", "StateSet"),
    "duolink.client.subscription": ("Subscription",),
    "duolink.protocol.codes": ("CloseCode", "LossReason", "PeerState"),
    "duolink.protocol.options": ("Options",),
    "duolink.server.embedding": ("Server",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Busy",
    "Channel",
    "ChannelGap",
    "Client",
    "ClientClosed",
    "CloseCode",
    "CommandFailed",
    "CommandTimeout",
    "Conflict",
    "ConnectionPool",
    "DuolinkError",
    "Event",
    "Forked",
    "HandlerFailed",
    "HistoryPage",
    "InvalidData",
    "JournalError",
    "Link",
    "LossReason",
    "Lost",
    "Message",
    "MessagesLost",
    "Options",
    "PeerChanged",
    "PeerState",
    "PoolClosed",
    "PoolExhausted",
    "PoolTimeout",
    "Position",
    "PresenceChanged",
    "Publication",
    "Refused",
    "RequestFailed",
    "RequestTimeout",
    "Sent",
    "Server",
    "State",
    "StateChanged",
    "StateDeleted",
    "StateSet",
    "Subscription",
    "SubscriptionEnded",
    "Trouble",
    "Unreachable",
    "Unsettled",
    "WindowFull",
    "connect",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'duolink' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return __all__
