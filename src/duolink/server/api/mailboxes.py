"""Mailboxes: whose are the deepest, and all of them by name."""

from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from duolink.engines.base import Holding
from duolink.server import answers
from duolink.server.api import documents as doc
from duolink.server.api.arguments import Ask
from duolink.server.api.backend import Backend, ask

DEEPEST: Final = 100
"""Mailboxes told in the order of their depth, which changes from page to page: there is one page."""


class Mailboxes:
    """Answers `/api/mailboxes`."""

    def __init__(self, backend: Backend) -> None:
        self._mailboxes = backend.node.mailboxes

    async def page(self, asked: Ask) -> Response:
        """A page."""
        limit, after = asked.query["limit"], asked.query["after"]
        engine = self._mailboxes.engine
        if asked.query["order"] == "depth":
            if after:
                raise HTTPException(400, "after: only with order=name")
            found: tuple[Holding, ...] = await ask(engine.deepest, min(limit, DEEPEST))
            return answers.json(doc.Mailboxes(items=[_item(each) for each in found], next=None))
        found = await ask(engine.listing, after, limit + 1)
        page = found[:limit]
        more = page[-1].receiver if len(found) > limit else None
        return answers.json(doc.Mailboxes(items=[_item(each) for each in page], next=more))


def _item(holding: Holding) -> doc.MailboxItem:
    return doc.MailboxItem(
        client=holding.receiver,
        messages=holding.messages,
        bytes=holding.size,
        oldest=holding.oldest or None,
        senders=holding.senders,
    )
