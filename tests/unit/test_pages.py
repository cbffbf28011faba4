"""The pages of the server, asked as an ASGI application; built by hand here, so that no npm is needed."""

import gzip
import re

import pytest
from tests.unit.test_http import CLOSED, DEVELOPMENT, Answer, ask

from duolink.server.pages import File, Pages, built
from duolink.server.settings import Auth, Config, Http

SCRIPT = b"export const a = 1;\n" * 100
HTML = b'<!doctype html><script type="module" src="/playground/assets/main-abc.js"></script>'
FILES = {
    "playground/index.html": HTML,
    "playground/assets/main-abc.js": SCRIPT,
    "console/index.html": HTML,
    "sdk/duolink.js": SCRIPT,
}
PAGES = Pages({name: File.of(name, body) for name, body in FILES.items()})
OPENED = Config(auth=Auth(external=True), http=Http(playground=True))


def get(
    path: str, config: Config = DEVELOPMENT, pages: Pages = PAGES, method: str = "GET", **headers: str
) -> Answer:
    return ask(path, config, method=method, routes=pages.routes(config), **headers)


def test_a_page_is_served_at_its_address_with_and_without_a_slash():
    for path in ("/playground", "/playground/", "/console", "/console/"):
        answer = get(path)
        assert (answer.status, answer.body) == (200, HTML)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_the_front_leads_to_the_playground_where_there_is_one():
    answer = get("/")
    assert (answer.status, answer.headers["location"]) == (307, "/playground/")
    assert answer.headers["cache-control"] == "no-store"
    assert b"duolink server" in get("/", pages=Pages({})).body
    assert b"duolink server" in get("/", CLOSED).body
    assert get("/", OPENED).status == 307


@pytest.mark.parametrize("path", ["/playground", "/playground/assets/main-abc.js"])
def test_the_playground_is_off_beside_authentication_unless_it_is_set(path):
    assert get(path, CLOSED).status == 404
    assert get(path, OPENED).status == 200
    assert get(path, Config(http=Http(playground=False))).status == 404


def test_the_console_can_be_turned_off():
    assert get("/console", CLOSED).status == 200
    assert get("/console", Config(http=Http(console=False))).status == 404


def test_what_has_not_been_built_says_how_to_build_it():
    for path in ("/playground", "/console", "/playground/assets/x.js", "/sdk/duolink.js"):
        answer = get(path, pages=Pages({}))
        assert answer.status == 404
        assert b"make web" in answer.body
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    ["/playground/none", "/playground/../sdk/duolink.js", "/playground//etc/passwd", "/sdk/", "/sdk/x.js"],
)
def test_nothing_else_can_be_asked_for(path):
    answer = get(path)
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")


def test_a_page_allows_itself_and_nothing_else():
    headers = get("/playground", host="127.0.0.1:8080").headers
    directives = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert directives == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self' ws://127.0.0.1:8080 wss://127.0.0.1:8080",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("host", ["[::1]:8080", "evil; script-src *", "a b", "x,y", ""])
def test_a_host_that_is_no_plain_name_does_not_reach_the_policy(host):
    policy = get("/playground", host=host).headers["content-security-policy"]
    assert re.findall(r"connect-src ([^;]*)", policy) == ["'self'"]
    assert policy.count(";") == 7


def test_files_with_a_hash_are_kept_for_ever_and_others_asked_for_again():
    assert get("/playground/assets/main-abc.js").headers["cache-control"].endswith("immutable")
    assert get("/playground").headers["cache-control"] == "no-cache"
    assert get("/sdk/duolink.js").headers["cache-control"] == "no-cache"


def test_a_known_tag_is_answered_without_the_body():
    first = get("/sdk/duolink.js")
    tag = first.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{24}"', tag)
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = get("/sdk/duolink.js", if_none_match=given)
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        assert again.headers["access-control-allow-origin"] == "*"
    assert get("/sdk/duolink.js", if_none_match='"other"').status == 200
    packed = get("/sdk/duolink.js", accept_encoding="gzip").headers["etag"]
    assert packed != tag  # another representation (RFC 9110 section 8.8.3.3)


@pytest.mark.parametrize("asked", ["gzip", "br, gzip;q=0.5", "*", "GZIP"])
def test_who_can_unpack_gets_it_packed(asked):
    answer = get("/sdk/duolink.js", accept_encoding=asked)
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "accept-encoding"
    assert gzip.decompress(answer.body) == SCRIPT
    assert int(answer.headers["content-length"]) == len(answer.body) < len(SCRIPT)


@pytest.mark.parametrize("asked", ["", "br", "gzip;q=0", "gzip; q=0.0", "identity"])
def test_who_cannot_gets_it_as_it_is(asked):
    answer = get("/sdk/duolink.js", accept_encoding=asked)
    assert "content-encoding" not in answer.headers
    assert answer.body == SCRIPT


def test_small_files_are_not_packed():
    assert "content-encoding" not in get("/playground", accept_encoding="gzip").headers


def test_a_page_of_any_origin_may_import_the_sdk():
    answer = get("/sdk/duolink.js", CLOSED, origin="https://elsewhere.example")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"


def test_head_is_answered_without_a_body_and_post_not_at_all():
    assert get("/playground", method="HEAD").headers["content-length"] == str(len(HTML))
    assert get("/playground", method="POST").status == 405


def test_only_what_the_builds_have_put_there_is_read(tmp_path):
    for name in ("playground/index.html", "sdk/duolink.js", "sdk/secret.txt", "other/index.html", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    pages = built(tmp_path)
    assert pages.has("playground")
    assert not pages.has("console")
    assert get("/sdk/duolink.js", pages=pages).status == 200
    assert get("/sdk/secret.txt", pages=pages).status == 404
    assert get("/playground/../note.txt", pages=pages).status == 404
    assert not built(tmp_path / "none").has("playground")


def test_settings_show_no_secret():
    assert repr(Http(metrics_token="0123456789abcdef", playground=True)) == (
        "Http(metrics_token='…', operator_token=None, playground=True, console=True)"
    )
