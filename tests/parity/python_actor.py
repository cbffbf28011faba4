"""One client of a scenario, on the Python SDK, in this process. `actor.mjs` is the same on the TypeScript
SDK: they do the same things when told the same, and tell the same."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import duolink
from duolink import (
    ChannelGap,
    Event,
    HandlerFailed,
    Lost,
    Message,
    MessagesLost,
    Options,
    PeerChanged,
    PresenceChanged,
    RequestFailed,
    Sent,
    StateChanged,
    StateDeleted,
    StateSet,
    SubscriptionEnded,
    Trouble,
)
from duolink.client.subscription import Subscription

EVENTS: Final[dict[type, str]] = {
    StateChanged: "state",
    PeerChanged: "peer",
    MessagesLost: "lost",
    ChannelGap: "gap",
    PresenceChanged: "presence",
    SubscriptionEnded: "subscription_ended",
    HandlerFailed: "handler_failed",
    Trouble: "trouble",
}
"""What TypeScript calls an event's `kind`."""

TOLD: Final = ("code", "error", "reason", "certain", "count", "version")
"""Fields of errors that mean the same in both SDKs."""


def described(error: BaseException) -> dict[str, Any]:
    """What is told of an error. Texts are the SDKs' own."""
    told: dict[str, Any] = {"name": type(error).__name__}
    for field in TOLD:
        if isinstance(error, duolink.DuolinkError) and hasattr(error, field):
            told[field] = getattr(error, field)
    if isinstance(error, RequestFailed) or not isinstance(error, duolink.DuolinkError):
        told["text"] = str(error)
    return told


def unpacked(value: Any) -> Any:
    """Data from a scenario."""
    return bytes.fromhex(value["$bytes"]) if isinstance(value, dict) and "$bytes" in value else value


def plain(value: Any) -> Any:
    """Data for the history."""
    return {"$bytes": value.hex()} if isinstance(value, bytes) else value


class PythonActor:
    """See `tests.parity.actors.Actor`."""

    def __init__(self, record: Callable[[dict[str, Any]], None]) -> None:
        self._record = record
        self._records = 0
        self._client: duolink.Client
        self._subscriptions: dict[str, Subscription] = {}
        self._reading = asyncio.Event()
        self._reading.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def do(self, verb: str, how: dict[str, Any]) -> dict[str, Any]:
        """Do something; return its result, or what is told of the error."""
        try:
            return {"result": await getattr(self, f"_do_{verb}")(**how)}
        except (duolink.DuolinkError, ValueError) as error:
            return {"error": described(error)}

    async def end(self) -> None:
        """The process is gone, without a goodbye: the scenario has seen to it that nothing goes out."""
        self._record = lambda record: None
        client = getattr(self, "_client", None)
        if client is not None:
            client.close_timeout = 0.0
            with contextlib.suppress(duolink.DuolinkError):
                await client.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _tell(self, event: str, **fields: Any) -> None:
        self._records += 1
        self._record({"event": event, **fields})

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- life ----------------------------------------------------------------------------------

    async def _do_connect(
        self,
        url: str,
        client: str,
        tokens: list[str],
        answer: str | None,
        close_timeout: float,
        options: dict[str, Any],
    ) -> None:
        self._client = duolink.connect(
            url,
            client_id=client,
            token=lambda: tokens.pop(0) if len(tokens) > 1 else tokens[0],
            close_timeout=close_timeout,
            options=Options(**options),
        )
        self._client.on_event(self._event)
        if answer:
            await self._do_answer(answer)  # before the first request can come
        await self._client.open()
        self._spawn(self._read())

    def _event(self, event: Event) -> None:
        fields = event._asdict()
        if isinstance(event, PresenceChanged):
            fields["present"] = sorted(event.present)
        if isinstance(event, HandlerFailed):
            fields["error"] = type(event.error).__name__
        self._tell(EVENTS[type(event)], **fields)
        welcome = self._client.welcome
        if isinstance(event, StateChanged) and event.state == "online" and welcome is not None:
            self._tell("welcome", run=welcome.run, resumed=welcome.resumed, durable=welcome.durable)

    async def _do_close(self) -> None:
        await self._client.close()

    async def _do_flush(self) -> int:
        return self._records

    # --- links ---------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Take messages and losses, in their order; one that is held back is not finished."""
        try:
            async for item in self._client.messages(losses=True):
                if isinstance(item, Message):
                    self._tell(
                        "message", peer=item.sender, run=item.run, lane=item.lane, seq=item.seq,
                        user=item.user, data=plain(item.data),
                    )  # fmt: skip
                else:
                    self._tell("loss", **item._asdict())
                await self._reading.wait()
            self._tell("end", error="")
        except duolink.DuolinkError as error:
            self._tell("end", error=type(error).__name__)

    async def _do_hold(self) -> None:
        self._reading.clear()

    async def _do_read(self) -> None:
        self._reading.set()

    async def _do_watch(self, peer: str) -> None:
        link = self._client.link(peer)
        link.on_ephemeral(lambda value: self._tell("ephemeral", **{"from": peer}, data=plain(value)))

    async def _do_send(
        self,
        to: str,
        items: list[Any],
        name: str,
        lane: str = "messages",
        expires: float | None = None,
        collapse: str = "",
        wait: bool = True,
    ) -> None:
        link = self._client.link(to)
        for data in items:
            body = unpacked(data)
            if wait:
                sent = await link.send(body, lane=lane, expires=expires, collapse=collapse)
            else:
                sent = link.try_send(body, lane=lane, expires=expires, collapse=collapse)
            assert self._client.welcome is not None
            which = {"name": name, "to": to, "run": self._client.welcome.run, "lane": lane, "seq": sent.seq}
            self._tell("sent", **which, data=data)
            self._spawn(self._follow(sent, which))

    async def _follow(self, sent: Sent, which: dict[str, Any]) -> None:
        """Tell what becomes of a message."""
        try:
            if await sent.resolved() == "stored":
                self._tell("fate", **which, fate="stored")
            await sent.delivered()
            self._tell("fate", **which, fate="delivered")
        except Lost as error:
            self._tell("fate", **which, fate="lost", reason=error.reason, certain=error.certain)

    async def _do_request(self, to: str, data: Any, timeout: float) -> Any:  # noqa: ASYNC109
        return plain(await self._client.link(to).request(unpacked(data), timeout=timeout))

    async def _do_answer(self, how: str) -> None:
        async def answer(message: Message) -> Any:
            self._tell("request", peer=message.sender, data=plain(message.data))
            if how == "fail":
                raise RequestFailed("no")
            if how == "crash":
                raise TypeError("a fault of the application")
            if how == "never":
                await asyncio.get_running_loop().create_future()
            return {"echo": plain(message.data)}

        self._client.on_request(answer)

    async def _do_ephemeral(self, data: Any, to: str = "", channel: str = "") -> bool:
        body = unpacked(data)
        if to:
            return await self._client.link(to).ephemeral(body)
        return await self._client.channel(channel).ephemeral(body)

    # --- channels ------------------------------------------------------------------------------

    async def _do_subscribe(self, channel: str, presence: bool = False, state: bool = False) -> None:
        name = channel
        self._client.channel(name).on_ephemeral(
            lambda value, sender: self._tell("ephemeral", **{"from": sender}, channel=name, data=plain(value))
        )
        subscription = self._client.channel(name).subscribe(presence=presence, state=state)
        await subscription.__aenter__()
        self._subscriptions[name] = subscription
        self._map(name, subscription)
        self._spawn(self._take(name, subscription))

    def _map(self, channel: str, subscription: Subscription) -> None:
        there = {
            name: {"value": plain(item.value), "version": item.version}
            for name, item in subscription.state.items()
        }
        self._tell("map", channel=channel, map=there)

    async def _take(self, channel: str, subscription: Subscription) -> None:
        try:
            async for item in subscription:
                if isinstance(item, ChannelGap):
                    self._tell("entry", channel=channel, kind="gap", reason=item.reason)
                else:
                    kind = {StateSet: "set", StateDeleted: "deleted"}.get(type(item), "publication")
                    self._tell(
                        "entry", channel=channel, kind=kind, epoch=item.epoch, offset=item.offset,
                        sender=item.sender, name=item.name,
                        data=None if kind == "deleted" else plain(item.data),
                    )  # fmt: skip
                self._map(channel, subscription)
                await self._reading.wait()
        except duolink.DuolinkError as error:
            self._tell("channel_end", channel=channel, error=type(error).__name__)

    async def _do_unsubscribe(self, channel: str) -> None:
        self._subscriptions.pop(channel).close()

    async def _do_publish(self, channel: str, items: list[Any]) -> None:
        for data in items:
            await self._client.channel(channel).publish(unpacked(data))

    async def _do_set(self, channel: str, key: str, data: Any, expect: int | None = None) -> int:
        return await self._client.channel(channel).set(key, unpacked(data), expect=expect)

    async def _do_delete(self, channel: str, key: str, expect: int | None = None) -> None:
        await self._client.channel(channel).delete(key, expect=expect)

    async def _do_history(self, channel: str, limit: int) -> list[Any]:
        page = await self._client.channel(channel).history(limit)
        return [plain(each.data) for each in page.publications]

    async def _do_members(self, channel: str) -> list[str]:
        return await self._client.channel(channel).presence()
