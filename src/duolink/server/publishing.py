"""What a publication, or a write to the shared state, must be; and what its sender hears of it."""

from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from duolink.engines.base import Answer, Appended, Conflict, Draft, Entry, Failure, Full, Retention, Unknown
from duolink.protocol import limits
from duolink.protocol.codec import is_id
from duolink.protocol.codes import ErrorCode
from duolink.protocol.messages import Error, Publish, Published, Set
from duolink.server.channel import Line
from duolink.server.settings import ChannelSettings

if TYPE_CHECKING:
    from duolink.server.connection import Connection

ENVELOPE: Final = 2048
"""Bytes a publication has at most beside its data: names of 128, 255 and 255 bytes, all escaped, and the
rest. What leaves so much room need not be measured."""


def retention(settings: ChannelSettings) -> Retention:
    """Return what a channel's log keeps."""
    return Retention(
        settings.history_count,
        settings.history_age_s,
        settings.history_bytes,
        settings.state_keys,
        settings.state_bytes,
    )


def written(draft: Draft, message: Publish | Set) -> Draft:
    """Return a draft as the write that the message asks for, if it does."""
    if type(message) is not Set:
        return draft
    expect = -1 if message.expect is UNSET else message.expect
    if message.deleted:
        return draft._replace(data=b"", binary=False, name=message.name, expect=expect, deleted=True)
    return draft._replace(name=message.name, expect=expect)


def problem(
    message: Publish | Set, draft: Draft, keep: Retention, max_message: int
) -> tuple[ErrorCode, str] | None:
    """Say what stands against a message's draft; None: nothing."""
    writes = type(message) is Set
    if writes and not keep.keys:
        return ErrorCode.FORBIDDEN, "the channel has no shared state"
    if writes and not is_id(draft.name, limits.MAX_STATE_NAME):
        return ErrorCode.MALFORMED, "not a name a value can have"
    if len(draft.data) > max_message - ENVELOPE:
        last = limits.MAX_INTEGER
        entry = Entry(last, draft.sender, last, draft.data, draft.binary, draft.name)
        if len(Line(message.channel, entry, last).data) > max_message:
            return ErrorCode.TOO_LARGE, "too large with its sender's name"
    return None


def answer(connection: "Connection", command: int, result: Answer | Failure) -> None:
    """Tell the sender what became of it."""
    if isinstance(result, Appended):
        connection.tell(Published(id=command, epoch=result.epoch, offset=result.entry.offset))
    elif isinstance(result, Conflict):  # an answer like any other, and nobody's mistake: not for the log
        connection.node.counts.error(ErrorCode.CONFLICT)
        text = f"the name has version {result.version}" if result.version else "the name is not there"
        connection.tell(Error(code=ErrorCode.CONFLICT, message=text, id=command, version=result.version))
    elif isinstance(result, Full):
        connection.error(ErrorCode.STATE_FULL, "no room in the shared state", id=command)
    elif isinstance(result, Unknown) or result.uncertain:
        connection.error(ErrorCode.UNCERTAIN, "whether it was published is not known", id=command)
    else:
        connection.error(ErrorCode.UNAVAILABLE, "try again", id=command, retry_after=1000)
