"""Sessions under every order of hellos, losses, probes, timers and late answers of the engine."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.node_world import Client, World

from duolink.protocol.messages import Goodbye, Welcome
from duolink.server.registry import TRANSITIONS, Cause, State

NAMES = ("alice", "bob")
TALLY: Counter[str] = Counter()


class Process:
    """One life of a client: its name, what it knows, and its connections."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.run = 0
        self.session = self.secret = ""
        self.connections: list[Client] = []

    def learn(self) -> None:
        """Read the welcomes that have come."""
        for client in self.connections:
            for welcome in client.all(Welcome):
                if (welcome.generation, welcome.attachment) > getattr(self, "place", (0, 0)):
                    self.place = (welcome.generation, welcome.attachment)
                    self.run, self.session, self.secret = welcome.run, welcome.session, welcome.secret


class RegistryMachine(RuleBasedStateMachine):
    """Two client ids, any number of processes and connections for each."""

    @initialize(seed=st.integers(0, 1000))
    def start(self, seed: int) -> None:
        self.world = World(seed=seed)
        self.processes: list[Process] = []

    def pick(self, number: int) -> Client | None:
        open_ones = [c for p in self.processes for c in p.connections if not c.gone and not c.closed]
        return open_ones[number % len(open_ones)] if open_ones else None

    @rule(name=st.sampled_from(NAMES))
    def new_process_says_hello(self, name: str) -> None:
        process = Process(name)
        self.processes.append(process)
        self.hello(process)

    @precondition(lambda self: self.processes)
    @rule(
        number=st.integers(0, 99), forgets=st.sampled_from([False, False, False, True]), settled=st.booleans()
    )
    def process_comes_back(self, number: int, forgets: bool, settled: bool) -> None:
        process = self.processes[number % len(self.processes)]
        if settled:
            self.world.settle()
        process.learn()
        self.hello(process, forgets)

    def hello(self, process: Process, forgets: bool = False) -> None:
        client = Client(self.world)
        process.connections.append(client)
        secret = {} if forgets else {"session": process.session, "secret": process.secret}
        client.hello(process.name, run=process.run, **secret)

    @rule(number=st.integers(0, 99))
    def connection_is_cut(self, number: int) -> None:
        client = self.pick(number)
        if client is not None:
            client.cut()

    @rule(number=st.integers(0, 99), payload=st.booleans())
    def client_gives_a_sign_of_life(self, number: int, payload: bool) -> None:
        client = self.pick(number)
        if client is None or not client.all(Welcome):
            return
        if payload:
            client.raw(b'{"type":"pong"}')
        else:
            client.user.alive()
            self.world.turn()

    @rule(number=st.integers(0, 99))
    def client_says_goodbye(self, number: int) -> None:
        client = self.pick(number)
        if client is not None and client.all(Welcome):
            client.send(Goodbye())

    @rule(steps=st.integers(1, 20))
    def engine_answers(self, steps: int) -> None:
        assert self.world.late is not None
        for _ in range(steps):
            self.world.late.step()
        self.world.turn()

    @rule(seconds=st.sampled_from([0.5, 3.1, 9.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @invariant()
    def a_client_id_has_one_owner(self) -> None:
        node = self.world.node
        for name in NAMES:
            holders = [
                client
                for process in self.processes
                if process.name == name
                for client in process.connections
                if client.all(Welcome) and not client.closed and not client.gone
            ]
            session = node.sessions.get(name)
            assert len(holders) <= 1
            assert (session is not None and session.connection is not None) == bool(holders)
            if holders:
                assert session is not None and session.connection is holders[0].user
                assert session.state is State.ACTIVE
            elif session is not None:
                assert session.state is State.DETACHED and session.window is not None
        assert node.sessions.active == sum(
            1 for name in NAMES if (s := node.sessions.get(name)) is not None and s.connection is not None
        )

    @invariant()
    def generations_attachments_and_runs_only_increase(self) -> None:
        for name in NAMES:
            welcomes = [
                welcome
                for process in self.processes
                if process.name == name
                for client in process.connections
                for welcome in client.all(Welcome)
            ]
            places = [(welcome.generation, welcome.attachment) for welcome in welcomes]
            assert len(places) == len(set(places))
            secrets = [welcome.secret for welcome in welcomes]
            assert len(secrets) == len(set(secrets))
            for welcome in welcomes:
                assert welcome.resumed == (welcome.attachment > 1)
            runs_of = {
                id(process): {w.run for c in process.connections for w in c.all(Welcome)}
                for process in self.processes
                if process.name == name
            }
            runs = [run for found in runs_of.values() for run in found]
            assert len(runs) == len(set(runs))  # no two processes share one

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.settle()
        for process in self.processes:
            for client in process.connections:
                TALLY[str(client.closed)] += 1
                TALLY["resumed"] += any(welcome.resumed for welcome in client.all(Welcome))
                client.cut()
        self.world.settle()
        self.world.advance(40)
        self.world.settle()
        node = self.world.node
        assert (len(node.sessions), len(node.greeter), node.connections, len(node.timers)) == (0, 0, 0, 0)
        assert not [line for line in self.world.log.lines if line[0] == "internal"]


def test_registry() -> None:
    TALLY.clear()
    run_state_machine_as_test(
        RegistryMachine, settings=settings(max_examples=200, stateful_step_count=40, deadline=None)
    )
    # The hard cases really occurred: resumed, refused as a duplicate, fenced, replaced by a newer connection.
    assert all(TALLY[what] > 5 for what in ("resumed", "3501", "3502", "3006")), TALLY


def test_the_table_of_transitions_is_the_one_in_the_docs() -> None:
    """Every (state, cause) pair is either in the table or impossible; nothing leaves `ENDED`."""
    possible = {(state.name, cause.name): after.name for (state, cause), after in TRANSITIONS.items()}
    assert len(State) * len(Cause) == 15 and len(possible) == 8
    assert not [pair for pair in possible if pair[0] == "ENDED"]
    assert {pair for pair, after in possible.items() if after == "DETACHED"} == {("ACTIVE", "LOST")}
