"""What a netmap program may call a port, and what it is told when it may not: netmap's rules. Pure.

``vale[ID]:PORT``: switch and port, of letters, digits and _; 15 bytes at most each.
"""

from __future__ import annotations

import errno
import re

from fastpath import native_clients as wire
from fastpath.native_clients import Request

PART_BYTES_MAX = 15
RINGS_MAX = 16
SLOTS = 1024
SLOTS_MIN = 2
SLOTS_MAX = 65536
MODES = (wire.MODE_ALL, wire.MODE_ONE)
MONITOR = wire.MONITOR_RX | wire.MONITOR_TX

_WORD = re.compile(r"[A-Za-z0-9_]*")


class RequestError(Exception):
    """``errno`` is what the program gets."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode[code])
        self.errno = code


def vale(name: str) -> tuple[str, str]:
    """Switch and port; RequestError as netmap has it."""
    if not name.startswith("vale"):
        raise RequestError(errno.ENXIO)  # an interface of the host, or nothing at all
    switch, colon, port = name.partition(":")
    for part in (switch, port):
        if not _WORD.fullmatch(part) or len(part) > PART_BYTES_MAX:
            raise RequestError(errno.ENOMEM)
    if not colon or not port:
        raise RequestError(errno.ENOMEM)
    return switch, port


def pipe_parent(name: str) -> str:
    """The switch of the port that a pipe is beside. A name that is no switch's port is one of
    nothing but its pipes, and stands for itself."""
    if name.startswith("vale"):
        return vale(name)[0]
    if not name or not _WORD.fullmatch(name) or len(name) > PART_BYTES_MAX:
        raise RequestError(errno.ENXIO)
    return name


def is_switch(bridge: str) -> bool:
    """May a program name it?"""
    return bridge.startswith("vale")


def within(wanted: int, default: int, least: int, most: int) -> int:
    """A number that a program wants, 0: the default. Netmap refuses none, it takes the nearest."""
    return min(max(wanted or default, least), most)


def check_mode(request: Request, tx_rings: int, rx_rings: int) -> None:
    """Which rings: all or one of them. There are no host rings here."""
    if request.mode not in MODES:
        raise RequestError(errno.EINVAL)
    if request.mode == wire.MODE_ONE and request.ring_id >= max(tx_rings, rx_rings):
        raise RequestError(errno.EINVAL)


def rings_of(mode: int, ring_id: int, flags: int) -> tuple[int, int]:
    """Bits of the tx and rx rings that are bound; all: every bit."""
    bits = 1 << ring_id if mode == wire.MODE_ONE else (1 << RINGS_MAX) - 1
    return (
        0 if flags & wire.RX_ONLY else bits,
        0 if flags & wire.TX_ONLY else bits,
    )
