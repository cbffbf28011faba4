"""What a client has sent: how much of it is not safe yet, and what the process before has left."""

from typing import TYPE_CHECKING

from duolink.client.message import Sent
from duolink.protocol.outbound import Outgoing, Settled, Stored

if TYPE_CHECKING:
    from duolink.client.client import Client


class Outbox:
    """The numbered messages of a client, each with its `Sent`."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self.unsafe = 0  # numbered, and neither stored nor settled
        self.abandoned = 0  # of those, how many the end of the client has cut off
        self.restored: list[Sent] = []

    def adopt(self) -> None:
        """The client is online for the first time: show what its journal held."""
        ledger = self._client._session.ledger
        for peer, entry in ledger.restored if ledger is not None else ():
            sent = entry.context = Sent(peer)
            sent._entry, sent._kept = entry, True
            if entry.stored:
                sent._safe, sent._fate = True, "stored"
            else:
                self.unsafe += 1
            self.restored.append(sent)

    def kept(self, entry: Outgoing) -> None:
        """The journal has a number."""
        if type(entry.context) is Sent:
            entry.context._keep()

    def settled(self, event: Settled) -> None:
        """A number has ended."""
        sent = event.entry.context
        if type(sent) is not Sent:
            return
        if not sent._safe:
            sent._safe = True
            self.unsafe -= 1
            if event.reason and self._client._ended:
                self.abandoned += 1
        if event.reason:
            sent._become("lost", event.reason, event.certain)
        else:
            sent._become("delivered")

    def stored(self, event: Stored) -> None:
        """A mailbox has a number."""
        sent = event.entry.context
        if type(sent) is Sent and not sent._safe:
            sent._safe = True
            self.unsafe -= 1
            sent._become("stored")

    def end(self, ending: Exception) -> None:
        """The client is closed. What its journal keeps is not lost, but its end will not be known here."""
        for machine in self._client._session.links.values():
            for entry in machine.outstanding():
                if type(entry.context) is Sent:
                    entry.context._leave(ending)
