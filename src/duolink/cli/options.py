"""What the commands share: options, exit codes, and how an address is written."""

from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

import click

EXIT_SAFE: Final = 0
"""Everything is delivered or stored."""
EXIT_LOST: Final = 1
"""Some of it is not."""
EXIT_USAGE: Final = 2
"""The command line or the configuration is wrong, or a port is taken. (click's own code, too.)"""
EXIT_UNREACHABLE: Final = 3
"""There is no server, or it did not answer in time."""
EXIT_REFUSED: Final = 4
"""The server does not want this client: token, name, rights."""

DEFAULT_URL: Final = "ws://127.0.0.1:8080"
"""Where `duolink serve` listens when it is told nothing."""

DEFAULT_PATH: Final = "/ws"

_SCHEMES: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss", "tcp": "tcp", "tcps": "tcps"}

Command = TypeVar("Command", bound=Callable[..., Any])


class Failed(click.ClickException):
    """Ends the command with one line on standard error and the exit code given."""

    exit_code: int  # type: ignore[misc]

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def complete_url(text: str) -> str:
    """Return the URL that a person meant: `host`, `host:port`, `ws://host` or `https://host` gain what
    they lack; no path means `/ws`. `tcp://host:port` and `tcps://` stay as they are.

    Raises `ValueError` for what is no such address.
    """
    parts = urlsplit(text if "://" in text else f"ws://{text}")
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None:
        raise ValueError(f"{parts.scheme}:// is no scheme here; use ws://, wss://, tcp:// or tcps://")
    if not parts.hostname or parts.fragment or parts.username is not None or any(c.isspace() for c in text):
        raise ValueError(f"{text!r} is no address; expected ws://host:port")
    port = parts.port  # raises ValueError when it is no port
    if scheme in ("tcp", "tcps"):
        if not port or parts.path not in ("", "/") or parts.query:
            raise ValueError(f"{text!r} is no address; expected {scheme}://host:port")
        return urlunsplit((scheme, parts.netloc, "", "", ""))
    path = parts.path if parts.path not in ("", "/") else DEFAULT_PATH
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


def _url(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        return complete_url(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


url_option = click.option(
    "--url",
    envvar="DUOLINK_URL",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    callback=_url,
    help="The server; without a path, /ws.",
)
token_option = click.option(
    "--token", envvar="DUOLINK_TOKEN", show_envvar=True, help="Token, where the server asks for one."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")


def connection_options(command: Command) -> Command:
    """Give a command `--url`, `--token` and `--json`: its arguments `url`, `token` (or None), `as_json`."""
    return url_option(token_option(json_option(command)))
