"""The operator's API: what it tells, what it does, and that both are as its document says."""

import asyncio
import base64
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate
from tests.unit.api_world import Operator, ask, operating, run
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import duolink
from duolink.engines.base import Failure
from duolink.server.api import clients as clients_of
from duolink.server.api import messages as messages_of
from duolink.server.config import ChannelSettings, Config, Links, Mailboxes, Storage
from duolink.server.happenings import KEPT, PER_SECOND, Happenings
from duolink.server.metrics import DELIVERY_BUCKETS
from duolink.server.names import Names

# --- the document ----------------------------------------------------------------------------


def test_the_document_is_openapi() -> None:
    async def main() -> None:
        async with operating() as operator:
            document = await operator.get("/api/openapi.json")
            validate(document)
            assert document["openapi"].startswith("3.1")
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    assert operation["summary"] and operation["operationId"]
                    named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
                    assert all(f"{{{name}}}" in path for name in named)
                    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
                    if content is not None:
                        operator.conforms(content["schema"], content["example"])
                    for status, answer in operation["responses"].items():
                        found = answer.get("content", {}).get("application/json")
                        if found is not None and "$ref" in found["schema"]:
                            operator.conforms(found["schema"], found["example"])
                            assert status in ("200", "202")
            names = [o["operationId"] for ops in document["paths"].values() for o in ops.values()]
            assert len(set(names)) == len(names)

    run(main())


def test_the_page_tells_people_the_same() -> None:
    async def main() -> None:
        async with operating() as operator:
            answer = await operator.call("GET", "/api")
            assert answer.headers["content-type"].startswith("text/html")
            page = answer.body.decode()
            document = await operator.get("/api/openapi.json")
            for path in document["paths"]:
                assert f"{path}</code>" in page
            assert "<script" not in page and "http://" not in page
            assert (await operator.call("GET", "/api/")).body == answer.body

    run(main())


def test_paths_and_methods_that_are_not_there() -> None:
    async def main() -> None:
        async with operating() as operator:
            assert (await operator.call("GET", "/api/nothing")).status == 404
            assert (await operator.call("GET", "/api/clients/a/b")).status == 404
            assert (await operator.call("GET", "/api/clients/%ff")).status == 404
            answer = await operator.call("POST", "/api/stats", {})
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
            assert (await operator.call("PATCH", "/api/clients/x", {})).status == 405
            assert (await operator.call("HEAD", "/api/stats")).status == 200

    run(main())


# --- the server ------------------------------------------------------------------------------


def test_it_tells_what_the_server_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with operating() as operator:
            info = await operator.get("/api/server")
            assert (info["development"], info["auth"], info["durable"]) == (True, "none", False)
            assert info["ready"] and info["reasons"] == [] and info["database"] is None
            assert info["limits"]["message"] == 65536
            operator.app._not_ready = "draining"
            assert (await operator.get("/api/server"))["reasons"] == ["draining"]
        path = str(tmp_path / "duo.db")
        async with operating(Config(storage=Storage(database=path))) as operator:
            info = await operator.get("/api/server")
            assert info["durable"] and info["database"] == path

    run(main())


def test_a_sample_counts_what_there_is_and_what_was() -> None:
    async def main() -> None:
        async with operating() as operator:
            app = operator.app
            first = await operator.get("/api/stats")
            assert first["sessions"] == {"active": 0, "detached": 0}
            async with (
                duolink.connect(app.url, client_id="a") as a,
                duolink.connect(app.url, client_id="b") as b,
            ):
                b.on_message(lambda message: None)
                for number in range(3):
                    sent = await a.link("b").send(number)
                await sent.delivered()
                app._service.streams._overview._sample = (-1.0, b"")
                second = await operator.get("/api/stats")
            assert second["sessions"]["active"] == 2 and second["connections"]["websocket"] == 2
            assert second["messages"]["received"] == 3 and second["messages"]["sent"] >= 3
            assert second["bytes"]["received"] > 100 and second["bytes"]["sent"] > 100
            delivery = second["delivery"]
            assert delivery["count"] >= 1 and delivery["buckets"][-1] == [None, delivery["count"]]
            assert [bound for bound, _ in delivery["buckets"]] == [*DELIVERY_BUCKETS, None]
            assert second["memory"] > 1 << 20 and second["cpu_s"] > 0
            assert (await operator.get("/api/stats"))["time"] == second["time"], "a sample is shared"

    run(main())


def test_happenings_are_told_in_order_and_page_by_page() -> None:
    async def main() -> None:
        async with operating() as operator:
            app = operator.app
            assert await operator.get("/api/happenings") == {"items": [], "next": None}
            async with duolink.connect(app.url, client_id="alice"):
                with pytest.raises(duolink.Refused):
                    async with duolink.connect(app.url, client_id="alice"):
                        pass
            found = (await operator.get("/api/happenings"))["items"]
            assert [each["kind"] for each in found] == ["connected", "duplicate", "ended"]
            assert all(each["client"] == "alice" for each in found)
            assert found[0]["address"] == "127.0.0.1" and found[0]["detail"] == "websocket"
            ids = [each["id"] for each in found]
            assert ids == list(range(ids[0], ids[0] + 3))
            page = await operator.get(f"/api/happenings?after={ids[0]}&limit=1")
            assert [each["id"] for each in page["items"]] == [ids[1]] and page["next"] == ids[1]
            assert (await operator.get(f"/api/happenings?after={ids[2]}"))["items"] == []
            app.node.drain(0)
            assert (await operator.get("/api/happenings"))["items"][-1]["kind"] == "draining"

    run(main())


class _Clock:
    def __init__(self) -> None:
        self.now = 10.0

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return int(self.now * 1000)


def test_the_ring_is_bounded_and_one_kind_cannot_fill_it_at_once() -> None:
    clock = _Clock()
    ring = Happenings(clock)
    ring.add("draining")
    for _ in range(2 * PER_SECOND):
        ring.add("refused")
    assert len(ring.after(0)) == PER_SECOND + 1
    clock.now += 1
    ring.add("refused", detail="why")
    assert ring.after(0)[-1].detail == f"why ({PER_SECOND} more were left out)"
    for _ in range(KEPT):
        clock.now += 1
        ring.add("refused")
    kept = ring.after(0)
    assert len(kept) == KEPT and kept[-1].id == ring.last
    assert [each.id for each in ring.after(ring.last - 2)] == [ring.last - 1, ring.last]
    assert [each.id for each in ring.after(0, 2)] == [kept[0].id, kept[1].id]
    later = _Clock()
    later.now = clock.now + 1
    assert Happenings(later).last > ring.last - KEPT, "ids of a later process are higher"


def test_a_refused_handshake_happens() -> None:
    async def main() -> None:
        async with operating() as operator:
            with pytest.raises(InvalidStatus):
                async with connect(f"ws://127.0.0.1:{operator.app.port}/nothing"):
                    pass
            last = (await operator.get("/api/happenings"))["items"][-1]
            assert last["kind"] == "refused" and last["detail"].startswith("handshake refused: ")
            assert (await operator.get("/api/stats"))["refusals"] == 1

    run(main())


# --- clients ---------------------------------------------------------------------------------


def test_clients_are_listed_by_name_state_and_prefix() -> None:
    async def main() -> None:
        async with operating() as operator:
            url = operator.app.url
            names = ["b", "a/1", "a:2", "ü", "a"]
            clients = [duolink.connect(url, client_id=name) for name in names]
            for client in clients:
                await client.open()
            found = await operator.get("/api/clients")
            assert [each["client"] for each in found["items"]] == sorted(names) and found["next"] is None
            item = found["items"][0]
            assert (item["state"], item["transport"], item["attachment"]) == ("active", "websocket", 1)
            assert item["sent"] >= 1 and item["received"] >= 1 and item["bytes_received"] > 0
            page = await operator.get("/api/clients?limit=2")
            assert [each["client"] for each in page["items"]] == ["a", "a/1"] and page["next"] == "a/1"
            page = await operator.get("/api/clients?limit=2&after=a%2F1&prefix=a")
            assert [each["client"] for each in page["items"]] == ["a:2"] and page["next"] is None
            clients[0].cut()
            while not (await operator.get("/api/clients?state=detached"))["items"]:  # noqa: ASYNC110
                await asyncio.sleep(0)
            page = await operator.get("/api/clients?state=detached")
            assert [each["client"] for each in page["items"]] == ["b"]
            assert page["items"][0]["transport"] is None
            assert "b" not in [
                e["client"] for e in (await operator.get("/api/clients?state=active"))["items"]
            ]
            for client in clients:
                await client.close()

    run(main())


def test_a_page_of_what_is_rare_looks_at_so_many_names_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients_of, "MAX_LOOKS", 2)

    async def main() -> None:
        async with operating() as operator:
            clients = [duolink.connect(operator.app.url, client_id=name) for name in "abcd"]
            for client in clients:
                await client.open()
            page = await operator.get("/api/clients?state=detached")
            assert page == {"items": [], "next": "b"}
            assert await operator.get("/api/clients?state=detached&after=d") == {"items": [], "next": None}
            for client in clients:
                await client.close()

    run(main())


def test_a_client_in_detail() -> None:
    async def main() -> None:
        async with operating() as operator:
            app = operator.app
            async with (
                duolink.connect(app.url, client_id="a/b") as client,
                duolink.connect(app.url, client_id="peer") as peer,
            ):
                subscription = client.channel("news").subscribe()
                await subscription.__aenter__()
                await peer.link("a/b").send("waits for its application")
                sent = await client.link("peer").send(1, lane="bulk")
                peer.on_message(lambda message: None)
                await sent.delivered()
                detail = await operator.get("/api/clients/a%2Fb")
                assert detail["channels"] == [{"name": "news", "offset": 0}]
                assert {"peer": "peer", "lane": "bulk", "in_flight": 0} in detail["links"]
                assert detail["claims"]["publish"] == ["*"] and not detail["claims"]["operator"]
                assert detail["run"] and detail["session"] and detail["mailbox"] is None
                links = (await operator.get("/api/clients/peer"))["links"]
                assert {"peer": "a/b", "lane": "messages", "in_flight": 1} in links
                session = app.node.sessions.get("peer")
                assert session is not None and session.connection is not None
                session.connection.ping()
                while (await operator.get("/api/clients/peer"))["rtt_ms"] is None:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                client.on_message(lambda message: None)
            assert (await operator.call("GET", "/api/clients/nobody")).status == 404
            assert (await operator.call("GET", "/api/clients/%40user")).status == 404

    run(main())


def test_a_client_that_is_away_has_its_mailbox(tmp_path: Path) -> None:
    async def main() -> None:
        async with operating(Config(storage=Storage(database=str(tmp_path / "duo.db")))) as operator:
            before = operator.app.node.clock.wall_ms()
            answer = await operator.call(
                "POST", "/api/messages", {"to": "bob", "data": "hello", "wait": "stored"}
            )
            assert (answer.status, answer.json()) == (200, {"to": "bob", "seq": 1, "state": "stored"})
            detail = await operator.get("/api/clients/bob")
            assert (detail["state"], detail["session"], detail["claims"]) == ("away", None, None)
            assert detail["mailbox"]["messages"] == 1 and detail["mailbox"]["oldest"] >= before
            async with duolink.connect(operator.app.url, client_id="alice"):
                assert (await operator.get("/api/clients"))["items"][0]["mailbox"] is None
            stats = await operator.get("/api/stats")
            assert stats["mailboxes"]["mailboxes"] == 1 and stats["mailboxes"]["messages"] == 1

    run(main())


def test_a_client_is_sent_away() -> None:
    async def main() -> None:
        async with operating() as operator:
            async with duolink.connect(operator.app.url, client_id="bob") as bob:
                answer = await operator.call("DELETE", "/api/clients/bob", {"reason": "no more"})
                assert (answer.status, answer.body) == (204, b"")
                with pytest.raises(duolink.ClientClosed) as ended:
                    async for _ in bob.messages():
                        pass
                assert ended.value.code == 3505
            assert (await operator.call("DELETE", "/api/clients/bob")).status == 404
            kinds = [e["kind"] for e in (await operator.get("/api/happenings"))["items"]]
            assert kinds == ["connected", "disconnected", "ended"]

    run(main())


def test_a_client_may_be_told_to_come_back() -> None:
    async def main() -> None:
        async with operating() as operator, duolink.connect(operator.app.url, client_id="bob"):
            answer = await operator.call("DELETE", "/api/clients/bob", {"reconnect": True})
            assert answer.status == 204
            session = operator.app.node.sessions.get("bob")
            assert session is not None and session.connection is None, "it may resume"
            assert (await operator.call("DELETE", "/api/clients/bob", {"reconnect": True})).status == 204
            assert operator.app.node.sessions.get("bob") is session
            assert (await operator.call("DELETE", "/api/clients/bob")).status == 204
            assert operator.app.node.sessions.get("bob") is None, "it may not"

    run(main())


@pytest.mark.parametrize(
    "body", [{"reason": "x" * 124}, {"reason": "ü" * 100}, {"reason": 1}, {"other": 1}, [], "x"]
)
def test_what_is_no_reason(body: Any) -> None:
    async def main() -> None:
        async with operating() as operator, duolink.connect(operator.app.url, client_id="bob"):
            assert (await operator.call("DELETE", "/api/clients/bob", body)).status == 400

    run(main())


# --- messages --------------------------------------------------------------------------------


def test_messages_come_from_the_server_and_are_waited_for() -> None:
    async def main() -> None:
        async with operating() as operator:
            got: list[Any] = []
            async with duolink.connect(operator.app.url, client_id="bob") as bob:
                bob.on_message(lambda message: got.append((message.sender, message.data)))
                for number in (1, 2):
                    body = {"to": "bob", "data": {"number": number}, "wait": "delivered"}
                    answer = await operator.call("POST", "/api/messages", body)
                    assert answer.status == 200
                    assert answer.json() == {"to": "bob", "seq": number, "state": "delivered"}
            assert got == [("$server", {"number": 1}), ("$server", {"number": 2})]
            answer = await operator.call("POST", "/api/messages", {"to": "bob", "data": None})
            assert (answer.status, answer.json()["state"]) == (202, "sent")

    run(main())


def test_a_key_makes_sending_idempotent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages_of, "MAX_KEYS", 1)

    async def main() -> None:
        async with operating() as operator:

            async def send(key: str, to: str = "bob") -> int:
                body = {"to": to, "data": 1, "key": key}
                seq: int = (await operator.call("POST", "/api/messages", body)).json()["seq"]
                return seq

            assert [await send("k"), await send("k")] == [1, 1]
            assert await send("l") == 2
            assert await send("m") == 3, "of more keys than are remembered"
            assert await send("k") == 4, "the oldest is forgotten"

    run(main())


def test_a_key_makes_sending_idempotent_though_both_requests_wait_for_room() -> None:
    async def main() -> None:
        async with operating(Config(links=Links(window=1))) as operator:
            await operator.call("POST", "/api/messages", {"to": "bob", "data": "fills the window"})
            body = {"to": "bob", "data": "pay 100", "key": "k", "timeout_ms": 20_000, "wait": "delivered"}
            two = [asyncio.create_task(operator.call("POST", "/api/messages", body)) for _ in range(2)]
            late = await operator.call("POST", "/api/messages", {**body, "timeout_ms": 20})
            assert late.status == 503
            got: list[str] = []
            async with duolink.connect(operator.app.url, client_id="bob") as bob:
                bob.on_message(lambda message: got.append(message.data))
                answers = [(await each).json() for each in two]
            assert got == ["fills the window", "pay 100"]
            assert [(each["seq"], each["state"]) for each in answers] == [(2, "delivered")] * 2

    run(main())


def test_a_lost_message_says_why() -> None:
    async def main() -> None:
        async with operating() as operator:
            body = {"to": "nobody", "data": 1, "ttl_ms": 10, "wait": "delivered"}
            answer = await operator.call("POST", "/api/messages", body)
            assert answer.status == 200
            assert answer.json() == {
                "to": "nobody", "seq": 1, "state": "lost", "reason": "expired", "certain": True,
            }  # fmt: skip
            body = {"to": "nobody", "data": 1, "wait": "delivered", "timeout_ms": 1}
            answer = await operator.call("POST", "/api/messages", body)
            assert (answer.status, answer.json()["state"]) == (202, "sent")

    run(main())


def test_a_client_that_takes_nothing_is_told_of() -> None:
    async def main() -> None:
        async with operating() as operator:
            body = {"to": "nobody", "data": 1, "timeout_ms": 5}
            for _ in range(operator.app.config.links.window):
                assert (await operator.call("POST", "/api/messages", body)).status == 202
            answer = await operator.call("POST", "/api/messages", body)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")

    run(main())


def test_messages_to_so_many_clients_wait_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duolink.server.localclient.MAX_LINKS", 2)

    async def main() -> None:
        async with operating() as operator:
            for name, status in (("a", 202), ("b", 202), ("c", 503), ("a", 202)):
                body = {"to": name, "data": 1}
                assert (await operator.call("POST", "/api/messages", body)).status == status
            async with duolink.connect(operator.app.url, client_id="a") as a:
                a.on_message(lambda message: None)
                body = {"to": "a", "data": 1, "wait": "delivered"}
                assert (await operator.call("POST", "/api/messages", body)).status == 200
                assert (await operator.call("POST", "/api/messages", {"to": "c", "data": 1})).status == 202

    run(main())


def test_collapse_replaces_what_waits(tmp_path: Path) -> None:
    async def main() -> None:
        async with operating(Config(storage=Storage(database=str(tmp_path / "duo.db")))) as operator:
            for number in range(3):
                body = {"to": "bob", "data": number, "wait": "stored", "collapse": "place"}
                assert (await operator.call("POST", "/api/messages", body)).json()["state"] == "stored"
            assert (await operator.get("/api/clients/bob"))["mailbox"]["messages"] == 1

    run(main())


def test_what_clients_send_to_the_server_waits_while_nobody_listens() -> None:
    async def main() -> None:
        async with operating() as operator:
            await operator.call("POST", "/api/messages", {"to": "bob", "data": 1})
            alice = duolink.connect(operator.app.url, client_id="alice", close_timeout=0.01)
            await alice.open()
            link = alice.link("$server")
            await link.send("hello?")
            alice.on_message(lambda message: None)
            body = {"to": "alice", "data": 1, "wait": "delivered"}
            assert (await operator.call("POST", "/api/messages", body)).json()["state"] == "delivered"
            assert link.unsettled == 1 and link.state == "away"
            with pytest.raises(duolink.Unsettled):
                await alice.close()

    run(main())


# --- channels --------------------------------------------------------------------------------


def test_channels_that_were_published_to_are_listed_beside_those_with_subscribers() -> None:
    async def main() -> None:
        async with (
            operating() as operator,
            duolink.connect(operator.app.url, client_id="alice") as alice,
            alice.channel("c").subscribe(),
            alice.channel("b").subscribe(),
        ):
            for name in ("a", "b", "d"):
                await alice.channel(name).publish(name)
            page = await operator.get("/api/channels")
            found = [(each["name"], each["subscribers"], each["offset"]) for each in page["items"]]
            assert found == [("a", 0, 1), ("b", 1, 1), ("c", 1, 0), ("d", 0, 1)]
            names: list[str] = []
            after: str | None = ""
            while after is not None:
                page = await operator.get(f"/api/channels?limit=1&after={after}")
                names += [each["name"] for each in page["items"]]
                after = page["next"]
            assert names == ["a", "b", "c", "d"]
            page = await operator.get("/api/channels?present=true")
            assert [each["name"] for each in page["items"]] == ["b", "c"]

    run(main())


def test_channels_are_listed_while_somebody_subscribes() -> None:
    async def main() -> None:
        async with operating() as operator:
            async with AsyncExitStack() as stack:
                alice = await stack.enter_async_context(duolink.connect(operator.app.url, client_id="alice"))
                for name in ("news/a", "news", "chat"):
                    await stack.enter_async_context(alice.channel(name).subscribe())
                page = await operator.get("/api/channels?limit=2")
                assert [each["name"] for each in page["items"]] == ["chat", "news"]
                assert page["next"] == "news"
                page = await operator.get("/api/channels?prefix=news&after=news")
                assert [each["name"] for each in page["items"]] == ["news/a"] and page["next"] is None
                assert page["items"][0]["subscribers"] == 1 and not page["items"][0]["durable"]
                detail = await operator.get("/api/channels/news%2Fa")
                assert detail["subscribers"] == 1 and detail["retention"]["history_count"] == 1000
                found = await operator.get("/api/channels/news%2Fa/presence")
                assert [(e["client"], e["user"]) for e in found["items"]] == [("alice", "alice")]
            assert (await operator.call("GET", "/api/channels/nothing")).status == 404
            assert (await operator.get("/api/channels/nothing/presence"))["items"] == []

    run(main())


def test_publications_are_read_back_forwards_and_backwards() -> None:
    async def main() -> None:
        async with operating() as operator:
            for number in range(1, 6):
                answer = await operator.call("POST", "/api/channels/n%2Fm/messages", {"data": {"n": number}})
                assert (answer.status, answer.json()["offset"]) == (200, number)
            async with duolink.connect(operator.app.url, client_id="alice") as alice:
                await alice.channel("n/m").publish(b"\x00\xff")
            history = "/api/channels/n%2Fm/history"
            page = await operator.get(f"{history}?limit=2")
            assert [(e["offset"], e["data"]) for e in page["items"]] == [(1, {"n": 1}), (2, {"n": 2})]
            assert page["next"] == 3 and page["items"][0]["from"] == "$server"
            page = await operator.get(f"{history}?from=5")
            assert [e["offset"] for e in page["items"]] == [5, 6] and page["next"] is None
            assert base64.b64decode(page["items"][1]["data_base64"]) == b"\x00\xff"
            assert "data" not in page["items"][1] and page["items"][1]["from"] == "alice"
            page = await operator.get(f"{history}?reverse=true&limit=4")
            assert [e["offset"] for e in page["items"]] == [6, 5, 4, 3] and page["next"] == 2
            page = await operator.get(f"{history}?reverse=true&limit=4&from=2")
            assert [e["offset"] for e in page["items"]] == [2, 1] and page["next"] is None
            assert (await operator.get(f"{history}?reverse=true&from=0"))["items"] == []
            assert (await operator.get("/api/channels/none/history"))["items"] == []
            assert (await operator.get("/api/channels/none/history?reverse=true"))["items"] == []

    run(main())


def test_a_page_of_history_has_so_many_bytes_and_one_item_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duolink.server.api.channels.PAGE_BYTES", 10)

    async def main() -> None:
        async with operating() as operator:
            for name in ("a", "b"):
                body = {"value": "12345678901234567890"}
                await operator.call("PUT", f"/api/channels/c/state/{name}", body)
            page = await operator.get("/api/channels/c/history")
            assert [e["offset"] for e in page["items"]] == [1] and page["next"] == 2
            page = await operator.get("/api/channels/c/history?reverse=true")
            assert [e["offset"] for e in page["items"]] == [2] and page["next"] == 1
            page = await operator.get("/api/channels/c/state")
            assert [e["name"] for e in page["items"]] == ["a"] and page["next"] == "a"
            page = await operator.get("/api/channels/c/state?after=a")
            assert [e["name"] for e in page["items"]] == ["b"] and page["next"] is None

    run(main())


def test_what_retention_has_taken_is_not_told() -> None:
    config = Config(channels={"c": ChannelSettings(history_count=2)})

    async def main() -> None:
        async with operating(config) as operator:
            for number in range(5):
                await operator.call("POST", "/api/channels/c/messages", {"data": number})
            page = await operator.get("/api/channels/c/history")
            assert [e["data"] for e in page["items"]] == [3, 4]
            page = await operator.get("/api/channels/c/history?reverse=true")
            assert [e["data"] for e in page["items"]] == [4, 3] and page["next"] is None

    run(main())


def test_backwards_no_page_tells_again_what_one_before_it_told() -> None:
    config = Config(channels={"c": ChannelSettings(history_count=5)})

    async def main() -> None:
        async with operating(config) as operator:
            for number in range(1, 9):  # retention keeps 4 to 8
                await operator.call("POST", "/api/channels/c/messages", {"data": number})
            history = "/api/channels/c/history?reverse=true&limit=3"
            page = await operator.get(history)
            assert [e["offset"] for e in page["items"]] == [8, 7, 6] and page["next"] == 5
            page = await operator.get(f"{history}&from=5")
            assert [e["offset"] for e in page["items"]] == [5, 4] and page["next"] is None
            page = await operator.get(f"{history}&from=2")  # all taken
            assert page["items"] == [] and page["next"] is None

    run(main())


def test_backwards_from_beyond_the_newest_begins_with_the_newest() -> None:
    async def main() -> None:
        async with operating() as operator:
            for number in range(1, 4):
                await operator.call("POST", "/api/channels/c/messages", {"data": number})
            page = await operator.get("/api/channels/c/history?reverse=true&from=1000&limit=2")
            assert [e["offset"] for e in page["items"]] == [3, 2] and page["next"] == 1

    run(main())


def test_a_publication_with_a_key_happens_once() -> None:
    async def main() -> None:
        async with operating() as operator:
            body = {"data": 1, "key": "k"}
            first = await operator.call("POST", "/api/channels/c/messages", body)
            again = await operator.call("POST", "/api/channels/c/messages", body)
            assert first.json() == again.json()

    run(main())


def test_shared_state_is_set_compared_and_deleted() -> None:
    async def main() -> None:
        async with operating() as operator:
            path = "/api/channels/doc/state"
            answer = await operator.call("PUT", f"{path}/a%2Fb", {"value": {"x": [1]}, "expect": 0})
            assert (answer.status, answer.json()) == (200, {"version": 1})
            answer = await operator.call("PUT", f"{path}/a%2Fb", {"value": 2, "expect": 0})
            assert answer.status == 409 and "version 1" in answer.json()["detail"]
            assert (await operator.call("PUT", f"{path}/c", {"value": None})).json() == {"version": 2}
            page = await operator.get(f"{path}?limit=1")
            assert page == {"items": [{"name": "a/b", "value": {"x": [1]}, "version": 1}], "next": "a/b"}
            page = await operator.get(f"{path}?after=a/b")
            assert page == {"items": [{"name": "c", "value": None, "version": 2}], "next": None}
            assert (await operator.call("DELETE", f"{path}/c", {"expect": 1})).status == 409
            assert (await operator.call("DELETE", f"{path}/c")).json() == {"version": 3}
            assert (await operator.get("/api/channels/doc"))["state_entries"] == 1
            item = (await operator.get("/api/channels/doc/history?from=3"))["items"][0]
            assert item["deleted"] and item["name"] == "c" and "data" not in item
            async with duolink.connect(operator.app.url, client_id="alice") as alice:
                await alice.channel("doc").set("raw", b"\x01")
            page = await operator.get(f"{path}?after=c")
            assert page["items"][0]["value_base64"] == "AQ==" and "value" not in page["items"][0]

    run(main())


def test_what_the_node_refuses_is_told_as_http() -> None:
    config = Config(
        channels={
            "none": ChannelSettings(state_keys=0),
            "small": ChannelSettings(state_keys=1),
        }
    )

    async def main() -> None:
        async with operating(config) as operator:
            assert (await operator.call("PUT", "/api/channels/none/state/a", {"value": 1})).status == 403
            assert (await operator.call("PUT", "/api/channels/small/state/a", {"value": 1})).status == 200
            assert (await operator.call("PUT", "/api/channels/small/state/b", {"value": 1})).status == 507
            assert (
                await operator.call("PUT", f"/api/channels/c/state/{'x' * 256}", {"value": 1})
            ).status == 400
            assert (await operator.call("GET", f"/api/channels/{'x' * 256}")).status == 404
            large = "x" * 65_000
            assert (await operator.call("POST", "/api/channels/c/messages", {"data": large})).status in (
                400,
                413,
            )
            deep: Any = 1
            for _ in range(70):
                deep = [deep]
            assert (await operator.call("POST", "/api/channels/c/messages", {"data": deep})).status == 400
            assert (await operator.call("POST", "/api/messages", {"to": "a", "data": deep})).status == 400
            assert (await operator.call("POST", "/api/messages", {"to": "a", "data": large})).status == 400
            assert (await operator.call("POST", "/api/messages", {"to": "$server", "data": 1})).status == 400

    run(main())


# --- mailboxes -------------------------------------------------------------------------------


def test_mailboxes_are_listed_by_depth_and_by_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with operating(Config(storage=Storage(database=str(tmp_path / "duo.db")))) as operator:
            assert await operator.get("/api/mailboxes") == {"items": [], "next": None}
            for name, count in (("a", 1), ("b", 3), ("c/d", 2)):
                for number in range(count):
                    body = {"to": name, "data": number, "wait": "stored"}
                    assert (await operator.call("POST", "/api/messages", body)).status == 200
            found = (await operator.get("/api/mailboxes"))["items"]
            assert [(e["client"], e["messages"], e["senders"]) for e in found] == [
                ("b", 3, 1), ("c/d", 2, 1), ("a", 1, 1),
            ]  # fmt: skip
            assert abs(found[0]["oldest"] - operator.app.node.clock.wall_ms()) < 20_000
            page = await operator.get("/api/mailboxes?order=name&limit=2")
            assert [e["client"] for e in page["items"]] == ["a", "b"] and page["next"] == "b"
            page = await operator.get("/api/mailboxes?order=name&limit=2&after=b")
            assert [e["client"] for e in page["items"]] == ["c/d"] and page["next"] is None
            assert len((await operator.get("/api/mailboxes?limit=1"))["items"]) == 1
            assert (await operator.call("GET", "/api/mailboxes?after=b")).status == 400

    run(main())


def test_a_full_mailbox_happens(tmp_path: Path) -> None:
    config = Config(
        storage=Storage(database=str(tmp_path / "duo.db")), mailboxes=Mailboxes(messages=1, pair_messages=1)
    )

    async def main() -> None:
        async with operating(config) as operator:
            for _ in range(2):
                body = {"to": "bob", "data": 1, "wait": "stored"}
                answer = await operator.call("POST", "/api/messages", body)
            assert answer.json()["state"] == "lost" and answer.json()["reason"] == "mailbox_full"
            last = (await operator.get("/api/happenings"))["items"][-1]
            assert (last["kind"], last["client"]) == ("mailbox_full", "bob")

    run(main())


# --- when the storage fails -------------------------------------------------------------------


def _failing(operator: Operator, *names: str) -> None:
    def fail(*arguments: Any) -> None:
        arguments[-1](Failure("the disk is gone"))

    node = operator.app.node
    for name in names:
        engine: Any = node.mailboxes.engine if hasattr(node.mailboxes.engine, name) else node.channels.log
        setattr(engine, name, fail)


def test_a_storage_that_fails_is_told_of() -> None:
    async def main() -> None:
        async with operating() as operator:
            _failing(operator, "listing", "deepest", "holdings", "state", "top")
            for path in ("mailboxes", "mailboxes?order=name", "clients/x", "channels/x", "channels/x/state"):
                answer = await operator.call("GET", f"/api/{path}")
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                assert "the disk is gone" in answer.json()["detail"]
            async with duolink.connect(operator.app.url, client_id="alice"):
                found = await operator.get("/api/clients")
                assert found["items"][0]["mailbox"] is None
                assert (await operator.get("/api/clients/alice"))["mailbox"] is None

    run(main())


def test_a_storage_that_does_not_answer_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duolink.server.api.backend.ENGINE_TIMEOUT", 0.01)
    monkeypatch.setattr("duolink.server.api.channels.COMMAND_TIMEOUT", 0.01)

    async def main() -> None:
        async with operating() as operator:
            late: list[Any] = []
            engine: Any = operator.app.node.mailboxes.engine
            log: Any = operator.app.node.channels.log
            engine.deepest = lambda limit, done: late.append(done)
            log.append = lambda *arguments: None
            assert (await operator.call("GET", "/api/mailboxes")).status == 503
            late[0](())  # an answer that is too late changes nothing
            assert (await operator.call("POST", "/api/channels/c/messages", {"data": 1})).status == 503

    run(main())


def test_a_defect_is_a_problem_without_details_and_is_logged() -> None:
    async def main() -> None:
        async with operating() as operator:
            node: Any = operator.app.node
            node.gauges = lambda: 1 / 0
            answer = await ask(operator.app._service.app, "GET", "/api/stats")
            assert answer.status == 500 and b"division" not in answer.body

    run(main())


# --- counting --------------------------------------------------------------------------------


def test_requests_are_counted_by_path_and_status() -> None:
    async def main() -> None:
        async with operating() as operator:
            await operator.get("/api/stats")
            await operator.call("GET", "/api/clients/nobody")
            await operator.call("GET", "/api/../etc/passwd")
            counts = operator.app.counts.api_requests
            assert counts["/api/stats", 200] == 1 and counts["/api/clients/{client}", 404] == 1
            assert counts["/api/…", 404] == 1

    run(main())


def test_names_are_kept_in_order() -> None:
    names = Names()
    for name in ("b", "a", "ab", "b", "aa"):
        names.add(name)
    assert len(names) == 4 and list(names.after("")) == ["a", "aa", "ab", "b"]
    assert list(names.after("aa")) == ["ab", "b"]
    assert list(names.after("", "a")) == ["a", "aa", "ab"]
    assert list(names.after("zz", "a")) == []
    assert list(names.after("", "c")) == []
    names.discard("ab")
    names.discard("nothing")
    assert list(names.after("a", "a")) == ["aa"]
    assert json.dumps(list(names.after(""))) == '["a", "aa", "b"]'
