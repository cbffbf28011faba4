"""kill -9 of anybody, in any combination, under load, with a server that has a database.

Several senders write to a receiver that is there, to one that is away, and to a user with two devices, until
the last kill is over; some of the commands have a journal. Each round has a seed, which chooses who is
killed, when, together with whom, and who stays away for how long. A round replays with
`pytest -m torture -k "durable and [SEED]"`, as far as the machine's own timing allows.
"""

import asyncio
import itertools
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random

import pytest

from duolink import Lost

from .clients import Mortal, Reader, Teller
from .process import TIMEOUT, Command, Listener, Sender, Server
from .promise import Deaths, Life, Line, Process, Sent, Violation, check

ROUNDS = int(os.environ.get("ROUNDS", "50"))
PAD = "x" * 100
BURST = 1000
"""Most lines that processes are given, or print, between two kills."""

MAX_SERVER_KILLS = 2
"""In one round: from the third on the commands wait for many seconds before they try again."""

AHEAD = 400
"""Numbers that clients of this process may be ahead of the processes: more than a window."""


class Actor(ABC):
    """Somebody who is killed and comes back: a process of its own, or a client in this one."""

    def __init__(self, play: "Play", name: str, own: bool) -> None:
        self.play, self.name, self.own = play, name, own
        self.journal = play.directory / f"{name}.journal" if own and play.random.random() < 0.5 else None
        self.present: Command | Mortal | None = None

    async def come(self) -> None:
        """Begin a life."""
        self.present = self.make()
        if isinstance(self.present, Command) and self.journal is not None:
            self.present.words = (*self.present.words, "--journal", str(self.journal))
        await self.present.start(self.play.server.port)

    async def die(self) -> None:
        """End it, by SIGKILL or as if."""
        present, self.present = self.present, None
        if present is not None:
            await present.kill()

    @abstractmethod
    def make(self) -> Command | Mortal:
        """Return who is to begin a life."""


class Receiver(Actor):
    """Who takes what is sent to `address`: its own name, or its user."""

    def __init__(self, play: "Play", name: str, own: bool, address: str = "") -> None:
        super().__init__(play, name, own)
        self.address = address or name
        self.lives: list[Listener | Reader] = []
        self.done: list[dict[Life, int]] = [{}]
        """For each life, and the one to come: what it must not see again."""
        self._reached: dict[Life, int] = {}
        self._looked_at = 0

    def make(self) -> Listener | Reader:
        life = (Listener if self.own else Reader)(lambda: self.play.moved(self.own), self.name)
        self.lives.append(life)
        return life

    async def die(self) -> None:
        if self.present is None:
            return
        done = self.play.deaths.receiver(self.play.sent_to(self.address))
        await super().die()
        self.misses()
        self._looked_at = 0
        if self.journal is not None:
            done = self._journaled()
        elif self.address[0] == "@":
            done = {}  # to the sender a user has taken what one of his clients has
        self.done.append(done)

    def _journaled(self) -> dict[Life, int]:
        """What the journal says is done. It names the newest life of a sender, or the one before."""
        assert self.journal is not None
        done: dict[Life, int] = {}
        if not self._reached:
            return done  # it may not have got so far as to make a journal
        with closing(sqlite3.connect(self.journal, isolation_level=None)) as journal:
            cursors = journal.execute(
                "SELECT peer, finished FROM cursor WHERE user = ?",
                (self.address if self.address[0] == "@" else "",),
            )
            for sender, finished in cursors:
                lives = sorted(run for run in self._reached if run.sender == sender)[-2:]
                if lives and (len(lives) == 1 or finished != self._reached[lives[0]]):
                    done[lives[-1]] = min(finished, self._reached[lives[-1]])
        return done

    def processes(self) -> list[Process]:
        """What its lives took."""
        return [
            Process(map(line_of, life.printed), done, life.cut_off)
            for life, done in zip(self.lives, self.done, strict=True)
        ]

    def misses(self) -> bool:
        """Whether something has not been taken yet that was called safe."""
        printed = self.lives[-1].printed if self.lives else []
        for index in range(self._looked_at, len(printed)):
            line = line_of(printed[index])
            run = Life(line.sender, line.life)
            self._reached[run] = max(self._reached.get(run, 0), line.number)
        self._looked_at = len(printed)
        return any(
            self._reached.get(run, 0) < sent.safe for run, sent in self.play.sent_to(self.address).items()
        )


class Source(Actor):
    """Who sends to an address, without an end until the play is over."""

    def __init__(self, play: "Play", name: str, own: bool, to: str) -> None:
        super().__init__(play, name, own)
        self.to = to
        self.life = 0

    def make(self) -> Sender | Teller:
        if self.journal is None or not self.life:  # with a journal, the next process goes on with the life
            self.life += 1
            self.sent = self.play.sent_to(self.to)[Life(self.name, self.life)] = Sent()
        if self.own:
            return Sender(self.life, self._lines(), self.name, self.to)
        pace = partial(self.play.pace, self.play.progress)
        return Teller(self._lines(), pace, self.name, self.to, self._safe, self.sent.delivered_up_to)

    def _lines(self) -> Iterator[str]:
        sent, life = self.sent, self.life
        for number in itertools.count(1):
            if number > sent.given:
                if self.play.over:
                    return
                sent.given = number
                self.play.moved(self.own)
            yield f"{life} {number} {PAD}"

    def _safe(self, number: int) -> None:
        self.sent.safe = number

    async def finish(self) -> None:
        """Wait until all is safe, as it is told."""
        if isinstance(self.present, Sender):
            report = await self.present.report()
            safe = report["delivered"] + report["stored"]
            if report["lost"] or report.get("kept") or (self.journal is None and safe != self.sent.given):
                raise Violation(f"{self.name} was given {self.sent.given} lines, and says {report}")
            self.sent.safe = self.sent.given
        elif isinstance(self.present, Teller):
            await self.present.all_safe()


def line_of(printed: dict[str, object]) -> Line:
    life, number, pad = str(printed["data"]).split()
    assert pad == PAD
    return Line(str(printed["from"]), int(life), int(number), int(str(printed["seq"])))


class Play:
    """One round."""

    def __init__(
        self, seed: int, directory: Path, forgetful: bool = False, patience: float = TIMEOUT
    ) -> None:
        self.random = random = Random(seed)
        self.directory = directory
        self.server = Server(directory / "duolink.db")
        self.forgetful, self.patience = forgetful, patience
        self.over = False
        self.deaths = Deaths()
        self.sent: dict[str, dict[Life, Sent]] = {}
        self.progress = 0
        self.server_kills = 0
        self._moved = asyncio.Event()
        own = random.sample((True, True, False, False), 4)
        self.receivers = [
            Receiver(self, "bob", own[0]),
            Receiver(self, "carol", own[1]),
            Receiver(self, "dave:phone", own[2], "@dave"),
            Receiver(self, "dave:laptop", own[3], "@dave"),
        ]
        pairs = [("alice", "bob"), ("frank", "carol"), ("erin", "@dave")]
        own_sources = random.sample((True, True, False), 3)
        self.sources = [
            Source(self, name, own, to) for (name, to), own in zip(pairs, own_sources, strict=True)
        ]
        self.sources += [Source(self, "gina", False, random.choice(("bob", "carol", "@dave")))]

    def sent_to(self, address: str) -> dict[Life, Sent]:
        """What was sent to an address, by each life of each sender."""
        return self.sent.setdefault(address, {})

    def moved(self, own: bool) -> None:
        """Somebody has taken a line: to send, or one that was sent. Clients of this process do not count,
        since they have taken thousands before others have begun."""
        self.progress += own or self.over
        self._moved.set()
        self._moved.clear()

    async def run(self) -> None:
        """Play, and check. Raises `Violation`."""
        try:
            await self._play()
        finally:
            self.over = True
            self.server.kill()
            actors = (*self.sources, *self.receivers)
            ends = await asyncio.gather(*(actor.die() for actor in actors), return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end

    async def _play(self) -> None:
        await self.server.start()
        bob, _, phone, laptop = self.receivers
        for device in (phone, laptop):  # a user's mailbox keeps for those who were here once
            visitor = Mortal(device.name)
            await visitor.start(self.server.port)
            await visitor.stop()
        await asyncio.gather(*(actor.come() for actor in (bob, phone, *self.sources)))
        for _ in range(self.random.randint(2, 3)):
            await self._until(self.progress + self.random.randrange(1, BURST))
            await self._kill()
        await self._until(self.progress + BURST)
        await self._end()

    async def pace(self, since: int, number: int) -> None:
        """Wait until a client of this process, which began at that progress, may send as many numbers."""
        while number > AHEAD + self.progress - since and not self.over:
            await self._moved.wait()

    async def _until(self, progress: int) -> None:
        async with asyncio.timeout(self.patience):
            while self.progress < progress:
                await self._moved.wait()

    async def _kill(self) -> None:
        """Kill some of those who are here, all at once, and have some of those who are not here come."""
        random = self.random
        actors: list[Actor] = [*self.receivers, *self.sources]
        victims = [actor for actor in actors if actor.present is not None and random.random() < 0.35]
        kill_server = self.server_kills < MAX_SERVER_KILLS and (not victims or random.random() < 0.6)
        self.server_kills += kill_server
        for victim in victims:
            if random.random() < 0.5:
                await victim.die()
        if kill_server:
            self.server.kill()
            for victim in victims:
                await victim.die()
            self.deaths.server()
            for receiver in self.receivers:
                if receiver.present is None and receiver.journal is None:
                    self.deaths.forget(receiver.done[-1], self.sent_to(receiver.address))
            if self.forgetful:
                with closing(sqlite3.connect(str(self.server.database), isolation_level=None)) as database:
                    database.execute("DELETE FROM mail")
        for victim in victims:
            await victim.die()
        comers = [
            actor
            for actor in actors
            if actor.present is None and (isinstance(actor, Source) or random.random() < 0.6)
        ]
        random.shuffle(comers)
        if kill_server:  # before the comers: a first connect gives up after some seconds
            await self.server.start()
        await asyncio.gather(*(actor.come() for actor in comers))

    async def _end(self) -> None:
        """Nobody sends any more; everybody is there, until everything has arrived."""
        self.over = True
        self.moved(False)
        await asyncio.gather(*(receiver.come() for receiver in self.receivers if receiver.present is None))
        try:
            async with asyncio.timeout(self.patience):
                await asyncio.gather(*(source.finish() for source in self.sources))
            while any(receiver.misses() for receiver in self.receivers):
                await self._until(self.progress + 1)
            tellers = [source.present for source in self.sources if isinstance(source.present, Teller)]
            async with asyncio.timeout(self.patience):
                await asyncio.gather(*(teller.all_delivered() for teller in tellers))
        except TimeoutError:
            for actor in (*self.receivers, *self.sources):
                if isinstance(actor.present, Mortal):
                    actor.present.check()
            self._check()  # it says what is missing, if anything is
            raise
        for receiver in self.receivers:
            assert isinstance(receiver.present, Listener | Reader)
            await receiver.present.stop()
        self._check()

    def _check(self) -> None:
        for receiver in self.receivers:
            try:
                check(receiver.name, receiver.processes(), self.sent_to(receiver.address))
            except Violation as violation:
                for life in receiver.lives:
                    if isinstance(life, Listener) and life.said.done():
                        violation.add_note(f"{receiver.name} said: {life.said.result().decode()}")
                raise


def play_round(play: Play) -> None:
    asyncio.run(asyncio.wait_for(play.run(), 4 * TIMEOUT))


@pytest.mark.parametrize("seed", range(10))
def test_what_is_safe_survives_kills_of_anybody(seed: int, tmp_path: Path) -> None:
    play_round(Play(seed, tmp_path))


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(2000, 2000 + 4 * ROUNDS))
def test_what_is_safe_survives_many_kills_of_anybody_durable(seed: int, tmp_path: Path) -> None:
    play_round(Play(seed, tmp_path))


def test_a_mailbox_that_forgets_is_noticed(tmp_path: Path) -> None:
    # Or a reader that is ended says so first, or a sender: they were told what is gone.
    told = (Violation, AssertionError, Lost)
    with pytest.raises(told, match=r": lost|a hole|: MessagesLost|^lost: "):
        play_round(Play(4, tmp_path, forgetful=True, patience=2.0))


RUN = Life("alice", 1)
NEXT = Life("alice", 2)


def lines(first: int, last: int, life: int = 1) -> list[Line]:
    return [Line("alice", life, number, number) for number in range(first, last + 1)]


def test_the_checker_accepts() -> None:
    sent = {RUN: Sent(10, 8), NEXT: Sent(5, 5)}
    cut_off = [("alice", 9, 9)]  # not safe, and told
    check("bob", [Process(lines(1, 8) + lines(10, 10) + lines(1, 5, 2), cut_off=cut_off)], sent)
    check("bob", [Process(lines(1, 10) + lines(1, 5, 2))], sent)
    check("bob", [Process(lines(1, 6)), Process(), Process(lines(4, 8) + lines(1, 5, 2))], sent)
    check("bob", [Process(lines(1, 6)), Process(lines(7, 9) + lines(1, 5, 2), {RUN: 6})], sent)


@pytest.mark.parametrize(
    ("lives", "what"),
    [
        ([lines(1, 7)], "lost"),
        ([lines(1, 7), []], "lost"),
        ([lines(1, 11)], "invented"),
        ([lines(1, 4) + [Line("alice", 1, 6, 5)]], "invented"),
        ([lines(1, 4) + [Line("mallory", 1, 1, 1)]], "invented"),
        ([lines(1, 5) + lines(5, 10)], "repeated"),
        ([lines(1, 5) + lines(7, 7) + lines(6, 6)], "a hole"),
        ([lines(2, 10)], "a hole"),
        ([lines(1, 5), lines(7, 10)], "a hole"),
        ([lines(1, 9) + lines(1, 2, 2) + lines(4, 5, 2)], "a hole"),
        ([lines(1, 5, 2) + lines(1, 10)], "reordered"),
        ([lines(1, 10), lines(2, 3)], "known as delivered"),
    ],
)
def test_the_checker_refuses(lives: list[list[Line]], what: str) -> None:
    processes = [Process(taken, {RUN: 2}) if index else Process(taken) for index, taken in enumerate(lives)]
    with pytest.raises(Violation, match=what):
        check("bob", processes, {RUN: Sent(10, 8), NEXT: Sent(5, 0)})


def test_the_checker_refuses_what_was_cut_off_although_safe_or_of_a_sender_that_lives() -> None:
    cut_off = [("alice", 3, 3)]
    for broken in (
        lines(1, 2) + lines(4, 10) + lines(1, 5, 2),
        lines(1, 9) + lines(1, 2, 2) + lines(4, 5, 2),
    ):
        with pytest.raises(Violation, match="a hole"):
            check("bob", [Process(broken, cut_off=cut_off)], {RUN: Sent(10, 8), NEXT: Sent(5, 0)})


def test_what_a_server_has_not_written_when_it_is_killed_may_come_again() -> None:
    deaths = Deaths(lambda: now)
    sent = {RUN: Sent(10)}
    sent[RUN].delivered_up_to(3, 100.0)
    sent[RUN].delivered_up_to(7, 110.0)
    now = 110.5
    assert deaths.receiver(sent) == {RUN: 7}
    away = deaths.receiver(sent)
    deaths.server()
    deaths.forget(away, sent)
    assert away == {RUN: 3}
    assert deaths.receiver(sent) == {RUN: 3}, "nor has the new one heard of it"
    now = 130.0
    assert deaths.receiver(sent) == {RUN: 7}
