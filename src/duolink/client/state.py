"""A channel's shared state, as a subscription sees it: names with values and versions.

    async with client.channel("doc").subscribe(state=True) as subscription:
        print(subscription.state["title"].value)  # what is there now
        async for item in subscription:  # and then what becomes of it
            match item:
                case StateSet(name="title"):
                    print(item.value, item.version, item.sender)
                case StateDeleted(name="title"):
                    print("no title any more")
                case ChannelGap():  # missed too much: the map is a new one
                    print(subscription.state["title"].value)

The map is as of the item that was taken last: who does not iterate keeps what was there at the beginning.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from duolink.client.publication import Publication
from duolink.protocol.messages import Publication as Wire


class StateSet(Publication):
    """A name was given a value: an item of a subscription when it happens, and what its `state` holds under
    that name until the next write to it."""

    __slots__ = ()

    @property
    def value(self) -> Any:
        """The value: what the JSON says, or bytes. Raises `InvalidData`."""
        return self.data

    @property
    def version(self) -> int:
        """What `expect` names to replace exactly this value. A later write has a higher one."""
        return self.offset


class StateDeleted(Publication):
    """A name was deleted: it is not there any more. It has no data."""

    __slots__ = ()

    @property
    def version(self) -> int:
        """Higher than that of the value it took away; a name that is not there has version 0."""
        return self.offset


class SharedState:
    """The names that are there. `view` is the same mapping for good, and changes with them."""

    __slots__ = ("_values", "view")

    def __init__(self) -> None:
        self._values: dict[str, StateSet] = {}
        self.view: Mapping[str, StateSet] = MappingProxyType(self._values)

    def apply(self, item: Publication) -> None:
        """Take one publication: most change nothing."""
        if isinstance(item, StateSet):
            self._values[item.name] = item
        elif isinstance(item, StateDeleted):
            self._values.pop(item.name, None)

    def replace(self, snapshot: Iterable[Wire], epoch: str) -> None:
        """Take a snapshot for everything there was."""
        self._values.clear()
        self._values.update((wire.name, StateSet(wire, epoch)) for wire in snapshot)


def publication(wire: Wire, epoch: str) -> Publication:
    """Return what came as what it is."""
    if not wire.name:
        return Publication(wire, epoch)
    return StateDeleted(wire, epoch) if wire.deleted else StateSet(wire, epoch)
