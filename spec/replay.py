"""Plays the scripted histories of `spec/vectors` on the Python core; vectors/README.md tells the format."""

import base64
import json
from itertools import cycle
from math import inf
from typing import Any

from msgspec import Raw

from duolink.protocol import codec
from duolink.protocol.backoff import Backoff
from duolink.protocol.codec import Malformed
from duolink.protocol.events import (
    Answered,
    Carry,
    Close,
    EphemeralReceived,
    FromLink,
    Open,
    ProtocolTrouble,
    SignalReceived,
    StateChanged,
)
from duolink.protocol.heartbeat import Heartbeat, Pace
from duolink.protocol.link import (
    Link,
    Lost,
    PathFailed,
    PeerChanged,
    Received,
    Settled,
    StorageTrouble,
    Stored,
)
from duolink.protocol.messages import (
    ALLOWED,
    CARRIER_TYPES,
    Ephemeral,
    History,
    LinkMessage,
    Message,
    PresenceQuery,
    Publish,
    Refresh,
    Set,
    Signal,
)
from duolink.protocol.paths import PathKind
from duolink.protocol.session import Session
from duolink.protocol.subscriptions import ChannelJoined, ChannelRefused, PresenceChanged, Published

Object = dict[str, Any]

DECODERS = {"client": codec.CLIENT, "server": codec.SERVER, "peer": codec.PEER}
_COMMANDS = {
    "publish": Publish,
    "history": History,
    "presence": PresenceQuery,
    "refresh": Refresh,
    "set": Set,
}


def payload(written: Any) -> bytes:
    """The bytes of a `payload`: a string, {"base64"}, or a list of such parts and [part, times]."""
    if isinstance(written, str):
        return written.encode()
    if isinstance(written, dict):
        return base64.b64decode(written["base64"])
    return b"".join(
        payload(part[0]) * part[1] if isinstance(part, list) else payload(part) for part in written
    )


def as_object(message: Any) -> Object:
    """A decoded message as the vectors write it: its wire fields without defaults; bytes as `data_base64`."""
    if isinstance(message, Malformed):
        return {"error": str(message.code)}
    if type(message) in CARRIER_TYPES and message.binary:
        header, _, data = codec.encode_binary(message).partition(b"\n")
        fields: Object = json.loads(header)
        return fields | {"data_base64": base64.b64encode(data).decode()}
    written: Object = json.loads(codec.encode(message))
    return written


def as_message(fields: Object, end: str) -> Message:
    """The message an object of a history stands for."""
    if "data_base64" in fields:
        data = base64.b64decode(fields["data_base64"])
        header = {name: value for name, value in fields.items() if name != "data_base64"}
        (message,) = DECODERS[end].binary(json.dumps(header).encode() + b"\n" + data)
    else:
        (message,) = DECODERS[end].text(json.dumps(fields).encode())
    if isinstance(message, Malformed):
        raise ValueError(f"{fields}: {message.reason}")
    assert isinstance(message, Message)
    return message


def decode(case: Object) -> list[Object]:
    """Play one case of messages.json."""
    decoder = DECODERS[case["from"]]
    data = payload(case["payload"])
    return [
        as_object(message) for message in (decoder.binary(data) if case.get("binary") else decoder.text(data))
    ]


def _timer(at: float) -> float | None:
    return None if at == inf else round(at, 6)


def heartbeat(case: Object) -> list[Object]:
    """Play one history of heartbeat.json."""
    machine = Heartbeat(Pace(**case["pace"]), case["begin"])
    results = []
    for step in case["steps"]:
        result: Object = {}
        if step["do"] == "poll":
            beat = machine.poll(step["at"])
            result["beat"] = beat.name.lower() if beat is not None else None
        else:
            getattr(machine, step["do"])(step["at"])
        results.append(result | {"timer": _timer(machine.next_timer())})
    return results


def backoff(case: Object) -> list[Object]:
    """Play one history of backoff.json."""
    machine = Backoff(**case["options"])
    results: list[Object] = []
    for step in case["steps"]:
        if step["do"] == "next":
            results.append({"delay": round(machine.next(step["random"]), 6)})
        else:
            machine.reset()
            results.append({})
    return results


def link(case: Object) -> list[Object]:
    """Play one history of link.json."""
    machine = Link(
        case["peer"],
        case["run"],
        window=case["window"],
        window_bytes=case["window_bytes"],
        durable=case.get("durable", False),
        user=case.get("user", ""),
    )
    received: dict[tuple[str, int, int], LinkMessage] = {}
    results = []
    for step in case["steps"]:
        now = step["at"]
        _do_to_link(machine, step, received)
        out = [{"path": path, "message": as_object(message)} for path, message in machine.take(now)]
        events = []
        for event in machine.events():
            if isinstance(event, Received):
                received[event.lane, event.message.run, event.message.seq] = event.message
            events.append(link_event(event))
        results.append({"out": out, "events": events, "timer": _timer(machine.next_timer(now))})
    return results


def _do_to_link(machine: Link, step: Object, received: dict[tuple[str, int, int], LinkMessage]) -> None:
    now, do = step["at"], step["do"]
    if do == "path_up":
        machine.path_up(step["path"], PathKind(step["kind"]), now)
    elif do == "path_down":
        machine.path_down(step["path"])
    elif do == "submit":
        binary = "data_base64" in step
        data = (
            base64.b64decode(step["data_base64"])
            if binary
            else json.dumps(step["data"], separators=(",", ":")).encode()
        )
        entry = machine.submit(
            Raw(data),
            lane=step.get("lane", "messages"),
            binary=binary,
            expires=now + step["expires_in"] if "expires_in" in step else inf,
            request=step.get("request", ""),
            deadline=step.get("deadline", 0),
            collapse=step.get("collapse", ""),
        )
        entry.ask = step.get("ask", False)
    elif do == "receive":
        path = step.get("path", "server")
        end = "server" if path == "server" or step["message"]["type"] not in _PEER_TYPES else "peer"
        machine.receive(as_message(step["message"], end), path, now)
    elif do == "finish":
        machine.finish(received[step.get("lane", "messages"), step["run"], step["seq"]], now)
    elif do != "nothing":
        raise ValueError(f"no step {do!r}")


_PEER_TYPES = {kind.__struct_config__.tag for kind in ALLOWED["peer"].__args__}


def link_event(event: Any) -> Object:
    """An event of a link as the vectors write it."""
    if isinstance(event, Received):
        return {"event": "received", "message": as_object(event.message)}
    if isinstance(event, Lost):
        return {"event": "lost", **event._asdict()}
    if isinstance(event, Settled):
        return {
            "event": "settled",
            "seq": event.entry.seq,
            "reason": str(event.reason),
            "certain": event.certain,
        }
    if isinstance(event, Stored):
        return {"event": "stored", "seq": event.entry.seq}
    if isinstance(event, PeerChanged):
        return {"event": "peer", "state": str(event.state), "restarted": event.restarted}
    if isinstance(event, StorageTrouble):
        return {"event": "storage_trouble", "code": event.code}
    assert isinstance(event, PathFailed)
    return {"event": "path_failed", "path": event.path}


def session(case: Object) -> list[Object]:
    """Play one history of session.json."""
    dice = cycle(case["random"])
    machine = Session(case["client_id"], random=lambda: next(dice))
    received: dict[tuple[str, str, int, int], LinkMessage] = {}
    results = []
    for step in case["steps"]:
        now = step["at"]
        result = _do_to_session(machine, step, received)
        actions = [_action(action) for action in machine.take(now)]
        events = []
        for event in machine.events():
            if isinstance(event, FromLink) and isinstance(event.event, Received):
                message = event.event.message
                received[event.peer, message.lane, message.run, message.seq] = message
            events.append(_event(event))
        result |= {"state": str(machine.state), "actions": actions, "events": events}
        results.append(result | {"timer": _timer(machine.next_timer(now))})
    return results


def _do_to_session(
    machine: Session, step: Object, received: dict[tuple[str, str, int, int], LinkMessage]
) -> Object:
    now, do = step["at"], step["do"]
    if do == "start":
        machine.start(now)
    elif do == "opened":
        machine.opened(step.get("token", ""), now)
    elif do == "lost":
        machine.lost(step["code"], step.get("reason", ""), now)
    elif do == "receive":
        lines = [json.dumps(message).encode() for message in step.get("messages", [])]
        machine.received(b"\n".join(lines) if lines else payload(step["payload"]), False, now)
    elif do in ("alive", "network_changed"):
        getattr(machine, do)(now)
    elif do == "close":
        machine.close(now)
    elif do == "want":
        position = {name: step[name] for name in ("epoch", "offset", "presence", "state") if name in step}
        machine.subscriptions.want(step["channel"], **position)
    elif do == "drop":
        machine.subscriptions.drop(step["channel"])
    elif do in ("watch", "unwatch"):
        getattr(machine, do)(step["peer"])
    elif do == "command":
        fields = dict(step["message"])
        kind = fields.pop("type")
        if "data" in fields:
            fields["data"] = codec.encode_json(fields["data"])
        machine.command(_COMMANDS[kind](id=0, **fields), step["context"], now)
    elif do == "send":
        message = as_message(step["message"], "client")
        assert isinstance(message, Signal | Ephemeral)
        return {"sent": machine.send(message)}
    elif do == "submit":
        link_ = machine.link(step["peer"])
        link_.submit(codec.encode_json(step["data"]))
        machine.touch(link_)
    elif do == "finish":
        link_ = machine.link(step["peer"])
        link_.finish(received[step["peer"], step.get("lane", "messages"), step["run"], step["seq"]], now)
        machine.touch(link_)
    elif do != "nothing":
        raise ValueError(f"no step {do!r}")
    return {}


def _action(action: Any) -> Object:
    if isinstance(action, Open):
        return {"action": "open"}
    if isinstance(action, Close):
        return {"action": "close", "code": int(action.code), "reason": action.reason}
    assert not isinstance(action, Carry), "sessions are played without data channels"
    decoder = codec.CLIENT.binary if action.binary else codec.CLIENT.text
    return {"action": "send", "messages": [as_object(message) for message in decoder(action.payload)]}


def _event(event: Any) -> Object:
    if isinstance(event, StateChanged):
        return {"event": "state", **event._asdict(), "state": str(event.state), "code": int(event.code)}
    if isinstance(event, FromLink):
        return {"event": "link", "peer": event.peer, "what": link_event(event.event)}
    if isinstance(event, Answered):
        publications = [as_object(publication) for publication in event.publications]
        answer: Object = {"event": "answered", "context": event.context, "answer": as_object(event.answer)}
        return answer | ({"publications": publications} if publications else {})
    if isinstance(event, ProtocolTrouble):
        return {"event": "trouble", "code": str(event.code)}
    if isinstance(event, SignalReceived):
        return {"event": "signal", "message": as_object(event.signal)}
    if isinstance(event, EphemeralReceived):
        return {"event": "ephemeral", "message": as_object(event.ephemeral)}
    if isinstance(event, ChannelJoined):
        joined: Object = {"event": "joined", **event._asdict()}
        del joined["gap"], joined["state"]
        if event.state is not None:
            joined["state"] = [as_object(entry) for entry in event.state]
        gap = event.gap
        return joined | ({"gap": {"reason": gap.reason, "first": gap.first, "last": gap.last}} if gap else {})
    if isinstance(event, ChannelRefused):
        return {"event": "channel_refused", "channel": event.channel, "code": event.code}
    if isinstance(event, Published):
        return {"event": "published", "message": as_object(event.publication)}
    assert isinstance(event, PresenceChanged)
    return {"event": "presence", **event._asdict(), "clients": list(event.clients)}
