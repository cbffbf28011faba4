"""Clients: who is here, in pages and in detail, and how to send one away."""

import asyncio
from itertools import islice
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from duolink.engines.base import Holding
from duolink.protocol import limits
from duolink.protocol.codec import is_client_id
from duolink.protocol.codes import CloseCode
from duolink.server import answers
from duolink.server.api import documents as doc
from duolink.server.api.arguments import Ask
from duolink.server.api.backend import Backend, ask
from duolink.server.api.slices import SLICE
from duolink.server.auth import Identity, Patterns
from duolink.server.connection import Connection
from duolink.server.party import settled_of
from duolink.server.registry import Session

MAX_LOOKS: Final = 5000
"""Names looked at for one page, some 2 ms: a page of what is rare may be shorter than asked for."""

MAX_PARTS: Final = 1000
"""Channels, or links, told of one client."""


class Clients:
    """Answers `/api/clients`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._node = backend.node

    async def page(self, asked: Ask) -> Response:
        """A page."""
        state, limit = asked.query["state"], asked.query["limit"]
        sessions = self._node.sessions
        items: list[doc.ClientItem] = []
        looks, last, more = 0, asked.query["after"], True
        while more and len(items) < limit and looks < MAX_LOOKS:
            names = list(islice(sessions.names.after(last, asked.query["prefix"]), SLICE + 1))
            more = len(names) > SLICE
            for at, name in enumerate(names[:SLICE]):
                looks, last = looks + 1, name
                session = sessions.get(name)
                assert session is not None
                if state is None or (state == "active") == (session.connection is not None):
                    items.append(self._item(session))
                if len(items) >= limit or looks >= MAX_LOOKS:
                    more = more or at + 1 < len(names)
                    break
            await asyncio.sleep(0)
        waiting = await self._waiting(tuple(item.client for item in items))
        for item in items:
            item.mailbox = waiting.get(item.client)
        return answers.json(doc.Clients(items=items, next=last if more else None))

    async def get(self, asked: Ask) -> Response:
        """One."""
        client = self._name(asked)
        session = self._node.sessions.get(client)
        holding: Holding | None = None
        try:
            holding = next(iter(await ask(self._node.mailboxes.engine.holdings, (client,))), None)
        except HTTPException:
            if session is None:
                raise
        if session is None and holding is None:
            raise HTTPException(404, "no session here, and nothing in a mailbox, of this client")
        return answers.json(self._detail(client, session, holding))

    async def disconnect(self, asked: Ask) -> Response:
        """Send it away."""
        client, body = self._name(asked), asked.body
        if len(body.reason.encode()) > limits.MAX_REASON:
            raise HTTPException(400, f"reason: at most {limits.MAX_REASON} bytes")
        code = CloseCode.SERVICE_RESTART if body.reconnect else CloseCode.DISCONNECTED
        if not self._node.send_away(client, code, body.reason):
            raise HTTPException(404, "no session here of this client")
        return answers.nothing()

    def _name(self, asked: Ask) -> str:
        client = asked.path["client"]
        if not is_client_id(client):
            raise HTTPException(404, "not a name a client can have")
        return client

    async def _waiting(self, names: tuple[str, ...]) -> dict[str, int]:
        """How many messages wait for clients; nothing is known while the storage fails."""
        try:
            found: tuple[Holding, ...] = await ask(self._node.mailboxes.engine.holdings, names)
        except HTTPException:
            return {}
        return {holding.receiver: holding.messages for holding in found}

    # --- documents ---------------------------------------------------------------------------

    def _item(self, session: Session) -> doc.ClientItem:
        return doc.ClientItem(**self._common(session.client_id, session), mailbox=None)

    def _common(self, client: str, session: Session | None) -> dict[str, Any]:
        backend = self._backend
        connection = session.connection if session is not None else None
        state = "away" if session is None else ("detached" if connection is None else "active")
        return {
            "client": client,
            "user": session.user or None if session is not None else None,
            "state": state,
            "transport": connection.kind if connection is not None else None,
            "address": (connection.peer_address or None) if connection is not None else None,
            "since": backend.wall(session.since) if session is not None else None,
            "attached": backend.wall(session.attached) if session is not None else None,
            "generation": session.generation if session is not None else None,
            "attachment": session.attachment if session is not None else None,
            "sent": connection.sent if connection is not None else 0,
            "received": connection.received_messages if connection is not None else 0,
            "bytes_sent": connection.bytes_sent if connection is not None else 0,
            "bytes_received": connection.bytes_received if connection is not None else 0,
            "buffered": connection.wire.buffered() if connection is not None else 0,
            "slow": connection is not None and connection.full,
            "subscriptions": len(session.subscriptions) if session is not None else 0,
        }

    def _detail(self, client: str, session: Session | None, holding: Holding | None) -> doc.ClientDetail:
        connection = session.connection if session is not None else None
        return doc.ClientDetail(
            **self._common(client, session),
            session=session.id if session is not None else None,
            run=session.run if session is not None else None,
            rtt_ms=self._rtt(connection),
            last_seen=self._backend.wall(connection.last_seen) if connection is not None else None,
            channels=_channels(session) if session is not None else [],
            links=_links(session) if session is not None else [],
            mailbox=content(holding) if holding is not None else None,
            claims=_rights(session.identity) if session is not None else None,
        )

    @staticmethod
    def _rtt(connection: Connection | None) -> float | None:
        return round(connection.rtt * 1000, 3) if connection is not None and connection.rtt else None


def content(holding: Holding) -> doc.MailboxContent:
    """Return what waits in a mailbox as a document."""
    return doc.MailboxContent(messages=holding.messages, bytes=holding.size, oldest=holding.oldest or None)


def _channels(session: Session) -> list[doc.ChannelPosition]:
    subscriptions = list(session.subscriptions.values())[:MAX_PARTS]
    return [doc.ChannelPosition(name=s.channel.name, offset=s.channel.offset) for s in subscriptions]


def _links(session: Session) -> list[doc.LinkItem]:
    found: list[doc.LinkItem] = []
    for peer, flow in session.flows.items():
        for lane, last in (("messages", flow.last_messages), ("bulk", flow.last_bulk)):
            if last or lane == "messages":
                in_flight = max(0, last - settled_of(session, flow, lane)) if last else 0
                found.append(doc.LinkItem(peer=peer, lane=lane, in_flight=in_flight))  # type: ignore[arg-type]
        if len(found) >= MAX_PARTS:
            break
    return found[:MAX_PARTS]


def _rights(identity: Identity) -> doc.Rights:
    expires = identity.expires_at
    return doc.Rights(
        user=identity.user or None,
        client=identity.client,
        subscribe=_patterns(identity.subscribe),
        publish=_patterns(identity.publish),
        links=_patterns(identity.links),
        expires=round(expires * 1000) if expires is not None else None,
        operator=identity.claims.get("operator") is True,
    )


def _patterns(patterns: Patterns) -> list[str]:
    return sorted(patterns.exact) + [f"{prefix}*" for prefix in sorted(patterns.prefixes)]
