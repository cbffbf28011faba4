"""How long messages take, by samples that cost nothing to those that are not among them.

A message is timed from its arrival to its receiver's acknowledgement when it is the first on its way. Then no
other of its flow is, until `sample` takes that way away for one turn, so that the next message finds it anew.
While one is timed, acknowledgements of the other direction are looked at, which otherwise are only noted.
"""

from typing import TYPE_CHECKING, Final

from duolink.protocol.messages import LinkMessage
from duolink.server.party import Flow, Timed
from duolink.server.registry import Session

if TYPE_CHECKING:
    from duolink.server.node import Node

MAX_SAMPLED: Final = 500
"""Flows timed again after one call of `sample`, about a second: with more, some wait until their way changes.
Finding a way costs some µs."""


class Timing:
    """Times messages of a node's flows."""

    def __init__(self, node: "Node") -> None:
        self._counts = node.counts
        self._clock = node.clock
        self._sampled: dict[Flow, None] = {}  # whose next message is to be timed

    def begin(self, session: Session, flow: Flow, message: LinkMessage) -> None:
        """A message has found its way and is handed over: time it, if nothing else of its flow is."""
        lane, seq = message.lane, message.seq
        if lane == "messages":
            flow.last_messages = seq
        else:
            flow.last_bulk = seq
        if flow.timed is not None:
            return
        flow.timed = Timed(lane, message.run, seq, self._clock.monotonic())
        receiver = flow.party.session
        back = receiver.flows.get(session.client_id) if receiver is not None else None
        if back is not None:
            back.quick_run = -1

    def acknowledge(self, session: Session, flow: Flow, lane: str, run: int, seq: int) -> None:
        """A flow's sender acknowledges the other way; perhaps what is being timed."""
        flow.acknowledge(lane, run, seq)
        if flow.quick_run == flow.ack_run:
            return
        peer = flow.party.session
        forward = peer.flows.get(session.client_id) if peer is not None else None
        timed = forward.timed if forward is not None else None
        if forward is not None and timed is not None and timed.run == flow.ack_run:
            if flow.acknowledged(timed.lane, timed.run) < timed.seq:
                return
            forward.timed = None
            self._counts.delivery(self._clock.monotonic() - timed.since)
            if len(self._sampled) < MAX_SAMPLED:
                self._sampled[forward] = None
        flow.quick_run = flow.ack_run

    def sample(self) -> None:
        """Have the next message of each flow timed that was timed since the last call."""
        sampled, self._sampled = self._sampled, {}
        for flow in sampled:
            flow.target = None

    def forget(self, flow: Flow) -> None:
        """The flow has ended."""
        self._sampled.pop(flow, None)
