"""The schema of the server's settings: sections, defaults, bounds and what contradicts what.

Descriptions and bounds live in the types; `docs/configuration.md` is generated from them
(`scripts/config_reference.py`). `duolink.server.config` fills the schema from file, environment
and flags. `None` means *automatic* or *not set*, never *off*; off is `0` or `false`.
"""

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from duolink.protocol import limits
from duolink.server.rates import AUTOMATIC_RATES, RateName, Rates
from duolink.server.sections import ConfigError, Section, about, count, port_number, seconds, size

__all__ = [
    "AUTOMATIC_RATES",
    "MAX_MESSAGE",
    "MAX_WINDOW",
    "Algorithm",
    "Auth",
    "ChannelSettings",
    "Config",
    "ConfigError",
    "Heartbeat",
    "Http",
    "Key",
    "Limits",
    "Links",
    "Listen",
    "Log",
    "Mailboxes",
    "RateName",
    "Rates",
    "Session",
    "Storage",
    "Wire",
    "is_loopback",
]

MAX_MESSAGE = limits.MAX_PAYLOAD // 2
"""Bytes up to which `wire.max_message` may be raised: clients take payloads of `limits.MAX_PAYLOAD`, and a
message may share one with what was sent before it."""

MAX_WINDOW = 2048
"""Numbers up to which `links.window` may be raised: what both lanes may have in flight, a client's SDK must
be able to hold (4096) for an application that does not read."""

Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]


class Listen(Section, frozen=True, kw_only=True):
    """Where the server listens, and whom it lets in."""

    host: Annotated[
        str, about("Address to bind. Beyond loopback only with authentication.", min_length=1)
    ] = "127.0.0.1"
    port: Annotated[int, port_number("Port of WebSocket and HTTP; 0 lets the system choose.")] = 8080
    tcp_port: Annotated[int, port_number("Port of the plain TCP transport; not set: no TCP.")] | None = None
    tls_certificate: Annotated[str, about("Certificate chain (PEM file) for TLS.")] | None = None
    tls_key: Annotated[str, about("Private key (PEM file) of the certificate.")] | None = None
    backlog: Annotated[int, count("Connections the kernel may hold before they are accepted.", ge=1)] = 2048
    origins: Annotated[
        list[str],
        about(
            "Origins that browsers may connect from besides the server's own host, exact: "
            "`https://app.example.org`. A missing Origin (not a browser) is allowed."
        ),
    ] = []
    max_connections: Annotated[int, count("Connections at once; more are refused.", ge=1)] = 16_000
    max_connections_per_address: (
        Annotated[
            int,
            count(
                "Connections at once from one address (IPv6: one /64); 0: no limit. "
                "Automatic: 0 in development, else 1000."
            ),
        ]
        | None
    ) = None
    max_handshakes: Annotated[
        int, count("Connections at once that have not finished their opening handshake.", ge=1)
    ] = 1000
    echo: Annotated[bool, about("Serve `/echo`. Automatic: in development only.")] | None = None
    connect: Annotated[bool, about("Serve `/connect`. Automatic: in development only.")] | None = None
    trusted_proxies: Annotated[
        list[str],
        about(
            "Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed."
        ),
    ] = []


class Wire(Section, frozen=True, kw_only=True):
    """Sizes and deadlines of one connection."""

    max_message: Annotated[
        int, size("Largest message with data of a link or channel, in bytes.", ge=1024, le=MAX_MESSAGE)
    ] = limits.MAX_MESSAGE
    read_buffer: Annotated[int, size("Bytes of buffer for reading per connection.", ge=2048, le=1 << 20)] = (
        2048
    )
    send_buffer: Annotated[
        int,
        size(
            "Bytes that may wait to be sent to one connection; over it, the connection is closed "
            "with a code that says resume.",
            ge=16_384,
            le=1 << 30,
        ),
    ] = 1 << 20
    handshake_timeout_s: Annotated[
        float, seconds("Time for the whole request head and TLS to arrive.", ge=0.1)
    ] = 10.0
    hello_timeout_s: Annotated[float, seconds("Time for the first message, `hello`.", ge=0.1)] = (
        limits.HELLO_TIMEOUT
    )
    close_timeout_s: Annotated[
        float, seconds("Time for the far end to finish the close, before the connection is cut.", ge=0.1)
    ] = 5.0
    fragment_timeout_s: Annotated[
        float, seconds("Time for all fragments of one message to arrive.", ge=0.1)
    ] = 60.0
    idle_timeout_s: Annotated[
        float, seconds("Close a connection that carried no message for so long; 0: never.")
    ] = 0.0


class Heartbeat(Section, frozen=True, kw_only=True):
    """When a silent connection is lost: at the latest `misses × interval_s + timeout_s` after its last sign
    of life."""

    interval_s: Annotated[float, seconds("Silence after which a ping is sent.", ge=0.05)] = 30.0
    timeout_s: Annotated[float, seconds("Time for the answer; at most `interval_s`.", ge=0.01)] = 10.0
    misses: Annotated[int, count("Unanswered pings in a row that mean lost.", ge=1, le=100)] = 3


class Session(Section, frozen=True, kw_only=True):
    """What happens to a client whose connection is lost, or who comes twice."""

    resume_window_s: Annotated[float, seconds("Time a lost session waits to be resumed.", le=86_400)] = (
        limits.RESUME_WINDOW
    )
    duplicate: Annotated[
        Literal["refuse", "replace"],
        about("A second registration of a client that is here: `refuse` it, or let it `replace` the first."),
    ] = "refuse"
    probe_timeout_s: Annotated[
        float, seconds("Time for the first connection to prove that it lives.", ge=0.05)
    ] = 3.0
    drain_spread_s: Annotated[
        float, seconds("At shutdown, clients are told to come back within so many seconds, at random.")
    ] = 5.0
    drain_timeout_s: Annotated[float, seconds("Time a shutdown may take.", ge=0.1)] = 4.0


class Links(Section, frozen=True, kw_only=True):
    """Messages from client to client."""

    consent: (
        Annotated[
            Literal["open", "token"],
            about(
                "Who may link to whom: everyone (`open`), or whom the token's `links` claim names (`token`). "
                "Automatic: `open` in development, else `token`."
            ),
        ]
        | None
    ) = None
    window: Annotated[int, count("Unsettled messages per link and lane.", ge=1, le=MAX_WINDOW)] = (
        limits.WINDOW
    )
    window_bytes: Annotated[int, size("Bytes of unsettled messages per link.", ge=1024)] = limits.WINDOW_BYTES


class Storage(Section, frozen=True, kw_only=True):
    """Where mailboxes, history, shared state and the registry of clients live."""

    database: (
        Annotated[
            str,
            about(
                "File of the database (SQLite; `-wal` and `-shm` stand beside it while it is open, `-lock` "
                "for good). Not set: everything is in memory and ends with the process. `duolink serve` "
                "sets `duolink.db`.",
                min_length=1,
            ),
        ]
        | None
    ) = None


class Mailboxes(Section, frozen=True, kw_only=True):
    """Messages kept for clients that are away. They need a database."""

    create: (
        Annotated[
            Literal["open", "known"],
            about(
                "Who has a mailbox: everybody that is written to (`open`), or clients and users that have "
                "registered once (`known`). Automatic: `open` in development, else `known`."
            ),
        ]
        | None
    ) = None
    mailboxes: Annotated[int, count("Mailboxes with messages at once, where `create` is `open`.", ge=1)] = (
        10_000
    )
    retention_s: Annotated[
        float, seconds("Time a message is kept, if its sender does not say less.", ge=1)
    ] = 7 * 86_400.0
    messages: Annotated[int, count("Messages of one mailbox.", ge=1)] = 100_000
    bytes: Annotated[int, size("Bytes of one mailbox.", ge=65_536)] = 256 << 20
    pair_messages: Annotated[int, count("Messages from one sender in one mailbox.", ge=1)] = 20_000
    pair_bytes: Annotated[int, size("Bytes from one sender in one mailbox.", ge=65_536)] = 64 << 20
    sender_messages: Annotated[int, count("Messages of one sender in all mailboxes.", ge=1)] = 200_000
    sender_bytes: Annotated[int, size("Bytes of one sender in all mailboxes.", ge=65_536)] = 512 << 20
    poison_after: Annotated[
        int,
        count(
            "Processes of a client, begun a minute or more apart, that may take the same message and end "
            "without finishing with it before it is given up as `poison`; 0: any number.",
            le=1000,
        ),
    ] = 10
    forget_s: Annotated[
        float, seconds("Time after which a client that was not here is forgotten, mailbox and all.", ge=3600)
    ] = 90 * 86_400.0


class ChannelSettings(Section, frozen=True, kw_only=True):
    """One kind of channel, under its pattern: `[channels."chat:*"]`. An exact name wins over a pattern,
    a longer pattern over a shorter; keys that are not named have the defaults below."""

    history_count: Annotated[int, count("Messages kept for recovery; 0: none.", le=1_000_000)] = 1000
    history_age_s: Annotated[float, seconds("Age up to which messages are kept.")] = 3600.0
    history_bytes: Annotated[int, size("Bytes of messages kept.")] = 16 << 20
    durable: Annotated[
        bool,
        about(
            "Whether history and shared state outlive the process. A publication then reaches subscribers "
            "when it is on disk. Without a database, nothing does."
        ),
    ] = True
    state_keys: Annotated[int, count("Names in the shared state; 0: no shared state.", le=100_000)] = (
        limits.MAX_STATE_KEYS
    )
    state_bytes: Annotated[int, size("Bytes of their names and values together.", le=64 << 20)] = (
        limits.MAX_STATE_BYTES
    )
    presence: Annotated[bool, about("Whether subscribers may see who else is here.")] = True
    max_subscribers: Annotated[int, count("Subscribers at once; 0: no limit.")] = 0


class Key(Section, frozen=True, kw_only=True):
    """One key that tokens are checked with. Exactly one of `key` and `key_file` is set."""

    algorithm: Annotated[Algorithm, about("The one algorithm this key is used with.")]
    kid: Annotated[str, about("The key's id, if tokens name one.", min_length=1, max_length=256)] | None = (
        None
    )
    key: Annotated[str, about("The secret (HS256, 32 bytes or more) or the public key (PEM).")] | None = None
    key_file: Annotated[str, about("A file that holds it instead.")] | None = None

    def __repr__(self) -> str:
        return f"Key(algorithm={self.algorithm!r}, kid={self.kid!r}, …)"


class Auth(Section, frozen=True, kw_only=True):
    """Who may come in. Without any key the server is in development: open, and on loopback only."""

    keys: Annotated[list[Key], about("Keys that tokens are checked with.")] = []
    jwks_file: Annotated[str, about("A JWKS file of more keys; read again when it changes.")] | None = None
    jwks_url: (
        Annotated[
            str,
            about(
                "Where more keys are fetched from (JWKS): `https://…`, or `http://` on this machine. Fetched "
                "again before they are too old, and at once for a key id that is not there. While that "
                "fails, the last good ones count; the server does not start without any.",
                min_length=1,
            ),
        ]
        | None
    ) = None
    jwks_max_age_s: Annotated[
        float,
        seconds(
            "Age up to which fetched keys count; `Cache-Control: max-age` may say less.", ge=60, le=86_400
        ),
    ] = 3600.0
    issuer: Annotated[str, about("What a token's `iss` must be.")] | None = None
    audience: Annotated[str, about("What a token's `aud` must be or contain.")] | None = None
    leeway_s: Annotated[float, seconds("Difference of clocks that is forgiven.", le=300)] = 5.0
    required_claims: Annotated[list[str], about("Claims a token must have, besides `exp` and `sub`.")] = []
    external: Annotated[
        bool,
        about(
            "The program that embeds the server brings its own authenticator; without it the server "
            "does not start."
        ),
    ] = False


class Limits(Section, frozen=True, kw_only=True):
    """What one client may have."""

    subscriptions_per_client: Annotated[int, count("Channels subscribed at once.", ge=1)] = (
        limits.MAX_SUBSCRIPTIONS
    )
    watched_per_client: Annotated[int, count("Clients watched (here, reconnecting, away) at once.", ge=1)] = (
        limits.MAX_WATCHED
    )


class Log(Section, frozen=True, kw_only=True):
    """What is written to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], about("Least severity written.")] = "info"
    format: (
        Annotated[
            Literal["console", "json"],
            about(
                "Lines for people, or JSON with the field names of ECS. Automatic: `console` on a terminal."
            ),
        ]
        | None
    ) = None


class Http(Section, frozen=True, kw_only=True):
    """The HTTP side: health, metrics, pages, the operator's API."""

    metrics_token: (
        Annotated[
            str,
            about(
                "Bearer token that opens `/metrics` from anywhere. Loopback, and development, need none.",
                min_length=16,
            ),
        ]
        | None
    ) = None
    operator_token: (
        Annotated[
            str,
            about(
                "Bearer token that opens `/api`, beside tokens of `[auth]` with the claim `operator: true`. "
                "Only development needs none.",
                min_length=32,
            ),
        ]
        | None
    ) = None
    playground: (
        Annotated[
            bool,
            about("Serve the page `/playground`, and lead `/` to it. Automatic: in development only."),
        ]
        | None
    ) = None
    console: Annotated[bool, about("Serve the page `/console`. The page itself holds no secret.")] = True

    def __repr__(self) -> str:
        tokens = ("metrics_token", self.metrics_token), ("operator_token", self.operator_token)
        shown = ", ".join(f"{name}={'…' if token else None!r}" for name, token in tokens)
        return f"Http({shown}, playground={self.playground!r}, console={self.console!r})"


class Config(Section, frozen=True, kw_only=True):
    """Everything a node is started with. Making one raises `ConfigError` where two values contradict
    each other."""

    listen: Listen = Listen()
    wire: Wire = Wire()
    heartbeat: Heartbeat = Heartbeat()
    session: Session = Session()
    links: Links = Links()
    storage: Storage = Storage()
    mailboxes: Mailboxes = Mailboxes()
    channels: dict[str, ChannelSettings] = {}
    auth: Auth = Auth()
    rates: Rates = Rates()
    limits: Limits = Limits()
    log: Log = Log()
    http: Http = Http()

    def __post_init__(self) -> None:
        _check(self)

    @property
    def development(self) -> bool:
        """Whether nobody is authenticated. Such a server listens on loopback only."""
        return not (self.auth.keys or self.auth.jwks_file or self.auth.jwks_url or self.auth.external)

    @property
    def echo(self) -> bool:
        """Whether `/echo` is served."""
        return self.development if self.listen.echo is None else self.listen.echo

    @property
    def connect(self) -> bool:
        """Whether `/connect` is served."""
        return self.development if self.listen.connect is None else self.listen.connect

    @property
    def playground(self) -> bool:
        """Whether `/playground` is served."""
        return self.development if self.http.playground is None else self.http.playground

    @property
    def consent(self) -> Literal["open", "token"]:
        """The consent policy in force."""
        return self.links.consent or ("open" if self.development else "token")

    @property
    def mailboxes_for(self) -> Literal["open", "known"]:
        """Who has a mailbox."""
        return self.mailboxes.create or ("open" if self.development else "known")

    @property
    def max_connections_per_address(self) -> int:
        """Connections at once from one address; 0 means no limit."""
        configured = self.listen.max_connections_per_address
        return configured if configured is not None else (0 if self.development else 1000)

    def rate(self, name: RateName) -> tuple[float, float] | None:
        """Return (per second, burst) of a rate limit, or None where it is off."""
        per_s: int | None = getattr(self.rates, f"{name}_per_s")
        burst: int | None = getattr(self.rates, f"{name}_burst")
        if per_s is None:
            if self.development:
                return None
            per_s, automatic_burst = AUTOMATIC_RATES[name]
            burst = automatic_burst if burst is None else burst
        return (float(per_s), float(burst or per_s)) if per_s else None

    def channel(self, name: str) -> ChannelSettings:
        """Return the settings of a channel: those of its own name, else of the longest pattern that
        matches it, else the defaults."""
        found = self.channels.get(name)
        if found is not None:
            return found
        matching = [p for p in self.channels if p.endswith("*") and name.startswith(p[:-1])]
        return self.channels[max(matching, key=len)] if matching else ChannelSettings()


def is_loopback(host: str) -> bool:
    """Tell whether a host to bind or an address of a peer is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _check(config: Config) -> None:
    """Raise `ConfigError` for values that are allowed by themselves but not together."""
    listen, auth = config.listen, config.auth
    if config.development and not is_loopback(listen.host):
        raise ConfigError(
            "listen.host",
            f"{listen.host!r} is not loopback, and without authentication the server listens on loopback "
            'only. Configure a key in duolink.toml, for example:  [[auth.keys]]  algorithm = "HS256"  '
            'key_file = "duolink.key"  (or auth.jwks_file, auth.jwks_url); or listen on 127.0.0.1',
        )
    if bool(listen.tls_certificate) != bool(listen.tls_key):
        missing = "listen.tls_key" if listen.tls_certificate else "listen.tls_certificate"
        raise ConfigError(missing, "is not set; TLS needs both tls_certificate and tls_key")
    if listen.tcp_port and listen.tcp_port == listen.port:
        raise ConfigError("listen.tcp_port", f"{listen.tcp_port} is also listen.port; they must differ")
    for origin in listen.origins:
        _check_origin(origin)
    for proxy in listen.trusted_proxies:
        try:
            ipaddress.ip_network(proxy, strict=False)
        except ValueError:
            raise ConfigError(
                "listen.trusted_proxies", f"{proxy!r} is not an IP address or network"
            ) from None
    if config.heartbeat.timeout_s > config.heartbeat.interval_s:
        raise ConfigError(
            "heartbeat.timeout_s",
            f"{config.heartbeat.timeout_s} is more than heartbeat.interval_s = {config.heartbeat.interval_s}",
        )
    if config.wire.send_buffer < 2 * config.wire.max_message:
        raise ConfigError(
            "wire.send_buffer",
            f"{config.wire.send_buffer} holds fewer than two messages of wire.max_message = "
            f"{config.wire.max_message} bytes",
        )
    if config.links.window_bytes < config.wire.max_message:
        raise ConfigError(
            "links.window_bytes",
            f"{config.links.window_bytes} holds no message of wire.max_message = "
            f"{config.wire.max_message} bytes",
        )
    for index, key in enumerate(auth.keys):
        if (key.key is None) == (key.key_file is None):
            raise ConfigError(f"auth.keys[{index}]", "needs exactly one of key and key_file")
    if auth.jwks_url is not None and not _may_tell_keys(auth.jwks_url):
        raise ConfigError(
            "auth.jwks_url",
            f"{auth.jwks_url!r} is neither https:// nor http:// of this machine; whoever can change what it "
            "answers can let anybody in",
        )
    if config.development:
        for name in ("issuer", "audience", "required_claims"):
            if getattr(auth, name):
                raise ConfigError(
                    f"auth.{name}", "has no effect without auth.keys, auth.jwks_file or auth.jwks_url"
                )
    for pattern in config.channels:
        if not pattern or "*" in pattern[:-1]:
            raise ConfigError(
                f"channels.{pattern!r}",
                'is not a channel name; `*` is allowed at the end only, as in "chat:*"',
            )


def _check_origin(origin: str) -> None:
    problem = f"{origin!r} is not an origin; expected scheme://host or scheme://host:port in lower case"
    try:
        parts = urlsplit(origin)
        plain = f"{parts.scheme}://{parts.netloc}" == origin and parts.hostname and "@" not in origin
        _ = parts.port  # raises ValueError when it is no port
    except ValueError:
        plain = False
    if not plain or origin != origin.lower():
        raise ConfigError("listen.origins", problem)


def _may_tell_keys(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError when it is no port
    except ValueError:
        return False
    if not parts.hostname or parts.username is not None or not url.isprintable() or " " in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
