"""A bounded list of what ended as lost."""

from collections.abc import Sequence

from duolink.protocol import limits
from duolink.protocol.codes import LossReason
from duolink.protocol.messages import LostRange


def bounded(lost: Sequence[LostRange]) -> list[LostRange]:
    """Return `lost`, in order of its numbers, in at most `MAX_LOST` ranges.

    The oldest ones too many become one, with what lies between them: `unclear`, lost or delivered. To leave
    them out instead would call all of them delivered.
    """
    spare = len(lost) - limits.MAX_LOST
    if spare <= 0:
        return list(lost)
    oldest = lost[: spare + 1]
    unclear = LostRange(oldest[0].first, max(each.last for each in oldest), LossReason.UNCLEAR)
    return [unclear, *lost[spare + 1 :]]
