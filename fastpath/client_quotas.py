"""What the programs of one user may have of the switch's ports, bridges and memory. Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping

from fastpath import client_names as names
from fastpath.client_names import RequestError
from fastpath.client_sessions import Session
from fastpath.native_clients import Request

LANES_BYTES = (1 << 20, 4 << 20)  # of a ring to the switch and from it: client_memory.h
SHARED = ("port", "pipe")  # whose later sessions cost nothing
MONITORS_PART = 4  # of all bridges: each monitor of a port has one
MONITORS_MIN = 2


def memory(tx_rings: int, rx_rings: int) -> int:
    """Bytes, as if it were a port's."""
    return tx_rings * LANES_BYTES[0] + rx_rings * LANES_BYTES[1]


def check(
    limits: Mapping[str, int], sessions: Iterable[Session], kind: str, request: Request
) -> None:
    """``sessions``: what the user has; RequestError: one more of ``kind`` is too much."""
    places = {
        (s.state.kind, s.state.name if s.state.kind in SHARED else s.id): s.state for s in sessions
    }
    if kind in SHARED and (kind, request.name) in places:
        return
    monitors = sum(state.kind == "monitor" for state in places.values())
    most = max(limits["bridges_max"] // MONITORS_PART, MONITORS_MIN)
    wanted = memory(
        names.within(request.tx_rings, 1, 1, names.RINGS_MAX),
        names.within(request.rx_rings, 1, 1, names.RINGS_MAX),
    )
    used = sum(memory(state.tx_rings, state.rx_rings) for state in places.values())
    if (
        len(places) >= limits["netmap_ports_user_max"]
        or (kind == "monitor" and monitors >= most)
        or used + wanted > limits["netmap_memory_user_max"]
    ):
        raise RequestError(errno.ENOMEM)
