"""Negative controls: one planted bug each, and the simulated worlds must turn red, for the right reason.

A checker that nothing can fail proves nothing. Each bug is one that somebody could really write.
"""

from collections.abc import Callable
from functools import wraps
from math import inf
from typing import Any

import pytest

from duolink.engines.base import Standing, StoreResult, Verdict
from duolink.engines.box import Account
from duolink.engines.mailroom import Mailroom
from duolink.engines.memory import MemoryLog, MemoryRegistry
from duolink.engines.memory_mailbox import MemoryMailbox
from duolink.protocol.inbound import Inbound, Lost, Received
from duolink.protocol.link import Link
from duolink.protocol.messages import LinkMessage, Probe, Skip
from duolink.protocol.outbound import Outbound, Settled
from duolink.protocol.session import Session as ClientSession
from duolink.protocol.subscriptions import Published, Subscriptions
from duolink.server.connection import Connection
from duolink.server.delivery import Delivery
from duolink.server.links import Links
from duolink.server.mailbox import Mailboxes
from duolink.server.recovery import Recoveries
from duolink.server.registry import Session

from .history import Violation
from .test_simulation import run_block

SEEDS = 40
"""Worlds in which a planted bug must show: ≈ 0.1 s each."""

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], None]

BUGS: list[Any] = []


def planted(message: str) -> Callable[[Plant], Plant]:
    """Register a bug, and what the checker says of it."""

    def register(plant: Plant) -> Plant:
        BUGS.append(pytest.param(plant, message, id=plant.__name__))
        return plant

    return register


def around(patch: Patch, owner: type, name: str, change: Callable[..., Any]) -> None:
    """Put `change(original, self, …)` in a method's place."""
    original = getattr(owner, name)

    @wraps(original)
    def method(self: Any, *arguments: Any, **options: Any) -> Any:
        return change(original, self, *arguments, **options)

    patch.setattr(owner, name, method)


# --- the receiver ----------------------------------------------------------------------------------


@planted("repeated")
def receiver_without_dedup(patch: Patch) -> None:
    def message(original: Any, self: Inbound, message: LinkMessage, now: float, **options: Any) -> Any:
        repeat = message.seq < self.expected
        items = original(self, message, now, **options)
        return [Received(self.lane, message), *items] if repeat else items

    around(patch, Inbound, "message", message)


@planted("a silent hole")
def receiver_that_does_not_wait_for_holes(patch: Patch) -> None:
    def message(original: Any, self: Inbound, message: LinkMessage, now: float, **options: Any) -> Any:
        self.expected = max(self.expected, message.seq)
        return original(self, message, now, **options)

    around(patch, Inbound, "message", message)


@planted("called delivered, but nobody finished")
def receiver_that_acknowledges_what_it_only_holds(patch: Patch) -> None:
    def message(original: Any, self: Inbound, message: LinkMessage, now: float, **options: Any) -> Any:
        items = original(self, message, now, **options)
        self.finished = max(self.finished, self.expected - 1)
        return items

    around(patch, Inbound, "message", message)


@planted("a silent hole|repeated or reordered")
def skip_handed_over_out_of_order(patch: Patch) -> None:
    def skip(original: Any, self: Inbound, skip: Any, now: float, **options: Any) -> Any:
        if skip.seq > self.expected:
            return [Lost(self.lane, self.run, skip.seq, skip.last, skip.reason)]
        return original(self, skip, now, **options)

    around(patch, Inbound, "skip", skip)


@planted("a silent hole")
def losses_kept_from_the_application(patch: Patch) -> None:
    def rebase(original: Any, self: Inbound, base: int) -> Any:
        return [item for item in original(self, base) if type(item) is Received]

    around(patch, Inbound, "_rebase", rebase)


# --- the sender --------------------------------------------------------------------------------------


@planted("called delivered, but nobody finished")
def sender_that_takes_wait_for_delivered(patch: Patch) -> None:
    def dropped(original: Any, self: Outbound, first: int, last: int) -> Any:
        settled = []
        for entry in self.between(first, last):
            if not entry.told:
                entry.told, entry.copies = True, 0
                settled.append(Settled(entry))
        self._advance()
        return settled

    around(patch, Outbound, "dropped", dropped)


@planted("called delivered, but nobody finished")
def base_advanced_too_early(patch: Patch) -> None:
    original: Any = vars(Outbound)["base"].fget

    def base(self: Outbound) -> int:
        true: int = original(self)
        return min(true + 1, self.next_seq - 1) if self.unsettled else true

    patch.setattr(Outbound, "base", property(base))


@planted("called lost for certain, but delivered|delivered after it was lost for certain")
def sender_that_forgets_its_copies(patch: Patch) -> None:
    def skip(original: Any, self: Outbound, entry: Any, reason: Any) -> Any:
        entry.copies = 0
        return original(self, entry, reason)

    around(patch, Outbound, "_skip", skip)


@planted("called lost for certain, but delivered|delivered after it was lost for certain")
def sender_that_believes_any_process(patch: Patch) -> None:
    patch.setattr("duolink.protocol.outbound._unseen", lambda entry, ack, reason: True)


@planted("never settled")
def acknowledgements_lost_for_ever(patch: Patch) -> None:
    patch.setattr(Outbound, "acknowledge", lambda self, ack: [])
    patch.setattr(Outbound, "acknowledge_cursor", lambda self, run, seq: [])


@planted("never settled")
def sender_that_never_asks_nor_sends_again(patch: Patch) -> None:
    def probe(self: Link, sending: Any, ways: Any, now: float) -> None:
        sending.probe_at = inf

    def poll(self: Inbound, now: float) -> bool:
        self.pull_at = inf
        return now >= self.ack_at

    patch.setattr(Link, "_probe", probe)
    patch.setattr(Inbound, "poll", poll)


# --- the node ----------------------------------------------------------------------------------------


@planted("never settled")
def node_that_goes_on_to_a_fenced_connection(patch: Patch) -> None:
    def close_stage(original: Any, self: Connection) -> None:
        original(self)
        self.full = False  # else that alone would have ways found anew

    def open_way(original: Any, self: Links, session: Session, flow: Any) -> Any:
        return flow.target or original(self, session, flow)

    around(patch, Connection, "_close_stage", close_stage)
    around(patch, Links, "_open", open_way)
    patch.setattr(Links, "_close_ways", lambda self, party: None)


@planted("called lost for certain, but delivered|delivered after it was lost for certain")
def node_that_says_wait_and_hands_over(patch: Patch) -> None:
    def forward(original: Any, self: Links, connection: Any, message: Any, target: Any) -> None:
        to, sender = message.to, message.sender
        original(self, connection, message, target)
        message.to, message.sender = to, sender
        self._answer_wait(connection, message, message.seq, getattr(message, "last", message.seq))

    around(patch, Links, "_forward", forward)


@planted("misattributed|repeated|called delivered, but nobody finished|never settled")
def node_that_issues_a_run_twice(patch: Patch) -> None:
    def issue(
        original: Any, self: MemoryRegistry, client_id: str, user: str, at_least: int, done: Any
    ) -> None:
        done(1)

    around(patch, MemoryRegistry, "issue_run", issue)


@planted("never settled")
def node_that_wakes_nobody(patch: Patch) -> None:
    patch.setattr(Links, "drained", lambda self, party: None)
    patch.setattr(Link, "_knock", lambda self, sending, now: None)


# --- mailboxes ---------------------------------------------------------------------------------------


@planted("stored, and gone|never settled|silent hole")
def node_that_says_stored_before_the_disk_has_it(patch: Patch) -> None:
    def store(original: Any, self: MemoryMailbox, stream: Any, row: Any, base: int, done: Any) -> None:
        done(StoreResult(Verdict.KEPT, Standing(row.last)))
        if row.seq % 3:  # and then the power fails
            original(self, stream, row, base, lambda result: None)

    around(patch, MemoryMailbox, "store", store)


@planted("stored, and gone|called delivered, but nobody finished")
def mailbox_that_evicts_the_oldest(patch: Patch) -> None:
    def store(original: Any, self: Mailroom, stream: Any, row: Any, base: int, now: int) -> Any:
        return original(self, stream, row, max(base, row.seq), now)

    around(patch, Mailroom, "store", store)


@planted("reordered: run|stored, and gone")
def delivery_that_does_not_heed_the_order_of_runs(patch: Patch) -> None:
    def advance_runs(original: Any, self: Delivery, sender: Any) -> None:
        for backlog in reversed(list(self._behind.get(sender, ()))):
            self._advance(backlog)

    around(patch, Delivery, "_advance_runs", advance_runs)
    patch.setattr(Delivery, "may_begin", lambda self, stream: self.listed)
    patch.setattr(Delivery, "clear", lambda self, stream: self.listed)
    patch.setattr(Mailboxes, "clear", lambda self, session, stream: True)


@planted("called delivered, but nobody finished|called lost for certain, but delivered")
def mailbox_that_forgets_what_was_lost(patch: Patch) -> None:
    patch.setattr(Account, "_remember", lambda self, lost, after, seq, by: None)


@planted("called delivered, but nobody finished")
def sender_that_takes_stored_for_delivered(patch: Patch) -> None:
    def store(original: Any, self: Outbound, seq: int) -> Any:
        original(self, seq)
        return self._settle(min(seq, self.next_seq - 1), None)

    around(patch, Outbound, "store", store)


@planted("misattributed|repeated|silent hole")
def receiver_that_mixes_its_own_and_its_users_numbers(patch: Patch) -> None:
    def to_link(original: Any, self: Any, peer: str, message: Any, now: float) -> None:
        if type(message) in (LinkMessage, Skip, Probe):
            message.user = ""
        original(self, peer, message, now)

    around(patch, ClientSession, "_to_link", to_link)


# --- channels ----------------------------------------------------------------------------------------


@planted("recovered from")
def recovery_that_skips_one(patch: Patch) -> None:
    def announce(original: Any, self: Recoveries, course: Any, gap: Any) -> None:
        course.reached += course.reached < course.subscription.channel.offset
        original(self, course, gap)

    around(patch, Recoveries, "_announce", announce)


@planted("got (news|chat)")
def fan_out_that_drops_some(patch: Patch) -> None:
    """The server forgets a publication, and the client does not look at the numbers."""

    def publication(original: Any, self: Subscriptions, publication: Any) -> Any:
        subscription = self._wanted.get(publication.channel)
        if subscription is None or not subscription.joined or publication.offset % 7 == 0:
            return None
        subscription.offset = publication.offset
        return Published(publication.channel, publication)

    around(patch, Subscriptions, "_publication", publication)


@planted("lost its place")
def gap_kept_from_the_client(patch: Patch) -> None:
    def announce(original: Any, self: Recoveries, course: Any, gap: Any) -> None:
        original(self, course, None if gap is not None and gap.reason == "epoch" else gap)

    def joined(original: Any, self: Subscriptions, message: Any) -> Any:
        event = original(self, message)
        return event._replace(recovered=False) if event is not None else None

    around(patch, Recoveries, "_announce", announce)
    around(patch, Subscriptions, "_subscribed", joined)


@planted("published twice")
def publish_keys_forgotten(patch: Patch) -> None:
    def append(original: Any, self: MemoryLog, channel: str, draft: Any, retention: Any) -> Any:
        return original(self, channel, draft._replace(key="", age=0), retention)

    around(patch, MemoryLog, "_append", append)


@planted(" and ")
def epoch_that_outlives_its_log(patch: Patch) -> None:
    def init(original: Any, self: MemoryLog, clock: Any, new_epoch: Any, schedule: Any) -> None:
        original(self, clock, lambda: "e", schedule)

    around(patch, MemoryLog, "__init__", init)


@planted("called delivered, but nobody finished with it")
def node_that_credits_a_reloaded_page_with_what_the_one_before_had_sent(patch: Patch) -> None:
    patch.setattr(Links, "renumbered", lambda self, session: None)


# --- the controls --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("plant", "message"), BUGS)
def test_a_planted_bug_turns_the_worlds_red(plant: Plant, message: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    with pytest.raises(Violation, match=message):
        run_block(0, SEEDS)


def test_a_secret_that_goes_stale_resumes_nothing(monkeypatch: Patch) -> None:
    """No promise is broken, for a new session is as good: what turns red is the tally of hard cases."""

    def rotate(original: Any, self: Session, secret: str) -> None:
        original(self, "stale" if self.attachment > 1 else "staler")

    around(monkeypatch, Session, "rotate", rotate)
    tally = run_block(0, 3)
    assert tally["new session"] and not tally["resumed"]
