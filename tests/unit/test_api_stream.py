"""Server-sent events: what comes, in which order, and that slow or many readers cost nothing."""

import asyncio
import json
from typing import Any

import pytest
from tests.unit.api_world import LOCAL, Operator, operating, run, scope_of

import duolink
from duolink.server.api import stream as streams
from duolink.server.happenings import KEPT


class Reader:
    """A reader of a stream. `slow`: takes a write only when told to."""

    def __init__(self, operator: Operator, path: str = "/api/events?interval=250", **headers: str) -> None:
        self.operator = operator
        self.gone = asyncio.Event()
        self.events: asyncio.Queue[tuple[str, Any, str]] = asyncio.Queue()
        self.comments = 0
        self.status = 0
        self.ended = False
        self.writes = 0
        self.taking = asyncio.Event()
        self.taking.set()
        scope = scope_of("GET", path, LOCAL, headers)
        self.task = asyncio.create_task(operator.app._service.app(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            return
        self.writes += 1
        await self.taking.wait()
        for block in message["body"].decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if block.startswith(":"):
                self.comments += 1
            elif "event" in fields:
                event = fields["event"], json.loads(fields["data"]), fields.get("id", "")
                self.events.put_nowait(event)
        self.ended = not message["more_body"]

    async def next(self, kind: str = "") -> tuple[str, Any, str]:
        while True:
            event = await self.events.get()
            if kind in ("", event[0]):
                return event

    async def leave(self) -> None:
        self.gone.set()
        await self.task


def test_a_stream_begins_with_the_server_and_a_sample_and_goes_on() -> None:
    async def main() -> None:
        async with operating() as operator:
            reader = Reader(operator)
            kind, info, _ = await reader.next()
            assert reader.status == 200 and reader.headers["content-type"].startswith("text/event-stream")
            assert reader.headers["cache-control"] == "no-store"
            assert kind == "server" and info == {**await operator.get("/api/server"), **{
                key: info[key] for key in ("now", "uptime_s")
            }}  # fmt: skip
            operator.conforms({"$ref": "#/components/schemas/ServerInfo"}, info)
            kind, first, _ = await reader.next()
            assert kind == "stats"
            operator.conforms({"$ref": "#/components/schemas/Stats"}, first)
            _, second, _ = await reader.next("stats")
            assert second["time"] - first["time"] >= 200
            await reader.leave()
            assert not len(operator.app._service.streams) and reader.ended

    run(main())


def test_what_happens_comes_at_once_with_its_id() -> None:
    async def main() -> None:
        async with operating() as operator:
            reader = Reader(operator, "/api/events?interval=60000")
            await reader.next("stats")
            async with duolink.connect(operator.app.url, client_id="alice"):
                _, data, number = await reader.next("happened")
                assert (data["kind"], data["client"], str(data["id"])) == ("connected", "alice", number)
                operator.conforms({"$ref": "#/components/schemas/Happening"}, data)
            assert (await reader.next("happened"))[1]["kind"] == "ended"
            await reader.leave()

    run(main())


def test_a_reader_that_comes_back_gets_what_it_missed() -> None:
    async def main() -> None:
        async with operating() as operator:
            for _ in range(3):
                operator.app.node.happenings.add("refused")
            ids = [each["id"] for each in (await operator.get("/api/happenings"))["items"]]
            path = "/api/events?interval=60000"
            for reader, expected in (
                (Reader(operator, path, last_event_id=str(ids[0])), ids[1:]),
                (Reader(operator, f"{path}&since={ids[1]}"), ids[2:]),
                (Reader(operator, f"{path}&since=0"), ids),
                (Reader(operator, f"{path}&since=0", last_event_id=str(ids[1])), ids[2:]),
            ):
                got = [(await reader.next("happened"))[1]["id"] for _ in expected]
                assert got == expected
                await reader.leave()
            fresh = Reader(operator, path)
            await fresh.next("stats")
            operator.app.node.happenings.add("duplicate")
            assert (await fresh.next())[1]["kind"] == "duplicate", "a new reader begins with now"
            await fresh.leave()

    run(main())


def test_a_slow_reader_misses_samples_and_grows_no_buffer() -> None:
    async def main() -> None:
        async with operating() as operator:
            reader = Reader(operator, "/api/events?interval=250")
            await reader.next("stats")
            reader.taking.clear()
            node = operator.app.node
            rates = node.happenings._rates["refused"]
            writes = reader.writes
            for _ in range(KEPT + 50):
                rates.count = 0
                node.happenings.add("refused")
            for _ in range(100):
                await asyncio.sleep(0)
            assert reader.writes <= writes + 1, "it waits for the reader"
            reader.taking.set()
            got = [(await reader.next("happened"))[1]["id"] for _ in range(KEPT)]
            assert got[-1] == node.happenings.last and got == sorted(got)
            await reader.leave()

    run(main())


def test_silence_is_broken_by_a_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE", 0.02)

    async def main() -> None:
        async with operating() as operator:
            reader = Reader(operator, "/api/events?interval=60000")
            await reader.next("stats")
            while reader.comments < 2:  # noqa: ASYNC110 - they come with time
                await asyncio.sleep(0)
            await reader.leave()

    run(main())


def test_there_are_so_many_streams_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_STREAMS", 2)

    async def main() -> None:
        async with operating() as operator:
            readers = [Reader(operator), Reader(operator)]
            for reader in readers:
                await reader.next("stats")
            answer = await operator.call("GET", "/api/events")
            assert answer.status == 503 and "2 streams" in answer.json()["detail"]
            await readers[0].leave()
            third = Reader(operator)
            await third.next("stats")
            for reader in (readers[1], third):
                await reader.leave()

    run(main())


def test_streams_end_when_the_server_drains_or_stops() -> None:
    async def main() -> None:
        async with operating() as operator:
            reader = Reader(operator, "/api/events?interval=60000")
            await reader.next("stats")
            operator.app.node.drain(0)
            await reader.task
            assert reader.ended
            assert (await operator.call("GET", "/api/events")).status == 503
        async with operating() as operator:
            reader = Reader(operator, "/api/events?interval=60000")
            await reader.next("stats")
            operator.app._service.close()
            await reader.task
            assert reader.ended

    run(main())


def test_the_last_a_reader_hears_is_that_the_server_drains() -> None:
    async def main() -> None:
        async with operating() as operator:
            reader = Reader(operator, "/api/events?interval=60000")
            await reader.next("stats")
            operator.app._service.close()  # as `App.stop` does: first this, then the drain
            operator.app.node.drain(0)
            await reader.task
            assert (await reader.next("happened"))[1]["kind"] == "draining"
            assert (await reader.next("server"))[1]["draining"]

    run(main())


def test_a_stream_over_a_socket_ends_in_order_when_the_server_stops() -> None:
    async def main() -> None:
        async with operating() as operator:
            reader, writer = await asyncio.open_connection("127.0.0.1", operator.app.port)
            writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"event: stats")
        rest = await reader.read()
        assert rest.endswith(b"0\r\n\r\n"), "the last chunk"
        writer.close()

    run(main())


def test_a_reader_that_goes_frees_its_stream() -> None:
    async def main() -> None:
        async with operating() as operator:
            reader, writer = await asyncio.open_connection("127.0.0.1", operator.app.port)
            writer.write(b"GET /api/events?interval=60000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"event: stats")
            assert len(operator.app._service.streams) == 1
            writer.transport.abort()
            while len(operator.app._service.streams):  # noqa: ASYNC110 - it goes in a turn of the loop
                await asyncio.sleep(0)

    run(main())


def test_a_reader_that_stays_and_does_not_read_loses_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PATIENCE", 0.05)

    async def main() -> None:
        async with operating() as operator:
            reader = Reader(operator)
            await reader.next("stats")
            reader.taking.clear()
            await reader.task
            assert len(operator.app._service.streams) == 0 and not reader.ended

    run(main())


def test_head_of_a_stream_has_no_body() -> None:
    async def main() -> None:
        async with operating() as operator:
            answer = await operator.call("HEAD", "/api/events")
            assert answer.status == 200 and answer.body == b""

    run(main())


@pytest.mark.parametrize("query", ["interval=249", "interval=60001", "interval=x", "since=-1", "since=a"])
def test_what_is_no_stream(query: str) -> None:
    async def main() -> None:
        async with operating() as operator:
            assert (await operator.call("GET", f"/api/events?{query}")).status == 400
            assert (await operator.call("GET", "/api/events", last_event_id="x")).status == 400

    run(main())
