"""Messages from `$server` to clients."""

import asyncio
from collections import OrderedDict
from math import inf
from typing import Final, Literal

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from duolink.protocol import codec
from duolink.server import answers
from duolink.server.api import documents as doc
from duolink.server.api.arguments import Ask
from duolink.server.api.backend import Backend
from duolink.server.localclient import LocalClient
from duolink.server.serverlink import RUN_OUT, NotDelivered, Sent

MAX_KEYS: Final = 10_000
"""Idempotency keys remembered; the oldest is forgotten first."""

KEY_LIFE: Final = 600.0
"""Seconds a key is remembered: longer than anybody retries by himself."""

MAX_TTL: Final = RUN_OUT
"""Seconds a message waits for room and its receiver at most, on a server without a database."""


class Messages:
    """Answers `/api/messages`."""

    def __init__(self, backend: Backend, client: LocalClient) -> None:
        self._clock = backend.node.clock
        self._client = client
        self._keys: OrderedDict[tuple[str, str], tuple[float, Sent]] = OrderedDict()
        self._under_way: dict[tuple[str, str], asyncio.Future[None]] = {}  # keys whose message waits for room

    async def send(self, asked: Ask) -> Response:
        """Send one, and tell what has become of it when that is known, or when time is up."""
        body: doc.Send = asked.body
        if not (codec.is_client_id(body.to) or codec.is_user(body.to)):
            raise HTTPException(400, "to: neither a client id nor `@` and a user")
        deadline = asyncio.get_running_loop().time() + body.timeout_ms / 1000
        sent = await self._submit_once(body, deadline)
        if body.wait != "sent":
            await _wait(sent, body.wait, deadline)
        return _answer(body, sent)

    async def _submit_once(self, body: doc.Send, deadline: float) -> Sent:
        """Submit it, unless its key has been: of requests with one key that wait for room together, the
        others wait for the first."""
        if body.key is msgspec.UNSET:
            return await self._submit(body, deadline)
        key, loop = (body.to, body.key), asyncio.get_running_loop()
        while (sent := self._known(key)) is None:
            first = self._under_way.get(key)
            if first is None:
                break
            await asyncio.wait([first], timeout=max(deadline - loop.time(), 0.0))
            if not first.done():
                raise _no_room()
        else:
            return sent
        ended = self._under_way[key] = loop.create_future()
        try:
            sent = await self._submit(body, deadline)
            self._keys[key] = self._clock.monotonic(), sent
            return sent
        finally:
            del self._under_way[key]
            ended.set_result(None)

    def _known(self, key: tuple[str, str]) -> Sent | None:
        """The message that was sent with this key before."""
        now = self._clock.monotonic()
        while self._keys:
            when, _ = next(iter(self._keys.values()))
            if now - when < KEY_LIFE and len(self._keys) <= MAX_KEYS:
                break
            self._keys.popitem(last=False)
        found = self._keys.get(key)
        return found[1] if found is not None else None

    async def _submit(self, body: doc.Send, deadline: float) -> Sent:
        try:
            data = codec.check_json(bytes(body.data))
        except codec.DataError as error:
            raise HTTPException(400, f"data: {error}") from None
        ttl = body.ttl_ms / 1000 if body.ttl_ms is not msgspec.UNSET else inf
        collapse = body.collapse if body.collapse is not msgspec.UNSET else ""
        if not self._client.has_room(body.to):
            raise HTTPException(
                503, "messages to too many clients are unsettled already", {"retry-after": "10"}
            )
        link = self._client.link(body.to)
        try:
            async with asyncio.timeout_at(deadline):
                sent = await link.send(data, expires=min(ttl, MAX_TTL), collapse=collapse)
        except TimeoutError:
            raise _no_room() from None
        except codec.DataError as error:
            raise HTTPException(400, f"data: {error}") from None
        return sent


def _no_room() -> HTTPException:
    return HTTPException(503, "its receiver has too many unsettled messages already", {"retry-after": "1"})


async def _wait(sent: Sent, until: Literal["stored", "delivered"], deadline: float) -> None:
    try:
        async with asyncio.timeout_at(deadline):
            await (sent.stored() if until == "stored" else sent.delivered())
    except (TimeoutError, NotDelivered):
        pass


def _answer(body: doc.Send, sent: Sent) -> Response:
    state = sent.state
    answer = doc.SentMessage(to=body.to, seq=sent.seq, state=state)
    if sent.failure is not None:
        answer.reason, answer.certain = sent.failure.reason, sent.failure.certain
    reached = ("sent", "stored", "delivered")
    known = state == "lost" or reached.index(state) >= reached.index(body.wait)
    return answers.json(answer, 200 if known and state != "sent" else 202)
