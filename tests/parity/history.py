"""What one client of a scenario saw, in the words that both SDKs share, and what must be true of any such
history, whatever the scenario."""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from duolink.protocol.events import TRANSITIONS, State

Record = dict[str, Any]

FIELDS: Final[dict[str, frozenset[str]]] = {
    "state": frozenset({"state", "code", "reason", "error"}),
    "peer": frozenset({"peer", "state", "restarted"}),
    "lost": frozenset({"peer", "lane", "first", "last", "reason", "user"}),
    "loss": frozenset({"peer", "lane", "first", "last", "reason", "user"}),
    "gap": frozenset({"channel", "reason", "first", "last", "epoch", "offset"}),
    "presence": frozenset({"channel", "present", "joined", "left"}),
    "subscription_ended": frozenset({"channel", "code", "reason"}),
    "handler_failed": frozenset({"what", "error"}),
    "trouble": frozenset({"code", "reason"}),
}
"""The events of the SDKs and their fields: the same names in both."""


class History:
    """The records of one client, over all its lives."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.records: list[Record] = []
        self.life = 0
        self._cursors: dict[Any, int] = {}
        self._waiting: list[asyncio.Future[None]] = []

    def add(self, record: Record) -> None:
        """Something happened."""
        self.records.append({**record, "life": self.life})
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, there: Callable[[], Any]) -> Any:
        """Wait until a function returns something; asked again at every record."""
        while not (found := there()):
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        return found

    def of(self, *events: str, **fields: Any) -> list[Record]:
        """The records of some events in which the fields are so."""
        return [each for each in self.records if each["event"] in events and matches(each, fields)]

    async def take(self, what: Any, items: Callable[[], list[Any]], count: int) -> list[Any]:
        """Return the next items of a kind, waiting until there are so many."""
        start = self._cursors.get(what, 0)
        await self.until(lambda: len(items()) >= start + count)
        self._cursors[what] = start + count
        return items()[start : start + count]

    def rest(self, what: Any, items: Callable[[], list[Any]]) -> list[Any]:
        """What is there of a kind and has not been taken."""
        return items()[self._cursors.get(what, 0) :]

    async def see(self, event: str, fields: Mapping[str, Any]) -> Record:
        """Return the first record like that which comes after the one that was seen last of this event."""
        start = self._cursors.get(("see", event), 0)

        def find() -> int | None:
            for place in range(start, len(self.records)):
                if self.records[place]["event"] == event and matches(self.records[place], fields):
                    return place + 1
            return None

        place: int = await self.until(find)
        self._cursors["see", event] = place
        return self.records[place - 1]

    def count(self) -> int:
        """How many records this life has."""
        return sum(each["life"] == self.life for each in self.records)

    # --- what was received ---------------------------------------------------------------------

    def received(self, peer: str) -> list[Any]:
        """What a peer's stream has given: data, and `{"lost": reason}` for each number that will not come."""
        items: list[Any] = []
        for each in self.of("message", "loss", peer=peer):
            if each["event"] == "message":
                items.append(each["data"])
            else:
                items += [{"lost": each["reason"]}] * (each["last"] - each["first"] + 1)
        return items

    def entries(self, channel: str) -> list[Any]:
        """What a channel has given."""
        items: list[Any] = []
        for each in self.of("entry", channel=channel):
            kind = each["kind"]
            if kind == "publication":
                items.append(each["data"])
            elif kind == "gap":
                items.append({"gap": each["reason"]})
            elif kind == "set":
                items.append({"set": each["name"], "to": each["data"]})
            else:
                items.append({"deleted": each["name"]})
        return items


def matches(record: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    """Whether a record has these values (a list where one is: those, in any order)."""
    return all(name in record and record[name] == value for name, value in fields.items())


def check(histories: Mapping[str, History], names: Mapping[str, str], trouble: bool) -> None:
    """Raise `AssertionError` unless everything holds that always must. `names`: client → its client id;
    `trouble`: some was to be expected."""
    for history in histories.values():
        _check_events(history, trouble)
        _check_states(history)
        _check_fates(history)
        _check_channels(history)
    sent = _sent(histories, names)
    taken = _check_streams(histories, names, sent)
    _check_ends(histories, names, taken)


def _check_events(history: History, trouble: bool) -> None:
    for each in history.records:
        fields = FIELDS.get(each["event"])
        if fields is not None:
            assert set(each) - {"event", "life"} == fields, f"the fields of {each}"
        if each["event"] in ("trouble", "handler_failed"):
            assert trouble, f"trouble that nobody expected: {each}"


def _check_states(history: History) -> None:
    for _, lives in itertools.groupby(history.of("state"), lambda each: each["life"]):
        before = State.IDLE
        for each in lives:
            now = State(each["state"])
            assert now in TRANSITIONS[before], f"{history.client}: {before} → {now}"
            before = now


def _check_fates(history: History) -> None:
    """Marks go on only: stored, then delivered or lost, once."""
    marks: dict[Any, list[str]] = {}
    for each in history.of("fate"):
        marks.setdefault((each["to"], each["run"], each["lane"], each["seq"]), []).append(each["fate"])
    for which, fates in marks.items():
        ends = [fate for fate in fates if fate != "stored"]
        good = len(ends) <= 1 and fates.count("stored") <= 1 and (not ends or fates[-1] == ends[0])
        assert good, f"{history.client}: {which} was {fates}"


def _check_channels(history: History) -> None:
    """Offsets go up by one, within a life and epoch, but at gaps and where a subscription begins."""
    places: dict[Any, int] = {}
    for each in history.of("entry", "channel_end"):
        where = each["life"], each["channel"]
        if each["event"] == "channel_end" or each["kind"] == "gap":
            places.pop(where, None)
            continue
        before = places.get(where, int(each["offset"]) - 1)
        assert each["offset"] == before + 1, f"{history.client}: {each} after {before}"
        places[where] = each["offset"]


Number = tuple[str, str, int, str, int]
"""Sender, receiver, run, lane, seq."""


def _sent(histories: Mapping[str, History], names: Mapping[str, str]) -> dict[Number, Any]:
    return {
        (names[client], each["to"], each["run"], each["lane"], each["seq"]): each["data"]
        for client, history in histories.items()
        for each in history.of("sent")
    }


def _check_streams(
    histories: Mapping[str, History], names: Mapping[str, str], sent: Mapping[Number, Any]
) -> set[Number]:
    """Each once, in order, as it was sent. Returns what was received by anybody."""
    taken: set[Number] = set()
    for client, history in histories.items():
        newest: dict[Any, tuple[int, int]] = {}
        for each in history.of("message", "loss"):
            stream = each["life"], each["peer"], each["user"], each["lane"]
            first: int = each["seq"] if each["event"] == "message" else each["first"]
            if each["event"] == "message":
                run, seq = each["run"], each["seq"]
                number = each["peer"], each["user"] or names[client], run, each["lane"], seq
                assert number in sent, f"{client}: nobody sent {each}"
                assert sent[number] == each["data"], f"{client}: not what was sent: {each}"
                taken.add(number)
            else:
                run, seq = newest.get(stream, (0, 0))[0], each["last"]
            last_run, last = newest.get(stream, (run, first - 1))
            assert run >= last_run, f"{client}: an older run: {each}"
            if run == last_run:
                assert first == last + 1, f"{client}: {each} after {last}"
            newest[stream] = run, seq
    return taken


def _check_ends(histories: Mapping[str, History], names: Mapping[str, str], taken: Iterable[Number]) -> None:
    """Delivered is what somebody received; certainly lost what nobody did."""
    received = set(taken)
    for client, history in histories.items():
        for each in history.of("fate"):
            number = names[client], each["to"], each["run"], each["lane"], each["seq"]
            if each["fate"] == "delivered":
                assert number in received, f"{client}: delivered to nobody: {each}"
            elif each["fate"] == "lost" and each["certain"]:
                assert number not in received, f"{client}: certainly lost, and received: {each}"
