"""`duolink token`: makes a signed token."""

import re
import time
from pathlib import Path
from typing import Any, Final, cast

import click

from duolink.protocol import codec, limits

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)")
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_LONGEST: Final = 10 * 365 * 86_400.0
"""Seconds: who needs a token for more than ten years needs none."""


class Duration(click.ParamType[float]):
    """Seconds, or a number with `s`, `m`, `h` or `d`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        found = _DURATION.fullmatch(str(value))
        seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
        if not 0 < seconds <= _LONGEST:
            self.fail(f"{value!r} is not allowed; expected for example 45s, 30m, 12h or 7d", param, ctx)
        return seconds


@click.command()
@click.option("--user", metavar="NAME", help="The user (claim `sub`): may be the client NAME and NAME:….")
@click.option("--client", metavar="ID", help="The client id it may use instead; `*` at the end: any such.")
@click.option("--channel", "channels", metavar="PATTERN", multiple=True, help="A channel to use; repeatable.")
@click.option("--link", "links", metavar="PATTERN", multiple=True, help="A client to talk to; repeatable.")
@click.option("--room", metavar="NAME", help="Make a ticket for this room of /connect.")
@click.option("--operator", is_flag=True, help="It opens the operator's API (claim `operator`).")
@click.option("--expires", type=Duration(), default="1h", show_default=True, help="How long it is valid.")
@click.option("--key-file", type=click.Path(path_type=Path), help="The secret or the private key (PEM).")
@click.option("--key", metavar="TEXT", help="The key itself; other people of this machine may see it.")
@click.option(
    "--algorithm",
    type=click.Choice(["HS256", "RS256", "ES256", "EdDSA"]),
    default="HS256",
    show_default=True,
    help="What the key is for.",
)
@click.option("--kid", metavar="ID", help="The key's id.")
@click.option("--issuer", metavar="TEXT", help="Claim `iss`.")
@click.option("--audience", metavar="TEXT", help="Claim `aud`.")
def token(
    user: str | None,
    client: str | None,
    channels: tuple[str, ...],
    links: tuple[str, ...],
    room: str | None,
    operator: bool,
    expires: float,
    key_file: Path | None,
    key: str | None,
    algorithm: str,
    kid: str | None,
    issuer: str | None,
    audience: str | None,
) -> None:
    """Make a signed token and print it.

    Patterns are exact names, or end in `*`. What is not named is not allowed.

    \b
        duolink token --key-file duolink.key --user alice --link 'bob*' --channel 'chat:*'
    """
    if (key is None) == (key_file is None):
        raise click.UsageError("Exactly one of --key-file and --key is needed.")
    if user is None and room is None:
        raise click.UsageError("--user (or --room, for a ticket of /connect) is needed.")
    for option, name in (("--user", user), ("--room", room), ("--client", client)):
        if name is not None and not codec.is_id(name, limits.MAX_CLIENT_ID):
            raise click.UsageError(f"{option}: {name!r} cannot be a name.")
    if user is not None and ":" in user and client is None:
        raise click.UsageError("A user with a `:` in its name needs --client, to keep users apart.")
    for pattern in (*channels, *links, client or "x"):
        if not pattern or "*" in pattern[:-1]:
            raise click.UsageError(f"{pattern!r} is not a pattern; a name may have a * at its end only.")
    claims: dict[str, object] = {
        name: value
        for name, value in {
            "sub": user,
            "client": client,
            "channels": list(channels),
            "links": list(links),
            "room": room,
            "operator": operator,
            "iss": issuer,
            "aud": audience,
        }.items()
        if value
    }
    click.echo(_sign(claims, _read(key, key_file), algorithm, expires, kid))


def _read(key: str | None, key_file: Path | None) -> str:
    if key_file is None:
        return key or ""
    try:
        return key_file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not text"
        raise click.UsageError(f"--key-file: {key_file} cannot be read: {problem}") from None


def _sign(claims: dict[str, object], key: str, algorithm: str, expires: float, kid: str | None) -> str:
    from duolink.server.auth import sign  # late: it brings in the cryptography

    try:
        return sign(claims, key, cast(Any, algorithm), expires, time.time(), kid)
    except ValueError as error:
        raise click.UsageError(f"The key cannot be used: {error}") from None
