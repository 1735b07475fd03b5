"""What a watch hands out: of each key the newest, once, whatever arrives in which order and however often."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.times import at
from trainshed_client.times import NEVER
from trainshed_client.watching.newest import PRESENT, Age, Gone, Newest, PresentMarker


@dataclasses.dataclass(frozen=True)
class Record:
    """A version of a key's record, and when it was stored; without a value the key has left."""

    key: str
    seq: int
    updated_at: str
    stored_ns: int
    gone: bool = False


def age(record: Record) -> Age:
    return record.seq, at(f"2026-11-24T{record.updated_at}:00Z") if record.updated_at else NEVER


def record(key: str = "a", seq: int = 1, updated_at: str = "", stored_ns: int = 1) -> Record:
    return Record(key, seq, updated_at, stored_ns)


def taken(newest: Newest[Record]) -> list[Record | Gone | PresentMarker]:
    out: list[Record | Gone | PresentMarker] = []
    while (one := newest.take()) is not None:
        out.append(one)
    return out


def offer(newest: Newest[Record], one: Record, *, of_present: bool = False) -> None:
    newest.arrived(one.key, one, stored_ns=one.stored_ns, of_present=of_present)


def test_the_newest_by_sequence_and_then_by_time_is_handed_out_once() -> None:
    newest: Newest[Record] = Newest(age)
    best = record(seq=5, updated_at="12:00")
    for one in (record(seq=4, updated_at="13:00"), record(seq=5, updated_at="11:00"), best):
        offer(newest, one)
    offer(newest, record(seq=5, updated_at="11:30"))
    assert taken(newest) == [best]
    offer(newest, best)
    assert taken(newest) == []
    offer(newest, record(seq=6))
    assert taken(newest) == [record(seq=6)]


def test_the_marker_comes_after_the_present_and_is_not_put_off_by_what_changes_meanwhile() -> None:
    newest: Newest[Record] = Newest(age)
    offer(newest, record("a"), of_present=True)
    offer(newest, record("b"), of_present=True)
    newest.present_over()
    assert newest.take() == record("a")
    offer(newest, record("a", 2))
    assert taken(newest) == [record("b"), PRESENT, record("a", 2)]
    newest.present_over()
    assert taken(newest) == []


def test_without_a_present_the_marker_comes_at_once() -> None:
    newest: Newest[Record] = Newest(age)
    assert newest.take() is None
    newest.present_over()
    assert taken(newest) == [PRESENT]


def test_of_the_present_only_what_changed_after_the_given_event_and_live_everything() -> None:
    newest: Newest[Record] = Newest(age, since_seq=10)
    offer(newest, record("old", 10), of_present=True)
    offer(newest, record("new", 11), of_present=True)
    offer(newest, record("live", 9))
    newest.present_over()
    assert taken(newest) == [record("new", 11), record("live", 9), PRESENT]
    offer(newest, record("old", 10), of_present=True)  # read again
    assert taken(newest) == []
    offer(newest, record("late", 3), of_present=True)  # a present that was not complete the first time
    offer(newest, record("old", 10, "12:00"))
    assert taken(newest) == [record("late", 3), record("old", 10, "12:00")]


def test_what_left_is_gone_once_and_an_older_record_that_was_on_its_way_does_not_bring_it_back() -> None:
    newest: Newest[Record] = Newest(age)
    newest.gone("unknown", stored_ns=5)
    offer(newest, record("unknown", 1, stored_ns=4), of_present=True)
    assert taken(newest) == []
    offer(newest, record("a", 1, stored_ns=5))
    newest.gone("a", stored_ns=4)  # of an earlier life
    newest.gone("a", stored_ns=6)
    newest.gone("a", stored_ns=6)
    offer(newest, record("a", 2, stored_ns=5))
    assert taken(newest) == [Gone("a")]
    offer(newest, record("a", 1, stored_ns=7))
    assert taken(newest) == [record("a", 1, stored_ns=7)]


def test_who_is_not_listed_is_gone_unless_he_was_not_asked_about() -> None:
    newest: Newest[Record] = Newest(age)
    for key in "abc":
        offer(newest, record(key))
    taken(newest)
    newest.only({"a"}, of={"a", "b", "unknown"})
    assert taken(newest) == [Gone("b")]


class Watched(RuleBasedStateMachine):
    """A bucket that changes, a connection that delivers late, twice or not at all, and who watches."""

    def __init__(self) -> None:
        super().__init__()
        self.newest: Newest[Record] = Newest(age)
        self.bucket: dict[str, Record] = {}
        self.clock = 0
        self.live: list[Record] = []
        """Published, and not delivered yet: in this order."""
        self.page: list[Record] = []
        """Of the present as it was read, on its way."""
        self.paging = False
        self.read_again = True
        self.shown: dict[str, Record | Gone] = {}
        self.present_keys: set[str] | None = None
        self.markers = 0

    @rule(key=st.sampled_from("abc"), new_event=st.booleans())
    def put(self, key: str, new_event: bool) -> None:
        self.clock += 1
        old = self.bucket.get(key)
        seq = self.clock if new_event or old is None or old.gone else old.seq
        self._store(Record(key, seq, f"{self.clock // 60:02}:{self.clock % 60:02}", self.clock))

    @rule(key=st.sampled_from("abc"))
    def leave(self, key: str) -> None:
        if key in self.bucket:
            self.clock += 1
            self._store(Record(key, 0, "", self.clock, gone=True))

    def _store(self, one: Record) -> None:
        self.bucket[one.key] = one
        self.live.append(one)

    @precondition(lambda self: self.live)
    @rule(twice=st.booleans())
    def deliver(self, twice: bool) -> None:
        one = self.live.pop(0)
        for _ in range(1 + twice):
            self._arrive(one, of_present=False)

    @rule()
    def reconnect(self) -> None:
        """What was on its way is lost; the present is read again."""
        self.live.clear()
        self.page.clear()
        self.paging, self.read_again = False, True

    @precondition(lambda self: self.read_again)
    @rule()
    def begin_to_read(self) -> None:
        self.page = list(self.bucket.values())
        self.paging, self.read_again = True, False

    @precondition(lambda self: self.page)
    @rule(data=st.data())
    def deliver_of_the_page(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.page) - 1))
        self._arrive(self.page.pop(at), of_present=True)

    @precondition(lambda self: self.paging and not self.page)
    @rule()
    def end_of_the_page(self) -> None:
        self.paging = False
        self.newest.present_over()

    def _arrive(self, one: Record, *, of_present: bool) -> None:
        if one.gone:
            self.newest.gone(one.key, stored_ns=one.stored_ns)
        else:
            offer(self.newest, one, of_present=of_present)

    @rule()
    def take(self) -> None:
        one = self.newest.take()
        if one is PRESENT:
            self.markers += 1
        elif isinstance(one, Gone):
            self.shown[one.key] = one
        elif isinstance(one, Record):
            before = self.shown.get(one.key)
            assert not isinstance(before, Record) or age(before) < age(one), "older after newer, or twice"
            self.shown[one.key] = one

    @invariant()
    def the_marker_comes_once(self) -> None:
        assert self.markers <= 1

    def teardown(self) -> None:
        """However it went: once all has arrived, what was handed out last of each is what there is."""
        if self.read_again:
            self.begin_to_read()
        while self.page:
            self._arrive(self.page.pop(), of_present=True)
        if self.paging:
            self.end_of_the_page()
        while self.live:
            self._arrive(self.live.pop(0), of_present=False)
        for _ in range(10):
            self.take()
        assert self.markers == 1
        for key, one in self.bucket.items():
            shown = self.shown.get(key)
            assert shown == one if not one.gone else shown is None or shown == Gone(key)


TestWatched = Watched.TestCase
