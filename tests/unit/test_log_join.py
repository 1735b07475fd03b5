"""The log as it is stored and as it is heard are joined without a gap, whatever is lost, late or repeated."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from trainshed_client.direct_get import Message
from trainshed_client.log_reading.log_join import LogJoin

MOST = 3


def message(seq: int, subject: str = "a") -> Message:
    return Message(seq, seq, subject, b"")


def test_what_is_heard_while_pages_are_read_is_read_and_then_comes_live() -> None:
    join = LogJoin(0, whole=True, most=10)
    join.live(message(3), 0)
    join.page([message(1), message(2)])
    assert not join.end_of_pages(), "3 was heard"
    join.page([message(3)])
    assert join.end_of_pages()
    join.live(message(3), 0)
    join.live(message(4), 3)
    assert [one.seq for one in join.taken()] == [1, 2, 3, 4]
    join.live(message(6), 0)
    assert join.reading and join.taken() == []


def test_of_some_subjects_a_loss_shows_by_the_message_before() -> None:
    join = LogJoin(10, whole=False, most=MOST)
    assert join.end_of_pages()
    join.live(message(15), 7)
    join.live(message(30), 20)
    assert join.reading
    assert [one.seq for one in join.taken()] == [15]


def test_what_was_never_stored_is_not_waited_for_for_ever() -> None:
    join = LogJoin(0, whole=True, most=10)
    join.live(message(1_000_000), 0)
    assert not join.end_of_pages()
    join.forget_heard()
    assert join.end_of_pages()


class Joined(RuleBasedStateMachine):
    """A log of two subjects of which one or both are read, a lossy connection, and a reader who takes his time."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Message] = []
        self.wire: list[tuple[Message, int]] = []
        self.out: list[int] = []
        self.begun = False
        self.page_from: int | None = None
        self.again = False

    @initialize(
        whole=st.booleans(), before=st.lists(st.sampled_from("ab"), max_size=5), since=st.integers(0, 5)
    )
    def begin(self, whole: bool, before: list[str], since: int) -> None:
        self.whole = whole
        for subject in before:
            self.append(subject, heard=False)
        self.since = min(since, len(self.log))
        self.join = LogJoin(self.since, whole=whole, most=MOST)

    def wanted(self, one: Message) -> bool:
        return self.whole or one.subject == "a"

    def append(self, subject: str, *, heard: bool = True) -> None:
        one = message(len(self.log) + 1, subject)
        before = max((old.seq for old in self.log if old.subject == subject), default=0)
        self.log.append(one)
        if heard and self.wanted(one):
            self.wire.append((one, before))

    @rule(subject=st.sampled_from("ab"))
    def store(self, subject: str) -> None:
        self.append(subject)

    @precondition(lambda self: self.wire)
    @rule(twice=st.booleans())
    def deliver(self, twice: bool) -> None:
        one, before = self.wire.pop(0)
        for _ in range(1 + twice):
            self.join.live(one, before)

    @rule()
    def reconnect(self) -> None:
        self.wire.clear()
        self.join.lost()
        self.again, self.page_from = True, None

    @precondition(lambda self: self.join.reading)
    @rule(size=st.integers(1, 3))
    def read_a_page(self, size: int) -> None:
        self.out += [
            one.seq for one in self.join.taken()
        ]  # as the reader does: pages only once all is handed out
        if self.page_from is None:
            self.page_from, self.again = self.join.position, False
        page = [one for one in self.log if one.seq > self.page_from and self.wanted(one)][:size]
        if page:
            self.join.page(page)
            self.page_from = page[-1].seq
        else:
            self.page_from = None
            if not self.again:
                self.join.end_of_pages()

    @rule()
    def take(self) -> None:
        self.out += [one.seq for one in self.join.taken()]

    def teardown(self) -> None:
        if not hasattr(self, "join"):
            return
        for _ in range(100):
            if self.join.reading:
                self.read_a_page(3)
            elif self.wire:
                self.deliver(False)
            self.take()
        assert self.out == [one.seq for one in self.log if one.seq > self.since and self.wanted(one)]


TestJoined = Joined.TestCase
