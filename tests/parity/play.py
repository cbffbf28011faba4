"""Plays a scenario: a server process, a proxy and an actor for each client; one step after the other, and
then what must be true of every history."""

import asyncio
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.parity.actors import Actor, Stage
from tests.parity.history import History, check, matches
from tests.parity.proxy import Proxy
from tests.parity.server import Server
from tests.parity.vocabulary import ACTIONS, Scenario, data

PATIENCE: Final = 15.0
"""Seconds for a step, on a machine that is busy. A good one takes milliseconds."""

OPTIONS: Final = {"backoff_initial": 0.05, "backoff_cap": 0.2}
"""Clients do not wait long here before they come back."""


class Failed(AssertionError):
    """A scenario did not go as it says."""


class Role:
    """One client of a scenario: who plays it, its proxy, its history."""

    def __init__(self, name: str, client_id: str, proxy: Proxy) -> None:
        self.client_id, self.proxy = client_id, proxy
        self.history = History(name)
        self.actor: Actor
        self.later: dict[str, asyncio.Task[dict[str, Any]]] = {}


class Play:
    """One performance of a scenario. `sides`: the kinds of actors of its two sides; `patience`: seconds for
    one step."""

    def __init__(
        self, scenario: Scenario, sides: Sequence[str], stage: Stage, folder: Path, patience: float = PATIENCE
    ) -> None:
        self._scenario, self._sides, self._stage, self._patience = scenario, sides, stage, patience
        self._server = Server(folder, scenario.settings, scenario.database, scenario.auth, stage.origin)
        self._roles: dict[str, Role] = {}
        self._values: dict[str, Any] = {}  # results that have a name
        self._never: list[tuple[Role, int, dict[str, Any]]] = []

    @property
    def histories(self) -> dict[str, History]:
        """What each client saw."""
        return {name: role.history for name, role in self._roles.items()}

    async def run(self) -> None:
        """Play it. Raises `Failed`, with the step at which it went wrong and what was seen until then."""
        try:
            await asyncio.gather(self._server.start(), *(self._cast(name) for name in self._scenario.clients))
            for number, step in enumerate(self._scenario.steps, 1):
                try:
                    async with asyncio.timeout(self._patience):
                        await self._step(dict(step))
                except (AssertionError, TimeoutError) as error:
                    why = str(error) or f"nothing of that within {self._patience:g} s"
                    raise Failed(f"step {number}, {step}: {why}\n{self._report()}") from None
            await self._flush()
            self._check()
        finally:
            await self._strike()

    async def _cast(self, name: str) -> None:
        part = self._scenario.clients[name]
        role = self._roles[name] = Role(name, part.client_id, Proxy(self._server.port))
        await role.proxy.accept()
        role.actor = await self._stage.actor(self._sides[part.side], role.history.add)

    async def _strike(self) -> None:
        for role in self._roles.values():
            for task in role.later.values():
                task.cancel()
        ending = [role.actor.end() for role in self._roles.values() if hasattr(role, "actor")]
        self._server.kill()
        await asyncio.gather(*(role.proxy.close() for role in self._roles.values()))
        await asyncio.gather(*ending)

    async def _flush(self) -> None:
        """Wait for the records that are still on their way."""
        async with asyncio.timeout(self._patience):
            for role in self._roles.values():
                count = (await role.actor.do("flush", {}))["result"]
                await role.history.until(partial(_has, role.history, count))

    def _check(self) -> None:
        try:
            for role, start, fields in self._never:
                seen = [each for each in role.history.records[start:] if matches(each, fields)]
                assert not seen, f"{role.history.client} saw {seen[0]}"
            for role in self._roles.values():
                self._nothing_more(role)
            names = {name: role.client_id for name, role in self._roles.items()}
            check(self.histories, names, self._scenario.trouble)
        except AssertionError as error:
            raise Failed(f"{error}\n{self._report()}") from None

    def _nothing_more(self, role: Role) -> None:
        """What came was all expected: a repeat is one more."""
        history = role.history
        for peer in {each["peer"] for each in history.of("message", "loss")}:
            rest = history.rest(("expect", peer), partial(history.received, peer))
            assert not rest, f"{history.client}: more came from {peer}: {str(rest)[:200]}"
        for channel in {each["channel"] for each in history.of("entry")}:
            rest = history.rest(("entries", channel), partial(history.entries, channel))
            assert not rest, f"{history.client}: more came in {channel}: {str(rest)[:200]}"

    def _report(self) -> str:
        lines = []
        for name, role in self._roles.items():
            lines.append(f"{name} saw:")
            lines += [f"  {str(each)[:300]}" for each in role.history.records[-20:]]
            ended = {each: task.result() for each, task in role.later.items() if task.done()}
            lines += [f"  and {each} ended: {str(result)[:300]}" for each, result in ended.items()]
        return "\n".join(lines)

    # --- steps ---------------------------------------------------------------------------------

    async def _step(self, step: dict[str, Any]) -> None:
        subject = next(iter(step))
        verb = step.pop(subject)
        if subject == "server":
            await self._of_server(verb)
        elif subject == "network":
            await self._of_network(verb, **step)
        elif verb in ACTIONS:
            await self._act(self._roles[subject], verb, step)
        else:
            await getattr(self, f"_wait_{verb}")(self._roles[subject], **step)

    async def _of_server(self, verb: str) -> None:
        if verb == "start":
            await self._server.start()
        elif verb == "drain":
            await self._server.drain()
        else:
            self._server.kill()

    async def _of_network(self, verb: str, of: str | None = None, **how: Any) -> None:
        for name in self._roles if of is None else [of]:
            proxy = self._roles[name].proxy
            if verb == "cut":
                proxy.cut(reset=how.get("how", "reset") == "reset")
            elif verb == "reset_after":
                proxy.reset_after(how["bytes"], how["way"])
            elif verb == "delay":
                proxy.delay = how["seconds"]
            elif verb == "slow":
                proxy.rate = how["rate"]
            elif verb == "accept":
                await proxy.accept()
            elif verb == "until":
                await proxy.until(partial(_holds, proxy, how["held"]))
            else:
                getattr(proxy, verb)(**how)

    # --- what clients do -----------------------------------------------------------------------

    async def _act(self, role: Role, verb: str, step: dict[str, Any]) -> None:
        end = {word: step.pop(word) for word in ("fails", "gives", "as") if word in step}
        later = step.pop("later", None)
        work = self._do(role, verb, step)
        if later is None:
            self._judge(await work, **end)
        else:
            assert not end, "the end of what is done later is told by `result`"
            role.later[later] = asyncio.create_task(work)

    async def _do(self, role: Role, verb: str, how: dict[str, Any]) -> dict[str, Any]:
        if verb == "drop":
            await role.actor.drop(role.proxy)
            role.history.life += 1
            return {"result": None}
        if verb == "connect":
            how = self._connecting(role, how)
        if isinstance(how.get("expect"), str):
            how["expect"] = self._values[how["expect"]]
        if verb == "send":
            how.setdefault("name", "m")
        if verb in ("send", "publish"):
            items = [how.pop("data")] if "data" in how else []
            how["items"] = _wanted(items, how.pop("repeated", 1), how.pop("numbers", None))
        elif "data" in how:
            how["data"] = data(how["data"])
        return await role.actor.do(verb, how)

    def _connecting(self, role: Role, how: dict[str, Any]) -> dict[str, Any]:
        return {
            "url": f"ws://127.0.0.1:{role.proxy.port}",
            "client": role.client_id,
            "tokens": [self._server.ticket(kind, role.client_id) for kind in how.get("tokens", ["good"])],
            "answer": how.get("answer"),
            "close_timeout": how.get("close_timeout", 5),
            "options": {**OPTIONS, **how.get("options", {})},
        }

    def _judge(self, done: dict[str, Any], **end: Any) -> None:
        if "fails" in end:
            assert "error" in done, f"it did not fail: {done}"
            assert matches(done["error"], end["fails"]), f"it failed with {done['error']}"
            return
        assert "error" not in done, f"it failed with {done['error']}"
        if "gives" in end:
            assert done["result"] == data(end["gives"]), f"it gave {done['result']}"
        if "as" in end:
            self._values[end["as"]] = done["result"]

    # --- what they wait for --------------------------------------------------------------------

    async def _wait_result(self, role: Role, of: str, **end: Any) -> None:
        self._judge(await role.later[of], **end)

    async def _wait_expect(
        self,
        role: Role,
        peer: str,
        items: Sequence[Any] = (),
        repeated: int = 1,
        numbers: list[int] | None = None,
    ) -> None:
        history, wanted = role.history, _wanted(items, repeated, numbers)
        peer = self._roles[peer].client_id
        got = await history.take(("expect", peer), partial(history.received, peer), len(wanted))
        _compare(got, wanted)

    async def _wait_entries(
        self,
        role: Role,
        channel: str,
        items: Sequence[Any] = (),
        repeated: int = 1,
        numbers: list[int] | None = None,
    ) -> None:
        history, wanted = role.history, _wanted(items, repeated, numbers)
        got = await history.take(("entries", channel), partial(history.entries, channel), len(wanted))
        _compare(got, wanted)

    async def _wait_fate(self, role: Role, of: str, **wanted: Any) -> None:
        """Wait until every message of that name has this fate; another that is final is a failure."""
        history = role.history
        fate = {"fate": wanted.pop("is"), **wanted}

        def newest() -> dict[Any, dict[str, Any]]:
            return {(each["run"], each["lane"], each["seq"]): each for each in history.of("fate", name=of)}

        def there() -> bool:
            fates = list(newest().values())
            for each in fates:
                assert matches(each, fate) or each["fate"] == "stored", f"it is {each}"
            return len(fates) == len(history.of("sent", name=of)) > 0 and all(
                matches(each, fate) for each in fates
            )

        await history.until(there)

    async def _wait_map(self, role: Role, channel: str, **wanted: Any) -> None:
        def there() -> bool:
            newest = role.history.of("map", channel=channel)[-1:]
            values = [{key: each["value"] for key, each in one["map"].items()} for one in newest]
            return values == [wanted["is"]]

        await role.history.until(there)

    async def _wait_present(self, role: Role, channel: str, are: list[str]) -> None:
        def there() -> bool:
            newest = role.history.of("presence", channel=channel)[-1:]
            return [each["present"] for each in newest] == [sorted(are)]

        await role.history.until(there)

    async def _wait_sees(self, role: Role, event: str, **fields: Any) -> None:
        await role.history.see(event, {name: data(value) for name, value in fields.items()})

    async def _wait_never(self, role: Role, **fields: Any) -> None:
        self._never.append((role, len(role.history.records), fields))


def _has(history: History, count: int) -> bool:
    return history.count() >= count


def _holds(proxy: Proxy, size: int) -> bool:
    return proxy.held >= size


def _wanted(items: Sequence[Any], repeated: int, numbers: list[int] | None) -> list[Any]:
    """The items, so many times, and then the numbers from the first to the last."""
    written = [data(each) for each in items] * repeated
    return written if numbers is None else [*written, *range(numbers[0], numbers[1] + 1)]


def _compare(got: list[Any], wanted: list[Any]) -> None:
    for place, (one, other) in enumerate(itertools.zip_longest(got, wanted)):
        assert one == other, f"item {place + 1} is {str(one)[:100]}, not {str(other)[:100]}"
