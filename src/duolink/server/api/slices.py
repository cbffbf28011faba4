"""Long looks, a slice at a time: between two of them the loop serves everybody else."""

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, TypeVar

Item = TypeVar("Item")

SLICE: Final = 250
"""Things made of one look without a pause, some 2 µs each."""

SORTED: Final = 2000
"""Names sorted without a pause, about a millisecond."""


async def smallest(
    items: Iterable[Item], limit: int, name: Callable[[Item], str], after: str = ""
) -> list[Item]:
    """Return the first `limit` of some items in the order of their names, behind one name."""
    rest = iter(list(items))
    best: list[Item] = []
    while part := list(islice(rest, SORTED)):
        best = sorted([*best, *(item for item in part if name(item) > after)], key=name)[:limit]
        await asyncio.sleep(0)
    return best
