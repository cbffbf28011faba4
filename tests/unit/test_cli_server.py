"""The command line: its frame, `token`, and what `serve` does before it serves."""

import datetime
import errno
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from duolink.cli import main as frame
from duolink.cli.options import DEFAULT_URL, Failed, complete_url, connection_options
from duolink.cli.serve import announce, explain
from duolink.server.app import App
from duolink.server.auth import AuthenticationError, make_authenticator
from duolink.server.settings import Auth, Config, Key, Listen

SECRET = "an HS256 secret of 32 bytes, or more"


def run(*arguments: str, env: dict[str, str | None] | None = None) -> Result:
    return CliRunner().invoke(frame.cli, arguments, env=env, prog_name="duolink")


def claims_of(token: str) -> Any:
    authenticator = make_authenticator(Auth(keys=[Key(algorithm="HS256", key=SECRET)]))
    return authenticator.authenticate(token.strip(), time.time())


# --- the frame ---------------------------------------------------------------------------------------


def test_the_overview_names_every_command_and_imports_none() -> None:
    program = (
        "import sys; from duolink.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: print(sorted(sys.modules))\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    ).stdout
    for name in frame.COMMANDS:
        assert f"  {name} " in output
    for heavy in ("duolink.cli.serve", "duolink.cli.token", "duolink.server", "rich", "jwt"):
        assert f"'{heavy}'" not in output


def test_an_unknown_command_is_a_usage_error() -> None:
    result = run("chatter")
    assert result.exit_code == 2 and "No such command 'chatter'" in result.stderr


@pytest.mark.parametrize("name", ["serve", "token"])
def test_a_command_explains_itself(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0 and "Usage: duolink " + name in result.stdout


def test_version() -> None:
    assert run("--version").stdout.startswith("duolink ")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("ws://127.0.0.1:8080", "ws://127.0.0.1:8080/ws"),
        ("ws://h:1/", "ws://h:1/ws"),
        ("ws://h:1/other?x=1", "ws://h:1/other?x=1"),
        ("https://h", "wss://h/ws"),
        ("http://[::1]:9", "ws://[::1]:9/ws"),
        ("h:9", "ws://h:9/ws"),
        ("localhost", "ws://localhost/ws"),
        ("tcp://h:9/", "tcp://h:9"),
        ("tcps://[::1]:9", "tcps://[::1]:9"),
    ],
)
def test_an_address_gains_what_it_lacks(text: str, url: str) -> None:
    assert complete_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://h",
        "ws://",
        "ws://h:99999",
        "ws://h:x",
        "ws://u@h",
        "ws://h/#f",
        "a b",
        "tcp://h",
        "tcp://h:9/x",
    ],
)
def test_what_is_no_address_is_a_usage_error(text: str) -> None:
    with pytest.raises(ValueError):
        complete_url(text)


@click.command()
@connection_options
def probe(url: str, token: str | None, as_json: bool) -> None:
    if token == "bad":
        raise Failed("the server does not want this token", 4)
    click.echo(f"{url} {token} {as_json}")


def test_the_shared_options() -> None:
    runner = CliRunner()
    nothing: dict[str, str | None] = {"DUOLINK_URL": None, "DUOLINK_TOKEN": None}
    assert runner.invoke(probe, [], env=nothing).stdout == f"{DEFAULT_URL}/ws None False\n"
    given = runner.invoke(probe, ["--json"], env={"DUOLINK_URL": "h:1", "DUOLINK_TOKEN": "t"})
    assert given.stdout == "ws://h:1/ws t True\n"
    flagged = runner.invoke(probe, ["--url", "ws://k"], env={"DUOLINK_URL": "h:1"})
    assert flagged.stdout.startswith("ws://k/ws ")
    assert runner.invoke(probe, ["--url", "ftp://k"]).exit_code == 2
    refused = runner.invoke(probe, ["--token", "bad"])
    assert (refused.exit_code, refused.stdout, refused.stderr) == (
        4,
        "",
        "Error: the server does not want this token\n",
    )


# --- serve -------------------------------------------------------------------------------------------


def serve(*arguments: str, env: dict[str, str | None] | None = None) -> Result:
    """Run `serve` without the settings of whoever runs the tests."""
    clean: dict[str, str | None] = {name: None for name in os.environ if name.startswith("DUOLINK_")}
    return run("serve", *arguments, env={**clean, **(env or {})})


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_good_settings_are_good(directory: Path) -> None:
    result = serve(
        "--check", "--port", "0", "--set", "heartbeat.interval_s=20", "--origin", "https://a.example"
    )
    assert (result.exit_code, result.stdout) == (0, "The settings are good.\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--port", "99999"], "listen.port"),
        (["--port", "http"], "listen.port"),
        (["--host", "0.0.0.0"], "is not loopback"),
        (["--set", "heartbeat.interval=3"], "interval_s"),
        (["--set", "heartbeat"], "KEY=VALUE"),
        (["--set", "heartbeat=3"], "KEY=VALUE"),
        (["--set", "channels.x.history_count=5"], "DUOLINK_CHANNELS"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--origin", "example.org"], "is not an origin"),
        (["--tls-certificate", "nowhere.pem"], "listen.tls_key"),
        (["--tls-certificate", "nowhere.pem", "--tls-key", "nowhere.pem"], "listen.tls_certificate"),
        (["--jwks", "nowhere.json"], "auth.jwks_file"),
        (["--set", "auth.external=true"], "auth.external"),
        (["--log-level", "loud"], "log.level"),
    ],
)
def test_wrong_settings_are_one_line_that_names_the_key(
    directory: Path, arguments: list[str], complaint: str
) -> None:
    result = serve(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert complaint in result.stderr and result.stderr.count("\n") == 1, result.stderr


def test_an_encrypted_key_is_an_error_and_no_question(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(1))
    secret = serialization.BestAvailableEncryption(b"secret")
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
        + certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    result = serve("--tls-certificate", "key.pem", "--tls-key", "key.pem")
    assert result.exit_code == 2 and "the key is encrypted" in result.stderr


def test_the_file_in_the_directory_is_read(directory: Path) -> None:
    (directory / "duolink.toml").write_text("[listen]\nport = 99999\n")
    result = serve("--check")
    assert result.exit_code == 2 and "duolink.toml: listen.port" in result.stderr
    assert serve("--check", "--port", "1").exit_code == 2, "a file with an error stays an error"


@pytest.fixture
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep `serve` from changing the process that runs the tests."""
    monkeypatch.setattr("duolink.server.log.configure", lambda level, format: None)
    monkeypatch.setattr("resource.setrlimit", lambda which, limit: None)
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal(
    directory: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def announced(app: App) -> None:
        announce(app)
        os.kill(os.getpid(), number)

    monkeypatch.setattr("duolink.cli.serve.announce", announced)
    result = serve("--port", "0", "--tcp", "0", "--memory")
    assert result.exit_code == 0 and "ws://" not in result.stdout
    assert re.search(r"ws://127\.0\.0\.1:\d+/ws\n", result.stderr)
    assert re.search(r"tcp +127\.0\.0\.1:\d+\n", result.stderr)
    assert "development: no authentication" in result.stderr


@pytest.mark.usefixtures("unchanged")
def test_the_banner_says_that_tokens_are_needed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def announced(app: App) -> None:
        announce(app)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("duolink.cli.serve.announce", announced)
    result = serve("--port", "0", env={"DUOLINK_AUTH_KEYS": f'[{{"algorithm":"HS256","key":"{SECRET}"}}]'})
    assert "clients need a token" in result.stderr and "  tcp " not in result.stderr


@pytest.mark.usefixtures("unchanged")
def test_keys_that_cannot_be_fetched_are_a_usage_error(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duolink.server.jwks.RETRY", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/jwks.json"
    result = run("serve", "--memory", "--port", "0", "--set", f"auth.jwks_url={url}")
    assert result.exit_code == 2
    assert f"auth.jwks_url: {url} cannot be fetched: Connection refused" in result.stderr


@pytest.mark.usefixtures("unchanged")
def test_a_port_that_is_taken_is_a_usage_error(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = serve("--port", str(taken.getsockname()[1]))
    assert result.exit_code == 2 and "the port is in use" in result.stderr


@pytest.mark.parametrize(
    ("code", "tcp", "words"),
    [
        (errno.EADDRINUSE, None, "port 8080: the port is in use"),
        (errno.EACCES, None, "not permitted"),
        (errno.EADDRNOTAVAIL, 9000, "port 8080 (and 9000 for TCP): Cannot assign"),
    ],
)
def test_why_a_port_cannot_be_had(code: int, tcp: int | None, words: str) -> None:
    config = Config(listen=Listen(tcp_port=tcp))
    assert words in explain(config, OSError(code, os.strerror(code)))


# --- token -------------------------------------------------------------------------------------------


def test_a_token_may_be_an_operators() -> None:
    assert claims_of(run("token", "--key", SECRET, "--user", "olga", "--operator").stdout).claims["operator"]
    assert "operator" not in claims_of(run("token", "--key", SECRET, "--user", "bob").stdout).claims


def test_a_token_says_who_and_what() -> None:
    result = run(
        "token", "--key", SECRET, "--user", "alice", "--client", "alice:*", "--channel", "chat:*",
        "--channel", "news", "--link", "bob*", "--expires", "2h",
    )  # fmt: skip
    identity = claims_of(result.stdout)
    assert identity.user == "alice" and identity.client == "alice:*"
    assert identity.may_publish("chat:1") and identity.may_subscribe("news") and not identity.may_publish("x")
    assert identity.may_link("bobby") and not identity.may_link("carol")
    assert 7190 < identity.expires_at - time.time() < 7220


def test_a_room_ticket(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    ticket = run("token", "--key-file", str(tmp_path / "key"), "--room", "r1").stdout.strip()
    authenticator = make_authenticator(Auth(keys=[Key(algorithm="HS256", key=SECRET)]))
    assert authenticator.room(ticket, time.time()) == "r1"
    with pytest.raises(AuthenticationError):
        authenticator.authenticate(ticket, time.time())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--user", "a"], "Exactly one of --key-file and --key"),
        (["--user", "a", "--key", "k", "--key-file", "f"], "Exactly one of --key-file and --key"),
        (["--key", SECRET], "--user"),
        (["--key", "short", "--user", "a"], "32 bytes"),
        (["--key", SECRET, "--user", "a", "--algorithm", "RS256"], "cannot be used"),
        (["--key", SECRET, "--user", "a", "--algorithm", "none"], "not one of"),
        (["--key", SECRET, "--user", "a", "--expires", "soon"], "expected for example"),
        (["--key", SECRET, "--user", "a", "--expires", "0"], "expected for example"),
        (["--key", SECRET, "--user", "a", "--expires", "99999d"], "expected for example"),
        (["--key", SECRET, "--user", "a", "--link", "*b"], "not a pattern"),
        (["--key-file", "/nowhere/key", "--user", "a"], "cannot be read"),
        (["--key", SECRET, "--user", ""], "cannot be a name"),
        (["--key", SECRET, "--user", "a:b"], "needs --client"),
    ],
)
def test_what_makes_no_token_is_a_usage_error(arguments: list[str], complaint: str) -> None:
    result = run("token", *arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert complaint in result.stderr and SECRET not in result.stderr


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("1d", 86_400)])
def test_durations(text: str, seconds: float) -> None:
    identity = claims_of(run("token", "--key", SECRET, "--user", "a", "--expires", text).stdout)
    assert abs(identity.expires_at - time.time() - seconds) < 15
