"""An example of each answer, for the document. The tests hold them against the schemas."""

from collections.abc import Mapping
from typing import Any, Final

_THEN: Final = 1_795_737_600_000

_SERVER: Final = {
    "node": "duolink",
    "version": "0.1.0",
    "started": _THEN,
    "now": _THEN + 3_600_000,
    "uptime_s": 3600.0,
    "development": False,
    "durable": True,
    "database": "/var/lib/duolink.db",
    "ready": True,
    "reasons": [],
    "draining": False,
    "auth": "jwt",
    "limits": {
        "message": 65_536,
        "payload": 1_048_576,
        "subscriptions": 128,
        "watched": 256,
        "window": 256,
        "window_bytes": 1_048_576,
    },
}

_STATS: Final = {
    "time": _THEN,
    "uptime_s": 3600.0,
    "connections": {"websocket": 120, "tcp": 4, "http": 1},
    "sessions": {"active": 124, "detached": 2},
    "messages": {"received": 81_000, "sent": 92_500},
    "bytes": {"received": 9_100_000, "sent": 14_200_000},
    "delivery": {"count": 3000, "buckets": [[0.001, 2400], [0.01, 2990], [None, 3000]]},
    "channels": 12,
    "subscriptions": 240,
    "mailboxes": {"mailboxes": 3, "messages": 41, "bytes": 5300},
    "slow_consumers": {"held": 0, "closed": 1},
    "refusals": 7,
    "errors": 2,
    "loop_lag_ms": 0.4,
    "cpu_s": 81.5,
    "memory": 68_000_000,
}

_CLIENT: Final = {
    "client": "bob:phone",
    "user": "bob",
    "state": "active",
    "transport": "websocket",
    "address": "192.0.2.7",
    "since": _THEN,
    "attached": _THEN,
    "generation": _THEN,
    "attachment": 1,
    "sent": 310,
    "received": 120,
    "bytes_sent": 41_000,
    "bytes_received": 18_000,
    "buffered": 0,
    "slow": False,
    "subscriptions": 1,
    "mailbox": None,
}

_CHANNEL: Final = {"name": "news", "subscribers": 20, "epoch": "Zk3nq0aXb1Yt", "offset": 41, "durable": True}

_HAPPENING: Final = {
    "id": _THEN + 1,
    "time": _THEN,
    "kind": "connected",
    "client": "bob:phone",
    "user": "bob",
    "address": "192.0.2.7",
    "detail": "websocket",
}

EXAMPLES: Final[Mapping[str, Any]] = {
    "getServer": _SERVER,
    "getStats": _STATS,
    "listHappenings": {"items": [_HAPPENING], "next": _HAPPENING["id"]},
    "listClients": {"items": [_CLIENT], "next": None},
    "getClient": {
        **_CLIENT,
        "session": "9mWkW7Yk0m8pVX5ToUogNvjGjkDe0XuT",
        "run": _THEN,
        "rtt_ms": 12.5,
        "last_seen": _THEN,
        "channels": [{"name": "news", "offset": 41}],
        "links": [{"peer": "alice", "lane": "messages", "in_flight": 0}],
        "mailbox": {"messages": 2, "bytes": 180, "oldest": _THEN},
        "claims": {
            "user": "bob",
            "client": "bob:*",
            "subscribe": ["news"],
            "publish": [],
            "links": ["alice"],
            "expires": _THEN + 3_600_000,
            "operator": False,
        },
    },
    "sendMessage": {"to": "bob", "seq": 1, "state": "stored"},
    "listChannels": {"items": [_CHANNEL], "next": None},
    "getChannel": {
        **_CHANNEL,
        "retention": {
            "history_count": 1000,
            "history_age_s": 3600.0,
            "history_bytes": 16_777_216,
            "state_keys": 1000,
            "state_bytes": 1_048_576,
        },
        "state_entries": 1,
    },
    "getPresence": {"items": [{"client": "bob:phone", "user": "bob", "since": _THEN}], "next": None},
    "getHistory": {
        "items": [{"offset": 41, "time": _THEN, "from": "$server", "data": {"headline": "hello"}}],
        "epoch": "Zk3nq0aXb1Yt",
        "next": None,
    },
    "publish": {"epoch": "Zk3nq0aXb1Yt", "offset": 42},
    "getState": {"items": [{"name": "title", "value": "Draft", "version": 7}], "next": None},
    "setValue": {"version": 8},
    "deleteValue": {"version": 9},
    "listMailboxes": {
        "items": [{"client": "@carol", "messages": 41, "bytes": 5300, "oldest": _THEN, "senders": 2}],
        "next": None,
    },
}
"""By the name of the operation."""
