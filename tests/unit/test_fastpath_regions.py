"""The state memory: what a writer leaves behind when it is killed at any byte."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.regions import State, StateStore, StateTooLarge, make_region
from tests.support.fastpath import bridge, port

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
