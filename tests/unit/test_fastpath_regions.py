"""The state memory: what a writer leaves behind when it is killed at any byte."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath import regions
from fastpath.regions import (
    Kept,
    Record,
    State,
    StateStore,
    StateTooLarge,
    make_region,
    replay,
)
from tests.support.fastpath import bridge, port, rule, ruleset

SIZE = 1 << 16


@pytest.fixture
def region() -> Iterator[int]:
    fd = make_region("test", SIZE)
    yield fd
    os.close(fd)


def state(revision: int) -> State:
    return State(
        revision,
        bytes([revision % 256]) * 16,
        revision * 2,
        (bridge("br0", mtu=revision), port("p1", "memory", "br0")),
        {"br0": 0},
        {"p1": revision},
    )


def test_an_empty_region_is_an_empty_state(region: int) -> None:
    assert StateStore(region).load() == State()


def test_another_process_finds_the_newest(region: int) -> None:
    store = StateStore(region)
    for revision in range(1, 6):
        store.save(state(revision))
        assert StateStore(region).load() == state(revision)


def test_the_next_writer_goes_on_behind_the_last(region: int) -> None:
    StateStore(region).save(state(1))
    second = StateStore(region)
    second.load()
    second.save(state(2))
    second.save(state(3))
    assert StateStore(region).load() == state(3)


@given(st.integers(0, SIZE), st.booleans())
@settings(max_examples=200)
def test_a_writer_killed_anywhere_leaves_the_old_state_or_the_new(at: int, backwards: bool) -> None:
    fd = make_region("test", SIZE)
    try:
        store = StateStore(fd)
        store.save(state(1))
        store.save(state(2))
        with mmap.mmap(fd, SIZE) as view:
            before = bytes(view)
            store.save(state(3))
            after = bytes(view)
            # Stores may become visible in any order up to the point of death.
            view[:] = before[:at] + after[at:] if backwards else after[:at] + before[at:]
        assert StateStore(fd).load() in (state(2), state(3))
    finally:
        os.close(fd)


def test_too_large_a_state_leaves_the_old_one(region: int) -> None:
    store = StateStore(region)
    store.save(state(1))
    with pytest.raises(StateTooLarge):
        store.save(State(2, port_slots={str(n): n for n in range(SIZE // 4)}))
    assert StateStore(region).load() == state(1)


def test_a_region_neither_shrinks_nor_grows(region: int) -> None:
    for size in (SIZE - 4096, SIZE + 4096):
        with pytest.raises(PermissionError):
            os.ftruncate(region, size)


# --- the journal --------------------------------------------------------------------------------


def change(revision: int) -> Record:
    """Puts a rule in, and from the fourth on takes an old one out."""
    return Record(
        revision,
        bytes([revision % 256]) * 16,
        revision * 2,
        upserts=(rule("fw", f"r{revision}"), ruleset("fw", default_drop=revision % 2 == 0)),
        deletes=(f"rule/fw/r{revision - 3}",) if revision > 3 else (),
        port_slots={"p1": revision} if revision % 2 else None,
        kept=(Kept(ruleset("fw"), (rule("fw", f"r{revision}"),)),) if revision == 2 else (),
        let_go=("fw",) if revision == 5 else (),
    )


def after(revision: int, first: int = 3) -> State:
    return replay(state(first), map(change, range(first + 1, revision + 1)))


def test_changes_are_found_behind_what_they_change(region: int) -> None:
    store = StateStore(region)
    store.save(state(3))
    for revision in range(4, 12):
        store.append(change(revision))
        assert StateStore(region).load() == after(revision)
    assert {obj.key for obj in after(11).objects if obj.key.startswith("rule/")} == {
        f"rule/fw/r{n}" for n in (9, 10, 11)
    }


def test_a_set_that_is_kept_stays_until_it_is_let_go(region: int) -> None:
    store = StateStore(region)
    for revision in range(1, 6):
        store.append(change(revision))
        assert len(StateStore(region).load().kept) == (1 if 2 <= revision < 5 else 0)


@given(st.integers(0, SIZE), st.booleans(), st.booleans())
@settings(max_examples=200)
def test_a_change_that_is_torn_is_none(at: int, backwards: bool, other_half: bool) -> None:
    fd = make_region("test", SIZE)
    try:
        store = StateStore(fd)
        if other_half:
            store.save(state(1))
            for revision in range(2, 9):
                store.append(change(revision))  # left behind where the next half is not
        store.save(state(3))
        store.append(change(4))
        with mmap.mmap(fd, SIZE) as view:
            before = bytes(view)
            store.append(change(5))
            written = bytes(view)
            view[:] = written[:at] + before[at:] if not backwards else before[:at] + written[at:]
        successor = StateStore(fd)
        found = successor.load()
        assert found in (after(4), after(5))
        # And goes on behind it.
        successor.append(change(6))
        assert StateStore(fd).load() == replay(found, [change(6)])
    finally:
        os.close(fd)


def test_a_half_is_begun_aside_while_changes_go_on(
    region: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "JOURNAL_BYTES", 2000)
    monkeypatch.setattr(regions, "PORTION", 1)
    store = StateStore(region)
    store.save(state(3))
    revision, begun = 3, 0
    while begun < 5:
        revision += 1
        store.append(change(revision))
        if store.crowded:
            store.begin(StateStore(region).load())
            begun += 1
        # A writer that dies here leaves everything, however far the half aside is.
        assert StateStore(region).load() == after(revision)
        store.step()
    while store.step():
        pass
    assert not store.busy
    assert StateStore(region).load() == after(revision)


def test_a_half_given_up_leaves_nothing_behind_the_next(region: int) -> None:
    store = StateStore(region)
    store.save(state(3))
    for revision in range(4, 30):
        store.append(change(revision))
    store.begin(after(29))
    for _ in range(2):
        store.step()
    successor = StateStore(region)
    successor.load()
    successor.save(state(50))
    assert StateStore(region).load() == state(50)


def test_a_journal_without_room_leaves_what_was(region: int) -> None:
    store = StateStore(region)
    store.save(state(3))
    revision = 3
    while fits(store, change(revision + 1)):
        revision += 1
    assert StateStore(region).load() == after(revision)
    store.save(after(revision))
    store.append(change(revision + 1))
    assert StateStore(region).load() == after(revision + 1)


def fits(store: StateStore, record: Record) -> bool:
    try:
        store.append(record)
    except StateTooLarge:
        return False
    return True
