"""The settings: sources, precedence, errors, automatic values, and the document that lists them."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scripts.config_reference import DOCUMENT, updated

from duolink.client.stream import HELD
from duolink.protocol import limits
from duolink.server.config import (
    AUTOMATIC_RATES,
    Auth,
    ChannelSettings,
    Config,
    ConfigError,
    Http,
    Key,
    Listen,
    default_path,
    is_loopback,
    load,
    number,
)
from duolink.server.settings import MAX_MESSAGE, MAX_WINDOW

SECRET = "0123456789abcdef0123456789abcdef"
KEYS = {"DUOLINK_AUTH_KEYS": f'[{{"algorithm": "HS256", "key": "{SECRET}"}}]'}


def write(path: Path, text: str) -> Path:
    file = path / "duolink.toml"
    file.write_text(text, "utf-8")
    return file


def refused(**sources: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**sources)
    return str(caught.value)


def test_without_any_source_the_defaults_hold():
    config = load()
    assert config == Config()
    assert (config.listen.host, config.listen.port) == ("127.0.0.1", 8080)
    assert config.development


def test_flags_win_over_environment_over_file_over_defaults(tmp_path):
    file = write(tmp_path, "[listen]\nport = 1\nbacklog = 1\nmax_handshakes = 1\n")
    environ = {"DUOLINK_LISTEN_PORT": "2", "DUOLINK_LISTEN_BACKLOG": "2"}
    config = load(file, environ, {"listen.port": 3, "listen.host": None})
    listen = config.listen
    assert (listen.port, listen.backlog, listen.max_handshakes) == (3, 2, 1)
    assert (listen.host, listen.max_connections) == ("127.0.0.1", 16_000)


def test_a_file_may_set_everything(tmp_path):
    file = write(
        tmp_path,
        """
        [listen]
        host = "0.0.0.0"
        origins = ["https://a.example", "http://b.example:8000"]
        trusted_proxies = ["10.0.0.0/8", "::1"]
        [wire]
        hello_timeout_s = 3
        [[auth.keys]]
        algorithm = "ES256"
        key_file = "k.pem"
        [channels."chat:*"]
        history_count = 5
        """,
    )
    config = load(file)
    assert config.wire.hello_timeout_s == 3.0
    assert config.auth.keys == [Key(algorithm="ES256", key_file="k.pem")]
    assert config.channels == {"chat:*": ChannelSettings(history_count=5)}
    assert not config.development


def test_text_is_read_by_the_type_of_its_key():
    config = load(
        environ={
            "DUOLINK_LISTEN_ORIGINS": "https://a.example, http://b.example",
            "DUOLINK_LISTEN_ECHO": "false",
            "DUOLINK_LISTEN_TCP_PORT": "9001",
            "DUOLINK_LISTEN_TRUSTED_PROXIES": '["10.1.2.3"]',
            "DUOLINK_HEARTBEAT_INTERVAL_S": "12.5",
            "DUOLINK_CHANNELS": '{"x": {"presence": false}}',
            "DUOLINK_LOG_LEVEL": "",
            "DUOLINK_URL": "ws://elsewhere",
            "OTHER": "1",
        },
        overrides={"session.duplicate": "replace", "listen.port": "0"},
    )
    assert config.listen.origins == ["https://a.example", "http://b.example"]
    assert config.listen.trusted_proxies == ["10.1.2.3"]
    assert (config.listen.echo, config.listen.tcp_port, config.listen.port) == (False, 9001, 0)
    assert config.heartbeat.interval_s == 12.5
    assert config.channels["x"].presence is False
    assert config.session.duplicate == "replace"
    assert config.log.level == "info"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"LISTEN_PRT": "1"},
            "environment: DUOLINK_LISTEN_PRT: is not a setting; did you mean DUOLINK_LISTEN_PORT",
        ),
        (
            {"LISTEN_PORT": "abc"},
            "DUOLINK_LISTEN_PORT: listen.port: 'abc' is not allowed; expected an integer from 0 to 65_535",
        ),
        ({"LISTEN_PORT": "65536"}, "'65536' is not allowed; expected an integer from 0 to 65_535"),
        ({"LISTEN_TCP_PORT": "-1"}, "'-1' is not allowed; expected an integer from 0 to 65_535"),
        ({"LISTEN_ECHO": "perhaps"}, "'perhaps' is not allowed; expected true or false"),
        ({"SESSION_DUPLICATE": "maybe"}, "expected one of refuse, replace"),
        ({"WIRE_HELLO_TIMEOUT_S": "nan"}, "'nan' is not allowed; expected a number from 0.1 to 31_536_000"),
        ({"WIRE_HELLO_TIMEOUT_S": "inf"}, "'inf' is not allowed"),
        ({"CHANNELS": "{"}, "DUOLINK_CHANNELS: channels: is not valid JSON"),
        (
            {"CHANNELS": '{"x": {"history_cont": 1}}'},
            "channels.'x'.history_cont: is not a setting; did you mean history_count?",
        ),
        ({"CHANNELS": '{"x": 1}'}, "channels.'x': 1 is not allowed; expected a table"),
        ({"CHANNELS": '{"a*b": {}}'}, "environment: DUOLINK_CHANNELS: channels.'a*b': is not a channel name"),
        ({"CHANNELS": '{"": {}}'}, "is not a channel name"),
        (
            {"AUTH_KEYS": '[{"algorithm": "none", "key": "x"}]'},
            "auth.keys[0].algorithm: 'none' is not allowed; expected one of HS256",
        ),
        ({"AUTH_KEYS": '[{"key": "x"}]'}, "auth.keys[0].algorithm: is not set"),
        (
            {"AUTH_KEYS": '[{"algorithm": "HS256"}]'},
            "DUOLINK_AUTH_KEYS: auth.keys[0]: needs exactly one of key and key_file",
        ),
        (
            {"AUTH_KEYS": '[{"algorithm": "HS256", "key": "x", "key_file": "y"}]'},
            "exactly one of key and key_file",
        ),
        ({"LISTEN_ORIGINS": "https://a.example/"}, "listen.origins: 'https://a.example/' is not an origin"),
        ({"LISTEN_ORIGINS": "*"}, "'*' is not an origin"),
        ({"LISTEN_ORIGINS": "https://A.example"}, "is not an origin"),
        ({"LISTEN_ORIGINS": "https://a.example:x"}, "is not an origin"),
        ({"LISTEN_TRUSTED_PROXIES": "proxy.example"}, "'proxy.example' is not an IP address or network"),
        ({"LISTEN_TLS_KEY": "k.pem"}, "listen.tls_certificate: is not set; TLS needs both"),
        ({"LISTEN_TLS_CERTIFICATE": "c.pem"}, "listen.tls_key: is not set; TLS needs both"),
        ({"LISTEN_TCP_PORT": "8080"}, "listen.tcp_port: 8080 is also listen.port"),
        ({"HEARTBEAT_TIMEOUT_S": "31"}, "heartbeat.timeout_s: 31.0 is more than heartbeat.interval_s = 30.0"),
        ({"WIRE_SEND_BUFFER": "100000"}, "wire.send_buffer: 100000 holds fewer than two messages"),
        ({"LINKS_WINDOW_BYTES": "2000"}, "links.window_bytes: 2000 holds no message"),
        ({"AUTH_ISSUER": "me"}, "DUOLINK_AUTH_ISSUER: auth.issuer: has no effect without auth.keys"),
        (
            {"HTTP_METRICS_TOKEN": "short"},
            "http.metrics_token: the value is not allowed; expected a text of 16",
        ),
    ],
)
def test_an_error_names_source_key_value_and_what_is_allowed(environ, expected):
    message = refused(environ={f"DUOLINK_{name}": value for name, value in environ.items()})
    assert expected in message
    assert message.startswith(("environment", "configuration"))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[listen", "is not valid TOML"),
        ("lisen = 1", "lisen: is not a setting; did you mean listen?"),
        ("zzzzzz = 1", "zzzzzz: is not a setting; known are: auth, channels"),
        ("listen = 1", "listen: expected a table, [listen]"),
        ("[listen]\nport = '80'", "listen.port: '80' is not allowed"),
        ("[listen]\nport = true", "listen.port: True is not allowed"),
        ("[wire]\nhello_timeout_s = nan", "wire.hello_timeout_s: nan is not allowed"),
        ("[listen]\norigins = [1]", "listen.origins[0]: 1 is not allowed; expected a text"),
        ("[listen]\norigins = 'x'", "listen.origins: 'x' is not allowed; expected a list of texts"),
        ("[auth]\nkeys = 3", "auth.keys: the value is not allowed; expected a list of tables"),
    ],
)
def test_an_error_of_the_file_names_the_file(tmp_path, text, expected):
    file = write(tmp_path, text)
    message = refused(path=file)
    assert message.startswith(f"{file}: ")
    assert expected in message


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    assert "cannot be read: No such file" in refused(path=tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    assert "is not UTF-8" in refused(path=tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"lsten.port": 1}, "command line: lsten.port: is not a setting; did you mean listen?"),
        ({"listen.prt": 1}, "command line: listen.prt: is not a setting; did you mean port?"),
        ({"listen.port": 70_000}, "command line: listen.port: 70000 is not allowed"),
        ({"auth": "{}"}, "command line: auth: is a section"),
        ({"listen.host": "0.0.0.0"}, "command line: listen.host: '0.0.0.0' is not loopback"),
    ],
)
def test_an_error_of_a_flag_names_the_command_line(overrides, expected):
    assert expected in refused(overrides=overrides)


def test_channels_may_be_given_as_an_object():
    assert load(overrides={"channels": {"x": {"history_count": 1}}}).channel("x").history_count == 1


def test_errors_never_repeat_a_secret():
    for value in (f'"{SECRET}"', f'["{SECRET}"]', f'[{{"algorithm": "HS256", "key": ["{SECRET}"]}}]'):
        assert SECRET not in refused(overrides={"auth.keys": value})
    assert "short" not in refused(environ={"DUOLINK_HTTP_OPERATOR_TOKEN": "short"})
    config = load(environ={**KEYS, "DUOLINK_HTTP_METRICS_TOKEN": SECRET})
    assert SECRET not in repr(config)
    assert config.http == Http(metrics_token=SECRET)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1"])
def test_development_listens_on_loopback(host):
    assert is_loopback(host)
    assert load(overrides={"listen.host": host}).listen.host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "127.0.0.1.example.org"])
def test_development_listens_nowhere_else(host):
    assert "Configure a key" in refused(overrides={"listen.host": host})
    assert load(environ=KEYS, overrides={"listen.host": host}).listen.host == host
    with pytest.raises(ConfigError):
        Config(listen=Listen(host=host))


def test_automatic_values_follow_authentication():
    development, production = Config(), load(environ=KEYS)
    assert (development.echo, development.connect, development.consent) == (True, True, "open")
    assert (production.echo, production.connect, production.consent) == (False, False, "token")
    assert development.max_connections_per_address == 0
    assert production.max_connections_per_address == 1000
    for name, rate in AUTOMATIC_RATES.items():
        assert development.rate(name) is None  # type: ignore[arg-type]
        assert production.rate(name) == rate  # type: ignore[arg-type]
    assert not Config(auth=Auth(external=True), listen=Listen(host="0.0.0.0")).development
    assert not Config(auth=Auth(jwks_file="keys.json")).development


def test_what_is_configured_wins_over_automatic():
    environ = {
        "DUOLINK_LISTEN_ECHO": "true",
        "DUOLINK_LISTEN_CONNECT": "true",
        "DUOLINK_LINKS_CONSENT": "open",
        "DUOLINK_LISTEN_MAX_CONNECTIONS_PER_ADDRESS": "0",
        "DUOLINK_RATES_CLIENT_BYTES_PER_S": "0",
        "DUOLINK_RATES_HANDSHAKES_PER_S": "7",
        "DUOLINK_RATES_ADMISSIONS_BURST": "9",
    }
    config = load(environ={**KEYS, **environ})
    assert (config.echo, config.connect, config.consent) == (True, True, "open")
    assert config.max_connections_per_address == 0
    assert config.rate("client_bytes") is None
    assert config.rate("handshakes") == (7.0, 7.0)
    assert config.rate("admissions") == (2000.0, 9.0)
    assert load(environ={"DUOLINK_RATES_HANDSHAKES_PER_S": "7"}).rate("handshakes") == (7.0, 7.0)


def test_a_channel_takes_the_settings_of_its_name_then_of_the_longest_pattern():
    patterns = {"*": 1, "chat:*": 2, "chat:a*": 3, "chat:ab": 4, "c": 5}
    config = Config(channels={p: ChannelSettings(history_count=n) for p, n in patterns.items()})
    found = {name: config.channel(name).history_count for name in ("x", "chat:b", "chat:abc", "chat:ab", "c")}
    assert found == {"x": 1, "chat:b": 2, "chat:abc": 3, "chat:ab": 4, "c": 5}
    assert Config().channel("x") == ChannelSettings()


def test_the_default_file_is_the_named_one_else_the_one_that_is_there(tmp_path):
    assert default_path({}, tmp_path) is None
    file = write(tmp_path, "")
    assert default_path({}, tmp_path) == file
    assert default_path({"DUOLINK_CONFIG": "/etc/x.toml"}, tmp_path) == Path("/etc/x.toml")


def test_the_document_lists_the_settings_as_they_are():
    text = DOCUMENT.read_text("utf-8")
    assert updated(text) == text, "run scripts/config_reference.py"


def test_the_document_explains_with_a_file_that_loads(tmp_path):
    text = DOCUMENT.read_text("utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert tomllib.loads(example)
    config = load(write(tmp_path, example))
    assert config.channel("chat:1").history_count == 1000
    assert config.listen.host == "0.0.0.0"


def test_every_setting_has_an_effect():
    """Somebody reads it: the schema's own properties, or another module of the server."""
    package = Path(__file__).parents[2] / "src" / "duolink"
    schema = (package / "server" / "settings.py").read_text("utf-8")
    text = "\n".join(path.read_text("utf-8") for path in package.rglob("*.py")).replace(schema, "")
    unread = []
    for section in msgspec.structs.fields(Config):
        if section.name in ("channels", "rates"):  # rates are read by name, see `Config.rate`
            continue
        for field in msgspec.structs.fields(section.type):
            if not re.search(rf"\.{field.name}\b", text) and not re.search(
                rf"{section.name}\.{field.name}\b", schema
            ):
                unread.append(f"{section.name}.{field.name}")
    assert unread == []


@pytest.mark.parametrize(
    ("key", "most", "holds"),
    [
        ("wire.max_message", MAX_MESSAGE, limits.MAX_PAYLOAD // 2),
        ("links.window", MAX_WINDOW, HELD // len(limits.LANES)),
    ],
)
def test_a_limit_is_not_raised_beyond_what_clients_hold(key, most, holds):
    assert most <= holds
    more = {"wire.send_buffer": 1 << 22}
    assert load(overrides={key: most, **more})
    assert f"to {number(most)}" in refused(overrides={key: most + 1, **more})
