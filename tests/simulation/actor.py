"""A simulated program: a session, its network, and an application that talks at random."""

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from duolink.protocol import codec, limits
from duolink.protocol.codes import may_reconnect
from duolink.protocol.events import Answered, Carry, Close, FromLink, Open, State, StateChanged
from duolink.protocol.link import (
    Lost,
    PathFailed,
    PeerChanged,
    Received,
    Settled,
    StorageTrouble,
    Stored,
    key_of,
)
from duolink.protocol.messages import Error, Hello, Publish, Welcome
from duolink.protocol.messages import Published as PublishedAnswer
from duolink.protocol.paths import PathKind
from duolink.protocol.payload import Send
from duolink.protocol.session import Session
from duolink.protocol.subscriptions import ChannelJoined, Published
from duolink.testing.network import VirtualConnection, VirtualPath

from .history import Submitted

if TYPE_CHECKING:
    from .world import World


class Process:
    """One life of a client program. `page`: what the one before was welcomed with, which this one follows as a
    page that was reloaded: it resumes the session, with a run of its own."""

    def __init__(self, world: "World", client: str, life: int, page: Welcome | None = None) -> None:
        self.world = world
        self.client = client
        self.name = f"{client}#{life}"
        self.clock = world.clock
        self.alive = True
        self.leaving = False
        self.session = Session(client, random=world.random.random)
        self.connection: VirtualConnection | None = None
        self.paths: dict[tuple[str, str], VirtualPath] = {}
        self.count = 0
        self._page = page
        self._timer = inf
        self._stepping = False
        self.session.start(self.clock.now)
        self.step()

    # --- driving -----------------------------------------------------------------------------

    def step(self) -> None:
        if not self.alive or self._stepping:
            return
        self._stepping = True
        rounds = 0
        while True:
            actions = self.session.take(self.clock.now)
            events = self.session.events()
            for action in actions:
                self._act(action)
            for event in events:
                self._hear(event)
            rounds += 1
            assert rounds < 50, "the session does not come to rest"
            if not actions and not events:
                break
        self._stepping = False
        timer = self.session.next_timer(self.clock.now)
        if timer < inf and timer != self._timer:
            self._timer = timer

            def wake() -> None:
                if self._timer == timer:
                    self._timer = inf
                    self.step()

            self.clock.at(timer + 1e-9, wake)
        elif timer == inf:
            self._timer = inf

    def _act(self, action: Any) -> None:
        if type(action) is Send:
            if self.connection is not None:
                payload = action.payload
                if self._page is not None and self.session.welcome is None:
                    payload = _of_page(payload, self._page)
                self.connection.send(payload, action.binary)
        elif type(action) is Carry:
            self.world.carry(self, action)
        elif type(action) is Close:
            if self.connection is not None:
                self.connection.hang_up(action.code)
                self.connection = None
        elif type(action) is Open:
            self.clock.after(self.world.random.uniform(0.001, 0.1), self._open)

    def _open(self) -> None:
        if not self.alive or self.session.state is State.CLOSED:
            return
        connection = self.world.connect(self)
        if connection is None:
            self.session.lost(1006, "refused", self.clock.now)
        else:
            self.connection = connection
            self.session.opened("", self.clock.now)
        self.step()

    def payload(self, connection: VirtualConnection, payload: bytes, binary: bool) -> None:
        if self.alive and connection is self.connection:
            self.session.received(payload, binary, self.clock.now)
            self.step()

    def lost(self, connection: VirtualConnection, code: int) -> None:
        if self.alive and connection is self.connection:
            self.connection = None
            self.session.lost(code, "", self.clock.now)
            self.step()

    def die(self) -> None:
        self.alive = False
        if self.connection is not None:
            self.connection.die()
            self.connection = None
        for (peer, _), path in list(self.paths.items()):
            self.world.close_path(self, peer, path)

    # --- hearing -----------------------------------------------------------------------------

    def _hear(self, event: Any) -> None:
        history = self.world.history
        if type(event) is FromLink:
            self._hear_link(event.peer, event.event, event.user or self.client)
        elif type(event) is StateChanged:
            history.sometimes[f"client {event.state}"] += 1
            if event.state is State.ONLINE and self.session.welcome is not None:
                resumed = "resumed by a reloaded page" if self._page is not None else "resumed"
                history.sometimes[resumed if self.session.welcome.resumed else "new session"] += 1
                self._page = None
            if event.state is State.CLOSED and self.alive and not self.leaving:
                kind = "gave up" if may_reconnect(event.code) else "turned away"
                history.sometimes[f"{kind} with {event.error or event.code}"] += 1
                self.world.exited(self)
        elif type(event) is ChannelJoined:
            gap = event.gap.reason if event.gap is not None else ""
            history.joined(self.name, event.channel, event.epoch, event.offset, event.recovered, gap)
        elif type(event) is Published:
            uid = codec.decode_json(event.publication.data)
            history.publication(self.name, event.channel, event.publication.offset, uid)
        elif type(event) is Answered:
            answer = event.answer
            uid, channel = event.context
            if type(answer) is PublishedAnswer:
                history.publish_answered(uid, channel, answer.epoch, answer.offset)
            elif type(answer) is Error:
                history.sometimes[f"publish answered {answer.code}"] += 1

    def _hear_link(self, peer: str, event: Any, receiver: str) -> None:
        history = self.world.history
        if type(event) is Received:
            message = event.message
            uid = codec.decode_json(message.data)[0]
            history.born[self.name] = self.session.run
            history.receive(self.name, receiver, peer, event.lane, message.run, message.seq, uid)
            if self.world.random.random() < 0.7:
                self._finish(peer, message, uid)
            else:
                pause = self.world.random.choice((0.01, 0.3, 5.0))
                self.clock.after(pause, lambda: self._finish(peer, message, uid))
        elif type(event) is Lost:
            history.lose(
                self.name, receiver, peer, event.lane, event.run, event.first, event.last, event.reason
            )
        elif type(event) is Settled:
            history.settle(event.entry.context, not event.reason, event.certain)
        elif type(event) is Stored:
            history.store(event.entry.context)
        elif type(event) is StorageTrouble:
            history.sometimes[f"sender told {event.code}"] += 1
        elif type(event) is PeerChanged:
            history.sometimes[f"peer {event.state}{' restarted' if event.restarted else ''}"] += 1
        elif type(event) is PathFailed:
            path = self.paths.pop((peer, event.path), None)
            if path is not None:
                self.world.close_path(self, peer, path)

    def _finish(self, peer: str, message: Any, uid: str) -> None:
        link = self.session.links.get(key_of(peer, message.user))
        if not self.alive or link is None:
            return
        self.world.history.finish(uid)
        link.finish(message, self.clock.now)
        self.session.touch(link)
        self.step()

    # --- talking -----------------------------------------------------------------------------

    def say(self, peer: str, lane: str, ttl: float, size: int) -> None:
        if not self.alive or self.session.welcome is None or self.session.state is State.CLOSED:
            return
        link = self.session.link(peer)
        uid = f"{self.name}>{peer}/{self.count}"
        data = codec.encode_json([uid, "x" * size])
        if not link.has_room(len(bytes(data)), lane):
            self.world.history.sometimes["window full"] += 1
            return
        self.count += 1
        entry = link.submit(data, lane=lane, expires=self.clock.now + ttl, context=uid)
        self.world.history.submit(
            Submitted(uid, self.name, self.client, peer, lane, self.session.run, entry.seq)
        )
        self.session.touch(link)
        self.step()

    def publish(self, channel: str) -> None:
        if self.alive and self.session.welcome is not None and self.session.state is not State.CLOSED:
            self.count += 1
            uid = f"{self.name}@{channel}/{self.count}"
            message = Publish(id=0, channel=channel, key=uid[: limits.MAX_KEY], data=codec.encode_json(uid))
            self.session.command(message, (uid, channel), self.clock.now)
            self.step()

    def apply(self, change: Callable[[Session], None]) -> None:
        if self.alive and self.session.state is not State.CLOSED:
            change(self.session)
            self.step()

    def path_up(self, peer: str, path: VirtualPath) -> None:
        if self.alive and self.session.welcome is not None and self.session.state is not State.CLOSED:
            self.paths[peer, path.name] = path
            self.session.path_up(peer, path.name, PathKind.DIRECT, self.clock.now)
            self.step()

    def path_down(self, peer: str, path: VirtualPath) -> None:
        if self.paths.pop((peer, path.name), None) is not None and self.alive:
            self.session.path_down(peer, path.name)
            self.step()

    def path_payload(self, peer: str, path: str, payload: bytes, binary: bool) -> None:
        if self.alive and (peer, path) in self.paths:
            self.session.received_on(peer, path, payload, binary, self.clock.now)
            self.step()


def _of_page(payload: bytes, page: Welcome) -> bytes:
    """A payload whose `hello`, if there is one, resumes the session of the page before."""
    lines = payload.split(b"\n")
    (hello,) = codec.CLIENT.text(lines[0])
    if type(hello) is Hello:
        hello.session, hello.secret = page.session, page.secret
        lines[0] = codec.encode(hello)
    return b"\n".join(lines)
