"""Typed face of client_link.h: memories between netmap programs, and what their ports are told.

With native.py and its siblings the only module that touches ``fastpath._native``.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastpath._native import ffi, lib
from fastpath.native import NativeError

LANE_BYTES_MIN: int = lib.CLIENT_LINK_LANE_BYTES_MIN


def make(name: str, rings: tuple[int, int], bytes: int) -> list[int]:
    """A memory and its bells, as client_memory.h orders them; side 0's direction comes first.

    ``bytes``: of the lanes of a direction together, as far as that goes.
    """
    fds = ffi.new("int[]", lib.CLIENT_LINK_FDS)
    lanes = [max(LANE_BYTES_MIN, bytes >> (ring - 1).bit_length()) for ring in rings]
    count = lib.client_link_make(name.encode(), *rings, *lanes, fds)
    if count < 0:
        raise NativeError(-count, "", f"no memory between two programs (errno {-count})")
    return [int(fd) for fd in fds[0:count]]


def side(fds: list[int], number: int) -> list[int]:
    """Of these fds, those that side 0 or 1 gets: the memory and its own ends of the bells."""
    bells = (len(fds) - 1) // 2
    first = 1 if number == 1 else 1 + bells
    return [fds[0], *fds[first : first + bells]]


def tell(memory: int, direct: int, *, news: bool = False) -> None:
    """Tell the program of a port, by its memory's fd; see ``struct client_memory``."""
    rc = lib.client_link_tell(memory, direct, news)
    if rc < 0:
        raise NativeError(-rc, "", f"no memory of a netmap program's port (errno {-rc})")


@dataclass(frozen=True, slots=True)
class Count:
    """Of the lanes of one direction, by what their producers say."""

    frames: int
    bytes: int


def counts(memory: int) -> tuple[Count, Count]:
    """From side 0 to side 1, and back."""
    raw = ffi.new("struct client_link_count[2]")
    rc = lib.client_link_counts(memory, raw)
    if rc < 0:
        raise NativeError(-rc, "", f"no memory between two programs (errno {-rc})")
    return Count(raw[0].frames, raw[0].bytes), Count(raw[1].frames, raw[1].bytes)
