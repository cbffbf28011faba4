"""What can go wrong for a user of the client: one class per ending, all of them `DuolinkError`."""

from duolink.protocol.codes import CloseCode, ErrorCode


class DuolinkError(Exception):
    """The base of everything this package raises on its own account."""


class ClientClosed(DuolinkError):
    """The client is closed: by its user, or for good by the server. `code` is the close code."""

    def __init__(self, reason: str = "the client is closed", code: int = CloseCode.NORMAL) -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code


class Refused(ClientClosed):
    """The server does not want this client, and coming back would not help.

    `error` is the server's error code (`duplicate`, `superseded`, `unauthorized`, …) where it gave one.
    """

    def __init__(self, code: int, reason: str = "", error: str = "") -> None:
        text = ": ".join(part for part in (error, reason) if part) or f"close code {code}"
        super().__init__(f"refused by the server: {text}", code)
        self.reason, self.error = reason, error


class JournalError(ClientClosed):
    """The journal cannot be used: another process has it, it is another client's, damaged or newer; or it
    cannot be written any more, which closes the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, CloseCode.INTERNAL_ERROR)


class Unreachable(DuolinkError):
    """A first connect has been tried in vain as often as its options say."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"cannot reach {url}: {reason}")
        self.url, self.reason = url, reason


class Unsettled(DuolinkError):
    """The client left before `count` of its messages were stored or settled: their end is not known."""

    def __init__(self, count: int) -> None:
        messages = "message was" if count == 1 else "messages were"
        super().__init__(f"{count} {messages} neither stored nor settled when the client left")
        self.count = count


class Lost(DuolinkError):
    """A message was not delivered, and will not be.

    `reason` is one of `protocol.codes.LossReason`, or the error code that ended the client. Without
    `certain` it may have been delivered all the same: a copy was out when its end became unknowable.
    """

    def __init__(self, reason: str, certain: bool = True) -> None:
        super().__init__(f"lost: {reason}" + ("" if certain else " (or delivered; nobody can tell)"))
        self.reason, self.certain = reason, certain


class WindowFull(DuolinkError):
    """There is no room for another message before something is stored or settled."""


class InvalidData(DuolinkError, ValueError):
    """Data that cannot travel, or that came and is no JSON that Python can hold."""


class RequestFailed(DuolinkError):
    """The other side answered that it failed; the text is its own. Raised by a request handler, it is the
    answer, with its text; any other exception is reported here, and the peer hears only that it failed."""


class RequestTimeout(DuolinkError, TimeoutError):
    """No answer came in time. The request may have been handled all the same."""


class CommandFailed(DuolinkError):
    """The server refused a command; `code` is one of `protocol.codes.ErrorCode`."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code, self.message = code, message


class Conflict(CommandFailed):
    """A write to the shared state expected another version than the name has: `version` (0: it is not there).
    Nothing was done."""

    def __init__(self, version: int) -> None:
        text = f"the name has version {version}" if version else "the name is not there"
        super().__init__(ErrorCode.CONFLICT, text)
        self.version = version


class CommandTimeout(DuolinkError, TimeoutError):
    """The server has not answered a command in time; whether it did it is not known."""


class Busy(DuolinkError):
    """Somebody reads this stream already: messages go to one reader at a time."""


class Forked(DuolinkError):
    """The client was used in a child process. Its numbers and socket belong to the parent: connect anew."""
