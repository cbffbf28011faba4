"""A world from one seed: programs, a node that may be killed, and a network with weather."""

from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from duolink.protocol.codes import CloseCode
from duolink.protocol.events import Carry, State
from duolink.protocol.messages import Welcome
from duolink.protocol.session import Session
from duolink.testing.clock import VirtualClock
from duolink.testing.network import VirtualConnection, VirtualPath, Weather

from .actor import Process
from .history import History
from .node import Disk, start_node

SETTLE = 320.0
"""Seconds that everything has to settle after the faults: the heartbeat's detection (100 s), the resume
window (30 s), and a few of the longest backoffs, holds and probes (30 s each)."""

CHANNELS = ("news", "chat")

USER = "@u"
"""Whose clients all of them are: who writes to it, writes to everybody, itself too."""


@dataclass(frozen=True)
class Faults:
    """What this world suffers from: expected events per virtual minute."""

    cut: float = 0.0
    blackout: float = 0.0
    stall: float = 0.0
    kill_client: float = 0.0
    kill_node: float = 0.0
    second_process: float = 0.0
    paths: float = 0.0
    path_blackout: float = 0.0
    late_engine: bool = False
    durable: bool = False
    disk: float = 0.0
    mailbox: int = 20_000
    reload: float = 0.0


def draw_faults(random: Random) -> Faults:
    """Each seed has its own mix (swarm testing: Groce et al., ISSTA 2012)."""

    def some(rate: float) -> float:
        return random.choice((0.0, rate, 3 * rate))

    return Faults(
        cut=some(4.0),
        blackout=some(1.0),
        stall=some(2.0),
        kill_client=some(1.0),
        kill_node=some(0.7),
        second_process=some(0.7),
        paths=some(4.0),
        path_blackout=some(2.0),
        late_engine=random.random() < 0.5,
        durable=random.random() < 0.7,
        disk=some(1.0),
        mailbox=random.choice((20_000, 20_000, 30)),
        reload=some(1.0),
    )


def _want(session: Session, channel: str) -> None:
    session.subscriptions.want(channel)


def _watch(session: Session, peer: str) -> None:
    session.watch(peer)


class World:
    """Runs one seed and checks it. `Violation` or any other exception is a failure of that seed."""

    def __init__(self, seed: int, *, clients: int = 3, duration: float = 60.0) -> None:
        self.random = Random(seed)
        self.clock = VirtualClock(self.random)
        self.history = History()
        self.faults = draw_faults(self.random)
        self.weather = Weather(delay=self.random.choice(((0.001, 0.01), (0.001, 0.3), (0.05, 0.06))))
        self.path_weather = Weather(
            delay=self.random.choice(((0.001, 0.02), (0.001, 0.6))),
            drop=self.random.choice((0.0, 0.05, 0.4)),
            repeat=self.random.choice((0.0, 0.1)),
            reorder=self.random.choice((0.0, 0.3)),
        )
        self.duration = duration
        self.names = [f"u:c{number}" for number in range(clients)]  # all of one user
        self.history.remembers = not (self.faults.kill_node or self.faults.paths)
        self.processes: dict[str, Process] = {}
        self.extra: list[Process] = []
        self.connections: list[VirtualConnection] = []
        self.channels: list[tuple[Process, Process, VirtualPath]] = []
        self._lives = 0
        self._paths = 0
        self._node_up = True
        self._healed = False
        self._node_timer = float("inf")
        self.disk = Disk(self) if self.faults.durable else None
        self.node: Any = start_node(self)
        for name in self.names:
            self._start_client(name)

    # --- the node ------------------------------------------------------------------------------

    def connect(self, process: Process) -> VirtualConnection | None:
        if not self._node_up:
            return None
        connection: VirtualConnection
        connection = VirtualConnection(
            self.clock,
            self.weather,
            "192.0.2.1",
            lambda payload, binary: process.payload(connection, payload, binary),
            lambda code: process.lost(connection, code),
        )
        connection.attach(self.node.connected(connection))
        self.connections.append(connection)
        self.wake_node()
        return connection

    def wake_node(self) -> None:
        """Poll the node when its next timer is due."""
        timer = self.node.next_timer()
        if timer < self._node_timer:
            self._node_timer = timer
            node = self.node

            def poll() -> None:
                if node is self.node and self._node_up:
                    self._node_timer = float("inf")
                    node.poll(self.clock.now)
                    self.wake_node()

            self.clock.at(timer + 1e-9, poll)

    def _kill_node(self) -> None:
        if not self._node_up or self._healed:
            return
        self._node_up = False
        self._node_timer = float("inf")
        self.history.sometimes["node killed"] += 1
        if self.disk is not None:
            self.disk.forget_requests()
        for connection in self.connections:
            connection.vanish()
        self.connections.clear()
        self.clock.after(self.random.choice((0.5, 5.0, 40.0)), self._restart_node)

    def _restart_node(self) -> None:
        if not self._node_up:
            self._node_up = True
            self._node_timer = float("inf")
            self.node = start_node(self)
            self.wake_node()

    # --- clients -----------------------------------------------------------------------------

    def _start_client(self, name: str, page: Welcome | None = None) -> None:
        self._lives += 1
        process = Process(self, name, self._lives, page)
        self.processes[name] = process
        for channel in CHANNELS:
            if self.random.random() < 0.7:
                process.apply(partial(_want, channel=channel))
        for peer in self.names:
            if peer != name and self.random.random() < 0.5:
                process.apply(partial(_watch, peer=peer))

    def exited(self, process: Process) -> None:
        """A program was turned away for good: it ends, and is started again later."""
        process.alive = False
        if self.processes.get(process.client) is process:
            self.clock.after(1.0, lambda: self._replace(process))

    def _replace(self, process: Process) -> None:
        if self.processes.get(process.client) is process:
            self._start_client(process.client)

    def _kill_client(self) -> None:
        name = self.random.choice(self.names)
        process = self.processes[name]
        if self._healed or not process.alive:
            return
        self.history.sometimes["client killed"] += 1
        process.die()
        self.clock.after(self.random.choice((0.01, 3.0, 45.0)), lambda: self._replace(process))

    def _reload(self) -> None:
        """A page is reloaded: its client ends and the next one resumes its session, with another run."""
        name = self.random.choice(self.names)
        process = self.processes[name]
        page = process.session.welcome
        if self._healed or not process.alive or page is None:
            return
        self.history.sometimes["page reloaded"] += 1
        process.die()

        def come_back() -> None:
            if self.processes.get(name) is process:
                self._start_client(name, page)

        self.clock.after(self.random.choice((0.01, 0.2, 3.0)), come_back)

    def _second_process(self) -> None:
        """The same client id is started twice: a duplicate."""
        if self._healed:
            return
        self._lives += 1
        process = Process(self, self.random.choice(self.names), self._lives)
        self.extra.append(process)
        self.history.sometimes["started twice"] += 1

    # --- faults ------------------------------------------------------------------------------

    def _disk_trouble(self) -> None:
        if self.disk is not None and not self._healed:
            self.history.sometimes["disk failed"] += 1
            self.disk.failing = True
            self.clock.after(self.random.choice((0.5, 5.0, 20.0)), self._disk_well)

    def _disk_well(self) -> None:
        if self.disk is not None:
            self.disk.recover()

    def _live_connections(self) -> list[VirtualConnection]:
        self.connections = [c for c in self.connections if c.client_open or c.server_open]
        return self.connections

    def _cut(self) -> None:
        if self._live_connections():
            self.history.sometimes["connection cut"] += 1
            self.random.choice(self.connections).cut()

    def _blackout(self) -> None:
        if self._live_connections() and not self._healed:
            self.history.sometimes["connection went dark"] += 1
            self.random.choice(self.connections).dark = True

    def _stall(self) -> None:
        if self._live_connections() and not self._healed:
            self.history.sometimes["reader stalled"] += 1
            connection = self.random.choice(self.connections)
            connection.stalled_until = self.clock.now + self.random.choice((0.5, 5.0, 20.0))

    def _open_path(self) -> None:
        a, b = (self.processes[name] for name in self.random.sample(self.names, 2))
        if not (a.alive and b.alive) or self._healed:
            return
        self._paths += 1
        path = VirtualPath(self.clock, self.path_weather, f"direct{self._paths}")
        self.channels.append((a, b, path))
        self.clock.after(self.random.uniform(0, 0.2), lambda: a.path_up(b.client, path))
        self.clock.after(self.random.uniform(0, 0.2), lambda: b.path_up(a.client, path))
        if self.random.random() < 0.5:
            self.clock.after(self.random.uniform(5, 40), lambda: self.close_path(a, b.client, path))

    def _path_blackout(self) -> None:
        if self.channels and not self._healed:
            self.random.choice(self.channels)[2].dark = True
            self.history.sometimes["path went dark"] += 1

    def close_path(self, process: Process, peer: str, path: VirtualPath) -> None:
        for a, b, known in self.channels:
            if known is path:
                self.clock.after(self.random.uniform(0, 0.2), partial(a.path_down, b.client, path))
                self.clock.after(self.random.uniform(0, 0.2), partial(b.path_down, a.client, path))
        self.channels = [entry for entry in self.channels if entry[2] is not path]

    def carry(self, process: Process, carry: Carry) -> None:
        for a, b, path in self.channels:
            if path.name == carry.path and process in (a, b):
                other = b if process is a else a
                arrive = partial(other.path_payload, process.client, carry.path)
                path.carry(carry.payload, carry.binary, arrive)
                if b'"type":"message"' in carry.payload:
                    self.history.sometimes["message on a direct path"] += 1
                return

    # --- the run -----------------------------------------------------------------------------

    def _schedule(self, rate_per_minute: float, action: Any) -> None:
        time = 0.0
        while rate_per_minute > 0:
            time += self.random.expovariate(rate_per_minute / 60)
            if time > self.duration:
                return
            self.clock.at(time, action)

    def _say(self) -> None:
        name = self.random.choice(self.names)
        process = self.processes[name]
        peer = self.random.choice([other for other in self.names if other != name])
        if self.random.random() < 0.15:
            peer = USER
        lane = "messages" if self.random.random() < 0.8 else "bulk"
        ttl = self.random.choice((float("inf"), float("inf"), 0.5, 8.0))
        size = self.random.choice((0, 0, 0, 500, 20000))
        for _ in range(self.random.choice((1, 1, 5, 40))):
            process.say(peer, lane, ttl, size)

    def _publish(self) -> None:
        self.processes[self.random.choice(self.names)].publish(self.random.choice(CHANNELS))

    def run(self) -> History:
        """Let it all happen, heal everything, and check what is left."""
        faults = self.faults
        self._schedule(60.0, self._say)
        self._schedule(30.0, self._publish)
        self._schedule(faults.cut, self._cut)
        self._schedule(faults.blackout, self._blackout)
        self._schedule(faults.stall, self._stall)
        self._schedule(faults.kill_client, self._kill_client)
        self._schedule(faults.kill_node, self._kill_node)
        self._schedule(faults.second_process, self._second_process)
        self._schedule(faults.paths, self._open_path)
        self._schedule(faults.path_blackout, self._path_blackout)
        self._schedule(faults.disk, self._disk_trouble)
        self._schedule(faults.reload, self._reload)
        self.clock.run(self.duration)
        self._heal()
        self.clock.run(self.duration + SETTLE)
        alive = {p.name for p in self.processes.values() if p.alive and p.session.state is not State.CLOSED}
        self.history.check_settled(alive)
        self.history.check_safe()
        for process in self.processes.values():
            if process.session.state is State.ONLINE:
                tops = self.node.channels.positions()
                wanted = {name: top for name, top in tops.items() if name in process.session.subscriptions}
                self.history.check_channels(process.name, wanted)
        return self.history

    def _heal(self) -> None:
        self._healed = True
        self._disk_well()
        self._restart_node()
        for _, _, path in self.channels:
            path.dark = True  # what is still there is silent; the links must find the server again
        for process in self.extra:
            if process.alive:
                process.leaving = True
                process.apply(lambda session: session.close(self.clock.now, CloseCode.NORMAL))
        for name in self.names:
            if not self.processes[name].alive:
                self._start_client(name)
