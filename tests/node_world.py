"""A node on fake wires and a clock that a test moves by hand."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from duolink.engines.memory import Late, memory_engines
from duolink.protocol import messages
from duolink.protocol.codec import SERVER, encode
from duolink.server.auth import AuthenticationError, Identity, OpenAuthenticator
from duolink.server.connection import Connection
from duolink.server.hooks import Hooks
from duolink.server.metrics import Counts
from duolink.server.node import Node
from duolink.server.policy import Consent, OpenConsent
from duolink.server.settings import Config

TEXT, BINARY = 1, 2


class ManualClock:
    """Time that a test moves by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return 1_800_000_000_000 + int(self.seconds * 1000)


class FakeWire:
    """A wire whose far end is a list of payloads. `kernel` False: nothing written leaves the buffer."""

    def __init__(self, kind: str = "websocket", pings: bool = True) -> None:
        self.kind = kind
        self.peer_address = "192.0.2.1"
        self.secure = False
        self.pings_sent = 0
        self.has_pings = pings
        self.reading = True
        self.kernel = True
        self.waiting = 0
        self.writes = 0
        self.payloads: list[tuple[bytes, bool]] = []
        self.closing: tuple[int, str] | None = None

    @staticmethod
    def frame(payload: bytes, binary: bool = False) -> bytes:
        return len(payload).to_bytes(4, "big") + bytes([BINARY if binary else TEXT]) + payload

    def write(self, data: bytes) -> None:
        self.writes += 1
        if not self.kernel:
            self.waiting += len(data)
        while data:
            size, kind = int.from_bytes(data[:4], "big"), data[4]
            self.payloads.append((data[5 : 5 + size], kind == BINARY))
            data = data[5 + size :]

    def buffered(self) -> int:
        return self.waiting

    def ping(self) -> bool:
        self.pings_sent += self.has_pings
        return self.has_pings

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self, code: int, reason: str = "") -> None:
        assert len(reason.encode()) <= 123
        if self.closing is None:
            self.closing = (int(code), reason)

    def abort(self) -> None:
        self.closing = (1006, "")


class Tokens:
    """An authenticator whose tokens are the names of identities."""

    def __init__(self, **identities: Identity) -> None:
        self.identities = identities

    def authenticate(self, token: str | None, now: float) -> Identity:
        identity = self.identities.get(token or "")
        if identity is None:
            raise AuthenticationError("token_invalid", "no such token")
        if identity.expires_at is not None and now >= identity.expires_at:
            raise AuthenticationError("token_expired", "the token has expired")
        return identity

    def room(self, token: str | None, now: float) -> str:
        raise AuthenticationError("token_invalid", "no rooms here")


class Records:
    """A log that keeps what was written."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def warning(self, key: str, event: str, now: float, **fields: Any) -> None:
        self.lines.append((key, event))


class World:
    """One node, its clock, and whatever it deferred."""

    def __init__(
        self,
        config: Config | None = None,
        *,
        seed: int | None = None,
        authenticator: Any = None,
        consent: Consent | None = None,
        hooks: Hooks | None = None,
        engines: Any = None,
        clock: ManualClock | None = None,
        durable: bool = False,
    ) -> None:
        self.clock = clock or ManualClock()
        self.deferred: deque[Callable[[], None]] = deque()
        self.late = Late(random.Random(seed)) if seed is not None else None
        self.names = random.Random(0)
        self.log = Records()
        self.counts = Counts()
        self.engines = engines or replace(memory_engines(self.clock, self.name, self.late), durable=durable)
        self.node = Node(
            config or Config(),
            clock=self.clock,
            engines=self.engines,
            authenticator=authenticator or OpenAuthenticator(),
            consent=consent or OpenConsent(),
            defer=self.deferred.append,
            new_token=self.name,
            counts=self.counts,
            log=self.log,
            hooks=hooks,
        )

    def name(self) -> str:
        return f"{self.names.getrandbits(128):032x}"

    def turn(self) -> None:
        """End a loop turn: everything deferred, and what that defers."""
        while self.deferred:
            self.deferred.popleft()()

    def settle(self) -> None:
        """Let the engine answer everything."""
        self.turn()
        while self.late is not None and self.late.step():
            self.turn()

    def advance(self, seconds: float) -> None:
        """Move time, stopping wherever the node wants to be polled."""
        end = self.clock.seconds + seconds
        while self.node.next_timer() <= end:
            self.clock.seconds = max(self.clock.seconds, self.node.next_timer())
            self.node.poll(self.clock.seconds)
            self.turn()
        self.clock.seconds = end
        self.node.poll(end)
        self.turn()

    def client(self, client_id: str, *, settle: bool = True, **hello: Any) -> "Client":
        """Connect and say hello."""
        client = Client(self)
        client.hello(client_id, **hello)
        if settle:
            self.settle()
        return client


class Client:
    """The far end of a fake wire."""

    def __init__(self, world: World, kind: str = "websocket", pings: bool = True) -> None:
        self.world = world
        self.wire = FakeWire(kind, pings)
        self.user: Connection = world.node.connected(self.wire)
        self.read = 0
        self.gone = False

    def hello(self, client_id: str, **fields: Any) -> None:
        self.send(messages.Hello(protocol=fields.pop("protocol", 1), client_id=client_id, **fields))

    def send(self, *sent: Any) -> None:
        """Send messages in one payload."""
        self.raw(b"\n".join(encode(message) for message in sent))

    def raw(self, payload: bytes, binary: bool = False) -> None:
        self.user.received(payload, binary)
        self.user.batch_ended()
        self.world.turn()

    def say(self, seq: int, to: str = "bob", data: Any = None, base: int = 1, **fields: Any) -> None:
        """Send a link message of this client's run."""
        fields.setdefault("run", self.welcome.run)
        raw = msgspec.Raw(msgspec.json.encode(data if data is not None else seq))
        self.send(messages.LinkMessage(to=to, seq=seq, base=base, data=raw, **fields))

    def take(self) -> list[Any]:
        """What has come since the last look."""
        taken: list[Any] = []
        for payload, binary in self.wire.payloads[self.read :]:
            taken += SERVER.binary(payload) if binary else SERVER.text(payload)
        self.read = len(self.wire.payloads)
        return taken

    def all(self, kind: type) -> list[Any]:
        """Everything of a type that ever came."""
        found: list[Any] = []
        for payload, binary in self.wire.payloads:
            found += SERVER.binary(payload) if binary else SERVER.text(payload)
        return [message for message in found if type(message) is kind]

    def last(self, kind: type) -> Any:
        return self.all(kind)[-1]

    @property
    def welcome(self) -> messages.Welcome:
        welcome: messages.Welcome = self.last(messages.Welcome)
        return welcome

    @property
    def closed(self) -> int:
        """The code the node closed with; 0 while it has not."""
        return self.wire.closing[0] if self.wire.closing is not None else 0

    def cut(self, code: int = 1006) -> None:
        """The transport ends."""
        if not self.gone:
            self.gone = True
            self.user.closed(code, "")
            self.world.turn()

    def again(self, **fields: Any) -> "Client":
        """Come back on a new connection, as the same process and session."""
        welcome = self.welcome
        fields.setdefault("run", welcome.run)
        fields.setdefault("session", welcome.session)
        fields.setdefault("secret", welcome.secret)
        return self.world.client(welcome.client_id, **fields)
