"""Whatever is asked of the API, it answers with a document that it promises, and never breaks."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.api_world import Operator, operating

NAMES = st.one_of(
    st.sampled_from(
        ["bob", "@bob", "$server", "a/b", "..", ".", "", "%", "%2F", "?", "#", "\x00", "x" * 300, "\ud7ff"]
    ),
    st.text(max_size=40).filter(lambda text: not any(0xD800 <= ord(c) <= 0xDFFF for c in text)),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "to",
        "data",
        "key",
        "ttl_ms",
        "collapse",
        "wait",
        "timeout_ms",
        "value",
        "expect",
        "reason",
        "reconnect",
        "x",
    ]
)
BODIES = st.one_of(
    st.binary(max_size=40),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(FIELDS, JSON, max_size=5).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {"to": NAMES, "data": JSON},
        optional={
            "key": st.text(max_size=70),
            "ttl_ms": st.integers(-1, 2**60),
            "collapse": st.text(max_size=70),
            "timeout_ms": st.integers(-1, 5),
            "wait": st.sampled_from(["sent", "stored", "delivered", "never"]),
        },
    ).map(lambda value: json.dumps({"timeout_ms": 1, **value}).encode()),
    st.sampled_from(
        [b"[" * 10_000, b'{"data":' * 100, b'"\\ud800"', b'{"to":"bob","data":"\\ud800","timeout_ms":1}',
         b"1e999",
         b'{"data":1e999}', b'{"to":"b","data":1e999,"timeout_ms":1}', b"\xff\xfe",
         b'{"data":1,"data":2}', b"{}",
         b'{"value":NaN}', b'{"data":\n[1,\n2]}', b"null", b'{"expect":-1,"value":1}',
         b'{"expect":99999999999999999999,"value":1}']
    ),
)  # fmt: skip
QUERIES = st.one_of(
    st.just(""),
    st.sampled_from(
        ["limit=0", "limit=1", "limit=1001", "limit=1e3", "limit=", "limit=1&limit=1", "after=%ff",
         "after=%00",
         "after=x", "prefix=%F0%9F%92%A9", "from=-1", "from=9007199254740991", "from=99999999999999999999",
         "reverse=true", "reverse=maybe", "reverse=1&from=5&limit=3", "state=active", "state=x", "order=name",
         "order=name&after=zz", "a=1", "&", "=", "%", "limit=%31", "limit=1;drop", "interval=x", "since=x"]
    ),
    st.text(alphabet="abcflimit=&%0123456789+;?/", max_size=30),
)  # fmt: skip
OPERATIONS = (
    "GET /api/server", "GET /api/stats", "GET /api/happenings", "GET /api/clients", "GET /api/clients/{}",
    "DELETE /api/clients/{}", "POST /api/messages", "GET /api/channels", "GET /api/channels/{}",
    "GET /api/channels/{}/presence", "GET /api/channels/{}/history", "POST /api/channels/{}/messages",
    "GET /api/channels/{}/state", "PUT /api/channels/{}/state/{}", "DELETE /api/channels/{}/state/{}",
    "GET /api/mailboxes", "PATCH /api/stats", "GET /api/{}", "HEAD /api/clients",
)  # fmt: skip
ASKS = st.tuples(st.sampled_from(OPERATIONS), NAMES, NAMES, QUERIES, BODIES, st.booleans())


async def _ask(operator: Operator, how: tuple[str, str, str, str, bytes, bool]) -> None:
    operation, first, second, query, body, typed = how
    method, _, template = operation.partition(" ")
    parts = template.split("{}")
    path = "".join(
        part + quote(name, safe="")
        for part, name in zip(parts, [first, second][: len(parts) - 1] + [""], strict=True)
    )
    headers = {"content_type": "application/json" if typed else "text/plain"}
    raw = b"" if method in ("GET", "HEAD") else body
    answer = await operator.call(method, f"{path}?{query}" if query else path, raw=raw, **headers)
    assert answer.status < 500 or answer.status in (503, 507), (how, answer.body)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(asks=st.lists(ASKS, min_size=1, max_size=12))
def test_no_request_breaks_it(asks: list[Any]) -> None:
    async def main() -> None:
        async with operating() as operator:
            for how in asks:
                await asyncio.wait_for(_ask(operator, how), 10)

    asyncio.run(main())


def test_a_body_is_bounded_in_size_and_time(monkeypatch: Any) -> None:
    from tests.unit.api_world import LOCAL, Answer, scope_of

    from duolink.server.api import arguments

    monkeypatch.setattr(arguments, "MAX_BODY", 100)
    monkeypatch.setattr(arguments, "BODY_TIMEOUT", 0.01)

    async def main() -> None:
        async with operating() as operator:
            big = b'{"to":"bob","data":"%s"}' % (b"x" * 200)
            assert (await operator.call("POST", "/api/messages", raw=big)).status == 413
            for length in ("101", "-1", "x", "9" * 30):
                answer = await operator.call("POST", "/api/messages", raw=b"{}", content_length=length)
                assert answer.status == 413

            async def ask(*messages: Any) -> Answer:
                sent: list[Any] = []
                parts = list(messages)

                async def receive() -> Any:
                    if not parts:
                        await asyncio.Event().wait()
                    return parts.pop(0)

                async def send(message: Any) -> None:
                    sent.append(message)

                scope = scope_of("POST", "/api/messages", LOCAL, {"content_type": "application/json"})
                await operator.app._service.app(scope, receive, send)
                answer = Answer(sent)
                operator.check("POST", "/api/messages", answer)
                return answer

            part = {"type": "http.request", "body": b"{", "more_body": True}
            assert (await ask(part)).status == 408
            assert (await ask(part, {"type": "http.disconnect"})).status == 400

    asyncio.run(main())
