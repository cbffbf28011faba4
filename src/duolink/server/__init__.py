"""The server: a node, its ports, and `Server`, which puts one into your own program.

Names are imported when they are used: a command that only signs a token needs no network.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duolink.server.auth import AuthenticationError, Identity
    from duolink.server.config import Config, ConfigError
    from duolink.server.embedding import (
        Incoming,
        NotDelivered,
        Position,
        PublishFailed,
        RequestRefused,
        Sent,
        Server,
        ServerLink,
    )

__all__ = [
    "AuthenticationError",
    "Config",
    "ConfigError",
    "Identity",
    "Incoming",
    "NotDelivered",
    "Position",
    "PublishFailed",
    "RequestRefused",
    "Sent",
    "Server",
    "ServerLink",
]

_HOMES = {
    "AuthenticationError": "auth",
    "Identity": "auth",
    "Config": "config",
    "ConfigError": "config",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'embedding')}"), name)
