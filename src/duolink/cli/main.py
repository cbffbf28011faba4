"""The command line's entry: finds a command by its name, and imports only that one.

Exit codes, of every command: see `duolink.cli.options`. Data goes to standard output, everything else to
standard error.
"""

from importlib import import_module
from typing import Final, NamedTuple, cast

import click


class Lazy(NamedTuple):
    """Where a command is defined, and its line in the overview."""

    module: str
    attribute: str
    summary: str


COMMANDS: Final[dict[str, Lazy]] = {
    "serve": Lazy("duolink.cli.serve", "serve", "Run a server in the foreground."),
    "chat": Lazy("duolink.cli.chat", "chat", "Talk to another client, line by line."),
    "demo": Lazy("duolink.cli.demo", "demo", "Play a conversation with a cut and a restart, and explain it."),
    "send": Lazy("duolink.cli.transfer", "send", "Send lines from standard input to a client."),
    "listen": Lazy("duolink.cli.transfer", "listen", "Print what other clients send."),
    "publish": Lazy("duolink.cli.channel", "publish", "Publish lines from standard input to a channel."),
    "subscribe": Lazy("duolink.cli.channel", "subscribe", "Print what is published to a channel."),
    "state": Lazy("duolink.cli.state", "state", "Print or change the shared state of a channel."),
    "token": Lazy("duolink.cli.token", "token", "Make a signed token."),
    "db": Lazy("duolink.cli.db", "db", "Check, back up or shrink the database."),
}
"""Every command, in the order of the overview."""


class LazyGroup(click.Group):
    """A group that imports a command when it is run, so that the others cost no time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, most used first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command by its name."""
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        return cast(click.Command, getattr(import_module(lazy.module), lazy.attribute))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in COMMANDS.items()])


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 all safe, 1 some lost, 2 usage or configuration, 3 unreachable, 4 refused.",
)
@click.version_option(package_name="duolink", message="duolink %(version)s")
def cli() -> None:
    """Two clients, one link: every message arrives once, in order, whatever happens to the network.

    Start a server with `duolink serve`; then talk: `duolink chat alice bob` here, `duolink chat bob alice`
    there.
    """


def main() -> None:
    """Run the command line (the `duolink` script)."""
    cli(prog_name="duolink")


if __name__ == "__main__":
    main()
