"""The simulated world's node: the real one, on virtual time and an engine that may be late."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from duolink.engines.memory import AtOnce, Late, memory_engines
from duolink.server.auth import OpenAuthenticator
from duolink.server.metrics import Counts
from duolink.server.node import Node
from duolink.server.policy import OpenConsent
from duolink.server.settings import Config

if TYPE_CHECKING:
    from .world import World


class Slow:
    """An engine schedule: everything takes a while, in an order of its own."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._late = Late(world.random)

    def submit(self, queue: str, work: Callable[[], Callable[[], None]]) -> None:
        self._late.submit(queue, work)
        for _ in range(2):
            self._world.clock.after(self._world.random.uniform(0, 0.3), self._step)

    def _step(self) -> None:
        self._late.step()
        self._world.wake_node()


class Trouble:
    """A log that must stay empty: what the simulated clients cause is no trouble."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def warning(self, key: str, event: str, now: float, **fields: Any) -> None:
        self._world.history.sometimes[f"node logged {key}"] += 1


def start_node(world: "World") -> Node:
    """A node that knows nothing of an earlier one."""
    late = world.faults.late_engine
    names = world.random

    def new_token() -> str:
        return f"{names.getrandbits(120):030x}"

    def defer(action: Callable[[], None]) -> None:
        def run() -> None:
            action()
            world.wake_node()

        world.clock.after(0.0, run)

    return Node(
        Config(),
        clock=world.clock,
        engines=memory_engines(world.clock, new_token, Slow(world) if late else AtOnce()),
        authenticator=OpenAuthenticator(),
        consent=OpenConsent(),
        defer=defer,
        new_token=new_token,
        counts=Counts(),
        log=Trouble(world),
    )
