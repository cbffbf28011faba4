"""`duolink serve`: runs a server in the foreground."""

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from duolink.cli.options import EXIT_USAGE, Failed

if TYPE_CHECKING:
    from duolink.server.app import App
    from duolink.server.config import Config

DEFAULT_DATABASE: Final = "duolink.db"
"""In the working folder."""

_FLAGS: Final = {
    "host": "listen.host",
    "port": "listen.port",
    "tcp": "listen.tcp_port",
    "database": "storage.database",
    "tls_certificate": "listen.tls_certificate",
    "tls_key": "listen.tls_key",
    "jwks": "auth.jwks_file",
    "log_level": "log.level",
    "log_format": "log.format",
}
"""Flag → the setting it overrides."""


@click.command()
@click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", metavar="PORT", help="Port of WebSocket and HTTP; 0: any.  [default: 8080]")
@click.option("--tcp", metavar="PORT", help="Also listen for plain TCP here.")
@click.option(
    "--database",
    metavar="FILE",
    help="Where mailboxes, history and shared state are kept.  [default: duolink.db]",
)
@click.option("--memory", is_flag=True, help="Keep nothing beyond the life of the process.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="File of settings.  [default: duolink.toml, if it is here]",
)
@click.option("--jwks", metavar="FILE", help="Keys that tokens are checked with (JWKS).")
@click.option("--tls-certificate", metavar="FILE", help="Certificate chain (PEM).")
@click.option("--tls-key", metavar="FILE", help="Its private key (PEM).")
@click.option(
    "--origin", "origins", metavar="ORIGIN", multiple=True, help="Origin of web pages to allow; repeatable."
)
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.  [default: info]")
@click.option("--log-format", metavar="FORMAT", help="console or json.  [default: console on a terminal]")
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Any other setting, as in heartbeat.interval_s=10.",
)
@click.option("--check", is_flag=True, help="Check the settings, and do not serve.")
def serve(
    memory: bool,
    config: Path | None,
    origins: tuple[str, ...],
    settings: tuple[str, ...],
    check: bool,
    **flags: str | None,
) -> None:
    """Run a server in the foreground, until SIGTERM or Ctrl-C; a second one ends it at once.

    Settings come from these flags, DUOLINK_… variables and the file, in this order. Without a key to check
    tokens with, the server is open to everybody who reaches it, and therefore listens on this machine only.
    """
    from duolink.engines.sqlite.database import DatabaseError
    from duolink.server import app as server  # late: --help shall be quick
    from duolink.server.config import ConfigError

    if memory and flags["database"] is not None:
        raise click.UsageError("--memory and --database exclude each other")
    try:
        found = _stored(_load(config, flags, origins, settings), memory)
        app = server.App(found)
    except ConfigError as error:
        raise Failed(str(error), EXIT_USAGE) from None
    if check:
        click.echo("The settings are good.")
        return
    from duolink.server import log

    log.configure(found.log.level, found.log.format)
    try:
        server.run(app, started=announce)
    except (ConfigError, DatabaseError) as error:
        raise Failed(str(error), EXIT_USAGE) from None
    except OSError as error:
        raise Failed(explain(found, error), EXIT_USAGE) from None


def _load(
    path: Path | None, flags: dict[str, str | None], origins: tuple[str, ...], settings: tuple[str, ...]
) -> "Config":
    from duolink.server.config import ConfigError, default_path, load

    overrides: dict[str, Any] = {_FLAGS[name]: value for name, value in flags.items()}
    if origins:
        overrides["listen.origins"] = list(origins)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or "." not in key:
            raise ConfigError(setting, "is not KEY=VALUE, as in heartbeat.interval_s=10", "command line")
        overrides[key] = value
    if path is None:
        path = default_path(os.environ, Path.cwd())
    return load(path, os.environ, overrides)


def _stored(config: "Config", memory: bool) -> "Config":
    """Return the settings with a database, unless all is to be in memory."""
    import msgspec

    from duolink.server.config import Storage

    if memory:
        return msgspec.structs.replace(config, storage=Storage())
    if config.storage.database is None:
        return msgspec.structs.replace(config, storage=Storage(database=DEFAULT_DATABASE))
    return config


def explain(config: "Config", error: OSError) -> str:
    """Say which port could not be had, and why."""
    listen = config.listen
    ports = str(listen.port) if listen.tcp_port is None else f"{listen.port} (and {listen.tcp_port} for TCP)"
    reason = error.strerror or str(error)
    if error.errno == errno.EADDRINUSE:
        reason = "the port is in use; another server may be running (choose one with --port)"
    elif error.errno == errno.EACCES:
        reason = "not permitted (ports below 1024 need a privilege)"
    return f"cannot listen on {listen.host}, port {ports}: {reason}"


def _storage(app: "App") -> str:
    database = app.config.storage.database
    if database is None:
        return "memory: nothing is kept beyond the life of this process"
    messages, _ = app.node.mailboxes.engine.totals()
    waiting = f"{messages:,} messages wait in mailboxes" if messages else "no message waits in a mailbox"
    return f"{Path(database).resolve()}: {waiting}"


def announce(app: "App") -> None:
    """Write the banner."""
    from rich.console import Console

    config = app.config
    if config.development:
        access = "development: no authentication, reachable from this machine only"
    else:
        access = "authenticated: clients need a token"
    lines = [
        f"[bold]duolink {app.version}[/]  {app.url}",
        f"  open     {app.http_url}",
        *([f"  tcp      {app.tcp_address}"] if app.tcp_address else []),
        f"  access   {access}",
        f"  storage  {_storage(app)}",
        f"  pid      {os.getpid()}; Ctrl-C ends it",
    ]
    Console(stderr=True, highlight=False, soft_wrap=True).print("\n".join(lines))
