"""What the commands of a client share: running, signals, lines in, data out."""

import asyncio
import base64
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

from duolink.cli.options import EXIT_LOST, EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_USAGE, Failed
from duolink.client.client import Client, connect
from duolink.client.errors import ClientClosed, InvalidData, JournalError, Refused, Unreachable
from duolink.client.events import Event, State, StateChanged
from duolink.protocol import codec, limits

STDIN = 0
"""Descriptor of standard input."""

READ: Final = 64 * 1024
"""Bytes read from standard input at once."""

AHEAD: Final = 4
"""Pieces of standard input that may wait for the network."""

MAX_LINE: Final = limits.MAX_MESSAGE
"""Bytes of a line: more fits into no message."""


def run(work: Coroutine[Any, Any, int]) -> None:
    """Run a command to its end, and exit with the code it returns."""
    try:
        code = asyncio.run(work)
    except Unreachable as error:
        raise Failed(str(error), EXIT_UNREACHABLE) from None
    except Refused as error:
        raise Failed(str(error), EXIT_REFUSED) from None
    except JournalError as error:
        raise Failed(str(error), EXIT_USAGE) from None
    except ClientClosed as error:
        raise Failed(str(error), EXIT_UNREACHABLE) from None
    except BrokenPipeError:
        forget_output()  # whoever read it has gone
        raise SystemExit(1) from None
    raise SystemExit(code)


def client(url: str, name: str, token: str | None, journal: str | None = None) -> Client:
    """Return a client that tells of its states on standard error. Ends the command for an impossible name or
    token."""
    try:
        if token is not None and not token.isascii():
            raise ValueError("a token is ASCII")
        made = connect(url, client_id=name, token=token, journal=journal)
    except ValueError as error:
        raise Failed(str(error), EXIT_USAGE) from None
    made.on_event(_tell_state())
    return made


def checked(make: Callable[[], Any]) -> Any:
    """Return what `make` makes; a `ValueError` of it is a wrong command line."""
    try:
        return make()
    except ValueError as error:
        raise Failed(str(error), EXIT_USAGE) from None


def _tell_state() -> Callable[[Event], None]:
    been_online = False

    def tell(event: Event) -> None:
        nonlocal been_online
        if not isinstance(event, StateChanged) or event.state is State.CLOSED:
            return
        if event.state is State.ONLINE and not been_online:
            been_online = True
        elif been_online:
            say(f"{event.state}" + (f": {event.reason}" if event.reason else ""))

    return tell


def say(text: str) -> None:
    """Write a line for people, to standard error."""
    sys.stderr.write(f"duolink: {printable(text)}\n")
    sys.stderr.flush()


async def until_stopped(client: Client, work: Coroutine[Any, Any, None]) -> bool:
    """Do work until it is done, or SIGINT or SIGTERM comes. Returns whether one came.

    Raises what ended the client, when it ends before the work does.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    def closed(event: Event) -> None:
        if isinstance(event, StateChanged) and event.state is State.CLOSED:
            task.cancel()  # it may be waiting for standard input

    forget = client.on_event(closed)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if client.ending is not None:
            raise client.ending from None
        if not stopped:
            task.cancel()
            raise
    finally:
        forget()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return stopped


class Lines:
    """The lines of standard input, without their ends: an asynchronous iterator of bytes.

    A daemon thread reads, since a file cannot be waited for otherwise; it reads ahead a little.
    Raises `InvalidData` for a line that is too long, and where the input cannot be read.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes | OSError] = asyncio.Queue()
        self._room = threading.Semaphore(AHEAD)
        self._rest = b""
        self._lines: list[bytes] = []
        self._ended = False
        threading.Thread(target=self._read, args=(STDIN,), name="stdin", daemon=True).start()

    def _read(self, descriptor: int) -> None:
        piece: bytes | OSError = b"?"
        while piece and isinstance(piece, bytes):
            self._room.acquire()
            try:
                piece = os.read(descriptor, READ)
            except OSError as error:
                piece = error
            try:
                self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
            except RuntimeError:  # the loop is closed: nobody wants it any more
                return

    def __aiter__(self) -> "Lines":
        return self

    async def __anext__(self) -> bytes:
        while not self._lines:
            if self._ended:
                raise StopAsyncIteration
            piece = await self._pieces.get()
            self._room.release()
            if isinstance(piece, OSError):
                raise InvalidData(f"standard input cannot be read: {piece.strerror}")
            if not piece:
                self._ended = True
                if self._rest:
                    self._lines = [self._rest]
                continue
            *lines, self._rest = (self._rest + piece).split(b"\n")
            self._lines = lines[::-1]
            if len(self._rest) > MAX_LINE:
                raise InvalidData(f"a line has at most {MAX_LINE} bytes")
        return self._lines.pop().removesuffix(b"\r")


def value_of(line: bytes, as_json: bool) -> Any:
    """Return what a line says: a string, or with `as_json` the JSON in it. Raises `InvalidData`."""
    try:
        return codec.check_json(line) if as_json else line.decode()
    except codec.DataError as error:
        raise InvalidData(str(error)) from None
    except UnicodeDecodeError:
        raise InvalidData("not UTF-8") from None


def emit(line: bytes) -> None:
    """Write a line of data to standard output, at once. Raises `BrokenPipeError`; ends the command where it
    cannot be written for another reason."""
    try:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        forget_output()
        raise Failed(f"standard output cannot be written: {error.strerror}", EXIT_LOST) from None


def forget_output() -> None:
    """Do not complain again when standard output is closed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def json_line(head: dict[str, Any], raw: bytes, binary: bool) -> bytes:
    """Return `head` and the data as it travelled as one JSON object: `data`, or `base64` for bytes."""
    if binary:
        return json.dumps({**head, "base64": base64.b64encode(raw).decode()}, ensure_ascii=False).encode()
    start = json.dumps(head, ensure_ascii=False)[:-1].encode()
    return b'%b, "data": %b}' % (start, raw or b"null")


def text_line(raw: bytes, binary: bool) -> bytes:
    """Return data for people: a string's text, other JSON as it travelled, bytes as text where they are."""
    text = raw.decode("utf-8", "backslashreplace")
    if not binary and raw.startswith(b'"'):
        text = json.loads(raw)
    if sys.stdout.isatty():
        text = printable(text)
    return text.encode("utf-8", "replace")


def printable(text: str) -> str:
    """Return a text without what would command a terminal."""
    return "".join(char if char.isprintable() or char == "\t" else "�" for char in text)
