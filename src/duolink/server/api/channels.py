"""Channels: who subscribes, what was published, and the shared state."""

import asyncio
from base64 import b64encode
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

from msgspec import UNSET, Raw
from starlette.exceptions import HTTPException
from starlette.responses import Response

from duolink.engines.base import Entry, Page, Snapshot, Top
from duolink.protocol import codec, limits
from duolink.protocol.codes import ErrorCode
from duolink.protocol.messages import Publish, Published, Set
from duolink.server import answers
from duolink.server.api import documents as doc
from duolink.server.api.arguments import Ask
from duolink.server.api.backend import Backend, ask
from duolink.server.api.slices import smallest
from duolink.server.localclient import CommandFailed, LocalClient, deletion, publication, write
from duolink.server.serverlink import encode

PAGE_BYTES: Final = 1 << 20
"""Bytes of data in one page of history or state; one item always fits."""

COMMAND_TIMEOUT: Final = 10.0
"""Seconds a write may wait for the disk."""

_STATUS: Final = {
    ErrorCode.CONFLICT: 409,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.STATE_FULL: 507,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.OVERLOADED: 503,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.UNCERTAIN: 503,
}
"""What the refusals of the node are in HTTP; others are the request's fault."""


class Channels:
    """Answers `/api/channels`."""

    def __init__(self, backend: Backend, client: LocalClient) -> None:
        self._backend = backend
        self._channels = backend.node.channels
        self._client = client

    async def page(self, asked: Ask) -> Response:
        """A page of those with subscribers and those that were published to."""
        after, prefix, limit = asked.query["after"], asked.query["prefix"], asked.query["limit"]
        tops: dict[str, Top] = {}
        if not asked.query["present"]:
            tops.update(await ask(self._channels.log.listing, after, prefix, limit + 1))
        for name in islice(self._channels.names.after(after, prefix), limit + 1):
            channel = self._channels.get(name)
            assert channel is not None
            tops[name] = Top(channel.epoch, channel.offset)
        names = sorted(tops)
        items = [self._item(name, tops[name]) for name in names[:limit]]
        return answers.json(doc.Channels(items=items, next=names[limit - 1] if len(names) > limit else None))

    def _item(self, name: str, top: Top) -> doc.ChannelItem:
        channel = self._channels.get(name)
        return doc.ChannelItem(**self._common(name, len(channel.members) if channel is not None else 0, top))

    async def get(self, asked: Ask) -> Response:
        """One, whether somebody subscribes to it or it has a history."""
        name = _name(asked)
        channel = self._channels.get(name)
        snapshot: Snapshot = await ask(self._channels.log.state, name)
        if channel is None and not snapshot.top.offset:
            raise HTTPException(404, "nobody subscribes to this channel, and nothing was published there")
        keep = self._backend.config.channel(name)
        members = len(channel.members) if channel is not None else 0
        return answers.json(
            doc.ChannelDetail(
                **self._common(name, members, snapshot.top),
                retention=doc.RetentionInfo(
                    history_count=keep.history_count,
                    history_age_s=keep.history_age_s,
                    history_bytes=keep.history_bytes,
                    state_keys=keep.state_keys,
                    state_bytes=keep.state_bytes,
                ),
                state_entries=len(snapshot.entries),
            )
        )

    def _common(self, name: str, subscribers: int, top: Top) -> dict[str, Any]:
        durable = self._backend.config.channel(name).durable and self._backend.node.durable
        return {
            "name": name,
            "subscribers": subscribers,
            "epoch": top.epoch,
            "offset": top.offset,
            "durable": durable,
        }

    async def presence(self, asked: Ask) -> Response:
        """A page of who subscribes."""
        channel = self._channels.get(_name(asked))
        after, limit = asked.query["after"], asked.query["limit"]
        members = channel.members if channel is not None else {}
        names = await smallest(members, limit + 1, str, after)
        items = []
        for name in names[:limit]:
            member = members.get(name)
            if member is not None:  # else it has left meanwhile
                user, since = member.session.user or None, self._backend.wall(member.session.since)
                items.append(doc.PresenceItem(client=name, user=user, since=since))
        return answers.json(doc.Presence(items=items, next=names[limit - 1] if len(names) > limit else None))

    # --- history -----------------------------------------------------------------------------

    async def history(self, asked: Ask) -> Response:
        """A page of publications."""
        name, limit, start = _name(asked), asked.query["limit"], asked.query["from"]
        read = self._channels.log.read
        if not asked.query["reverse"]:
            page: Page = await ask(read, name, "", max((start or 1) - 1, 0), limit)
            entries: Iterable[Entry] = page.entries
            items = _within(entries)
            following = items[-1].offset + 1 if items else 0
            more = following if 0 < following <= page.top.offset else None
        else:
            top: Top = await ask(self._channels.log.top, name)
            start = top.offset if start is None else min(start, top.offset)
            after = max(start - limit, 0)
            page = await ask(read, name, "", after, start - after)
            # Where retention has taken the oldest of them, the engine reads on beyond the newest asked for.
            entries = [entry for entry in reversed(page.entries) if entry.offset <= start]
            items = _within(entries)
            following = items[-1].offset - 1 if items else 0
            more = following if following > 0 and (page.gap is None or len(items) < len(entries)) else None
        return answers.json(doc.History(items=items, epoch=page.top.epoch, next=more))

    async def publish(self, asked: Ask) -> Response:
        """Publish as `$server`."""
        body: doc.Publish = asked.body
        key = body.key if body.key is not UNSET else ""
        published = await self._command(publication(_name(asked), _data(body.data), key))
        return answers.json(doc.Published(epoch=published.epoch, offset=published.offset))

    # --- shared state ------------------------------------------------------------------------

    async def state(self, asked: Ask) -> Response:
        """A page of the shared state."""
        name, after, limit = _name(asked), asked.query["after"], asked.query["limit"]
        snapshot: Snapshot = await ask(self._channels.log.state, name)
        found = await smallest(snapshot.entries, limit + 1, lambda entry: entry.name, after)
        items: list[doc.StateItem] = []
        room = PAGE_BYTES
        for entry in found[:limit]:
            room -= len(entry.data)
            if room < 0 and items:
                break
            item = doc.StateItem(name=entry.name, version=entry.offset)
            item.value, item.value_base64 = _value(entry)
            items.append(item)
        more = items[-1].name if items and len(items) < len(found) else None
        return answers.json(doc.State(items=items, next=more))

    async def set(self, asked: Ask) -> Response:
        """Give a name a value."""
        body: doc.SetValue = asked.body
        expect = body.expect if body.expect is not UNSET else None
        key = body.key if body.key is not UNSET else ""
        command = write(_name(asked), _key(asked), _data(body.value, "value"), expect, key)
        return answers.json(doc.Version(version=(await self._command(command)).offset))

    async def delete(self, asked: Ask) -> Response:
        """Take a name away."""
        body: doc.DeleteValue = asked.body
        expect = body.expect if body.expect is not UNSET else None
        key = body.key if body.key is not UNSET else ""
        published = await self._command(deletion(_name(asked), _key(asked), expect, key))
        return answers.json(doc.Version(version=published.offset))

    async def _command(self, command: Publish | Set) -> Published:
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                return await self._client.command(command)
        except TimeoutError:
            raise HTTPException(503, "the storage does not answer; it may have happened") from None
        except CommandFailed as failed:
            error = failed.error
            status = _STATUS.get(ErrorCode(error.code), 400)
            headers = {"retry-after": "1"} if status == 503 else None
            raise HTTPException(status, error.message or error.code, headers) from None


def _name(asked: Ask) -> str:
    name = asked.path["name"]
    if not codec.is_id(name, limits.MAX_CHANNEL):
        raise HTTPException(404, "not a name a channel can have")
    return name


def _key(asked: Ask) -> str:
    key = asked.path["key"]
    if not codec.is_id(key, limits.MAX_STATE_NAME):
        raise HTTPException(400, "not a name a value can have")
    return key


def _data(data: Raw, what: str = "data") -> Raw:
    try:
        return encode(codec.check_json(bytes(data)))[0]
    except codec.DataError as error:
        raise HTTPException(400, f"{what}: {error}") from None


def _within(entries: Iterable[Entry]) -> list[doc.HistoryItem]:
    """Return entries as documents, as many as fit a page."""
    items: list[doc.HistoryItem] = []
    room = PAGE_BYTES
    for entry in entries:
        room -= len(entry.data)
        if room < 0 and items:
            break
        item = doc.HistoryItem(offset=entry.offset, time=entry.time, sender=entry.sender)
        if entry.name:
            item.name = entry.name
        if entry.deleted:
            item.deleted = True
        else:
            item.data, item.data_base64 = _value(entry)
        items.append(item)
    return items


def _value(entry: Entry) -> tuple[Any, Any]:
    """Return an entry's data as (JSON, base64); one of both is not set."""
    if entry.binary:
        return UNSET, b64encode(entry.data).decode()
    return Raw(entry.data) if entry.data else Raw(b"null"), UNSET
