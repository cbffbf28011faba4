"""The words of `spec/scenarios`: which steps there are and what they take. A file is checked before it is
played."""

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

SCENARIOS: Final = Path(__file__).parent.parent.parent / "spec" / "scenarios"

ENDING: Final = frozenset({"fails", "gives", "later", "as"})
"""What any action may say of its end."""

ACTIONS: Final[dict[str, frozenset[str]]] = {
    "connect": frozenset({"answer", "tokens", "close_timeout", "options"}),
    "close": frozenset(),
    "drop": frozenset(),
    "watch": frozenset({"peer"}),
    "send": frozenset({"to", "data", "numbers", "repeated", "name", "lane", "expires", "collapse", "wait"}),
    "hold": frozenset(),
    "read": frozenset(),
    "request": frozenset({"to", "data", "timeout"}),
    "answer": frozenset({"how"}),
    "ephemeral": frozenset({"to", "channel", "data"}),
    "subscribe": frozenset({"channel", "presence", "state"}),
    "unsubscribe": frozenset({"channel"}),
    "publish": frozenset({"channel", "data", "numbers", "repeated"}),
    "set": frozenset({"channel", "key", "data", "expect"}),
    "delete": frozenset({"channel", "key", "expect"}),
    "history": frozenset({"channel", "limit"}),
    "members": frozenset({"channel"}),
}
"""What a client does."""

WAITS: Final[dict[str, frozenset[str] | None]] = {
    "expect": frozenset({"peer", "items", "repeated", "numbers"}),
    "entries": frozenset({"channel", "items", "repeated", "numbers"}),
    "fate": frozenset({"of", "is", "reason", "certain"}),
    "map": frozenset({"channel", "is"}),
    "present": frozenset({"channel", "are"}),
    "result": frozenset({"of", "gives", "fails", "as"}),
    "sees": None,  # the fields of the event
    "never": None,
}
"""What a client waits for, and what must not come."""

NETWORK: Final[dict[str, frozenset[str]]] = {
    "cut": frozenset({"how"}),
    "hold": frozenset({"way"}),
    "release": frozenset({"way"}),
    "strand": frozenset(),
    "refuse": frozenset(),
    "accept": frozenset(),
    "reset_after": frozenset({"bytes", "way"}),
    "delay": frozenset({"seconds"}),
    "slow": frozenset({"rate"}),
    "until": frozenset({"held"}),
}
"""What happens to the connections `of` a client, or of all."""

SERVER: Final[dict[str, frozenset[str]]] = {
    "kill": frozenset(),
    "start": frozenset(),
    "drain": frozenset(),
}


class Unreadable(ValueError):
    """A scenario says what is not in the vocabulary."""


@dataclass(frozen=True)
class Part:
    """One client: its name on the server, and which side of a pairing plays it."""

    client_id: str
    side: int


@dataclass(frozen=True)
class Scenario:
    """A scenario as it was written."""

    name: str
    title: str
    clients: dict[str, Part]
    steps: list[dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    database: bool = False
    auth: bool = False
    trouble: bool = False


def load(path: Path) -> Scenario:
    """Return the scenario in a file. Raises `Unreadable`."""
    written = tomllib.loads(path.read_text())
    try:
        clients = {
            name: Part(how.get("id", name), how.get("side", min(place, 1)))
            for place, (name, how) in enumerate(written.pop("clients").items())
        }
        server = written.pop("server", {})
        scenario = Scenario(
            name=path.stem,
            title=written.pop("title"),
            clients=clients,
            steps=written.pop("steps"),
            settings=server.pop("settings", {}),
            database=server.pop("database", False),
            auth=server.pop("auth", False),
            trouble=written.pop("trouble", False),
        )
    except KeyError as error:
        raise Unreadable(f"{path.name}: without {error}") from None
    if written or server:
        raise Unreadable(f"{path.name}: {[*written, *server]} mean nothing")
    for number, step in enumerate(scenario.steps, 1):
        complaint = _complaint(scenario, step)
        if complaint:
            raise Unreadable(f"{path.name}: step {number}: {complaint}")
    if "never" in [next(iter(step.values())) for step in scenario.steps[-1:]]:
        raise Unreadable(f"{path.name}: nothing comes after the last step")
    return scenario


def _complaint(scenario: Scenario, step: dict[str, Any]) -> str:
    """What is wrong with a step; empty: nothing."""
    subject, verb = next(iter(step.items()))
    words = set(step) - {subject}
    if subject == "network":
        known = NETWORK.get(verb)
        if step.get("of") not in (None, *scenario.clients):
            return f"{step['of']} is no client"
        words -= {"of"}
    elif subject == "server":
        known = SERVER.get(verb)
    elif subject in scenario.clients:
        if verb in ACTIONS:
            known = ACTIONS[verb] | ENDING
        elif verb in ("sees", "never"):
            return "" if "event" in words else "without an event"
        else:
            known = WAITS.get(verb)
    else:
        return f"{subject} is no client"
    if known is None:
        return f"{subject} cannot {verb}"
    return f"{verb} takes no {sorted(words - known)}" if words - known else ""


def data(value: Any) -> Any:
    """Data as actors take it, from how a scenario writes it."""
    if not isinstance(value, dict):
        return value
    if "bytes" in value:
        return {"$bytes": value["bytes"] * value.get("times", 1)}
    if "repeat" in value:
        return value["repeat"] * value["times"]
    if "json" in value:
        return json.loads(value["json"])
    return value


def load_all() -> list[Scenario]:
    """Return every scenario."""
    return [load(path) for path in sorted(SCENARIOS.glob("*.toml"))]
