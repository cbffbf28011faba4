"""Keys from a URL (JWKS, RFC 7517): fetched beside the loop, kept while they cannot be fetched again.

A set is fetched anew in the background before it is too old, and at once for a token that names a key that is
not there: whoever presents it waits for that. What is fetched is bounded in size and time; redirects are not
followed.
"""

import asyncio
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, Final, NamedTuple, Protocol

from duolink.server.keys import MAX_JWKS, VerificationKey, parse_jwks

TIMEOUT: Final = 5.0
"""Seconds a fetch may take in all; nobody waits longer for one."""

MIN_AGE: Final = 60.0
"""Seconds a set counts at least, whatever `Cache-Control` says: a mistaken `max-age=0` is no reason to fetch
without end. A new key does not wait for it."""

FIRST_TRIES: Final = 3
"""Fetches at the start, before it is refused."""

RETRY: Final = 10.0
"""Seconds between two fetches while they fail; at the start a tenth of it."""

ASK_EVERY: Final = 10.0
"""Seconds between two fetches for unknown keys: anybody can invent names of keys."""

EARLY: Final = 0.8
"""Part of its age after which a set is fetched again."""

_max_age = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?(\d{1,10})").search


class Fetched(NamedTuple):
    """A set of keys, and the seconds it may be kept by what its server says; None: it says nothing."""

    keys: tuple[VerificationKey, ...]
    max_age: float | None


class FetchFailed(Exception):
    """The keys could not be fetched; `str()` says why, for the operator."""


Fetch = Callable[[str], Fetched]


class Log(Protocol):
    """`log.LimitedLog`."""

    def warning(self, key: str, event: str, now: float, **fields: Any) -> None:
        """Write a warning, or count it as suppressed."""
        ...


def _nothing(result: str) -> None: ...


class JwksSource:
    """The keys at a URL. `keys` are those of the last good fetch."""

    def __init__(
        self,
        url: str,
        max_age: float,
        log: Log,
        count: Callable[[str], None] = _nothing,
        *,
        fetch: Fetch | None = None,
    ) -> None:
        """`max_age`: seconds a set counts at most; `count` is told `ok` or `failed` of each fetch."""
        self.url = url
        self.keys: tuple[VerificationKey, ...] = ()
        self._max_age = max_age
        self._log = log
        self._count = count
        self._fetch = fetch or fetch_jwks
        self._loop: asyncio.AbstractEventLoop
        self._timer: asyncio.TimerHandle | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._asked = -ASK_EVERY
        self._closed = False

    async def start(self) -> None:
        """Fetch for the first time. Raises `FetchFailed`."""
        self._loop = asyncio.get_running_loop()
        for left in reversed(range(FIRST_TRIES)):
            try:
                self._take(await self._get())
            except FetchFailed:
                if not left:
                    raise
                await asyncio.sleep(RETRY / 10)
            else:
                return

    def close(self) -> None:
        """Fetch no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._fetching is not None:
            self._fetching.cancel()

    def ask(self) -> "asyncio.Future[None] | None":
        """Fetch at once, because a key is not there: return what is done when the keys are as new as can be.
        None: they are already."""
        if self._closed:
            return None
        now = self._loop.time()
        if self._fetching is None:
            if now - self._asked < ASK_EVERY:
                return None
            self._asked = now
            self._begin()
        return self._fetching

    # --- fetching ------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._fetching is None and not self._closed:
            self._fetching = self._loop.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            self._take(await self._get())
        except FetchFailed as error:
            self._log.warning(
                "jwks",
                "keys cannot be fetched; the last good ones stay",
                self._loop.time(),
                problem=str(error),
            )
            self._later(RETRY)
        finally:
            self._fetching = None

    async def _get(self) -> Fetched:
        """Fetch on a thread. Raises `FetchFailed`."""
        try:
            async with asyncio.timeout(TIMEOUT):
                fetched = await asyncio.to_thread(self._fetch, self.url)
        except TimeoutError:
            self._count("failed")
            raise FetchFailed(f"{self.url} does not answer within {TIMEOUT:g} s") from None
        except FetchFailed:
            self._count("failed")
            raise
        self._count("ok")
        return fetched

    def _take(self, fetched: Fetched) -> None:
        self.keys = fetched.keys
        age = self._max_age if fetched.max_age is None else min(fetched.max_age, self._max_age)
        self._later(max(age, MIN_AGE) * EARLY)

    def _later(self, seconds: float) -> None:
        if not self._closed:
            self._timer = self._loop.call_later(seconds, self._begin)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """Follow none: where keys come from is the operator's to say."""
        return


def fetch_jwks(url: str, timeout: float = TIMEOUT) -> Fetched:
    """Fetch a set of keys; blocks. Raises `FetchFailed`."""
    deadline = time.monotonic() + timeout
    request = urllib.request.Request(url, headers={"Accept": "application/jwk-set+json, application/json"})
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    if url.startswith("http:"):  # this machine is not behind a proxy
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(request, timeout=timeout) as answer:
            body = b""
            while len(body) <= MAX_JWKS and (part := answer.read1(65_536)):
                body += part
                if time.monotonic() > deadline:
                    raise TimeoutError
            cache_control = ", ".join(answer.headers.get_all("cache-control", []))
        return Fetched(tuple(parse_jwks(body)), _age(cache_control))
    except urllib.error.HTTPError as error:
        with error:
            raise FetchFailed(f"{url} answers {error.code}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        text = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
        raise FetchFailed(f"{url} cannot be fetched: {text}") from None
    except ValueError as error:
        raise FetchFailed(f"{url}: the answer {error}") from None


def _age(cache_control: str) -> float | None:
    text = cache_control.lower()
    if "no-store" in text or "no-cache" in text:
        return 0.0
    found = _max_age(text)
    return float(found[1]) if found is not None else None
