"""Registrations of nothing (NR_REG_NULL): a program's rings and extra buffers in a region that it
names, with no port. The switch keeps the region's fd for others of the user, and the session's
number, by which they see that it lasts.
"""

from __future__ import annotations

import errno

import msgspec

from fastpath import client_names as names
from fastpath.channel import close_all
from fastpath.client_names import RequestError
from fastpath.client_sessions import Reading, Session
from fastpath.native_clients import Answer, Request


class Nulls:
    """The kind of sessions that have no port (``Kind`` of client_sessions.py)."""

    name = "null"

    def open(self, session: Session, request: Request) -> None:
        """As many rings and slots as wanted, none too."""
        if max(request.tx_rings, request.rx_rings) > names.RINGS_MAX:
            raise RequestError(errno.EINVAL)
        session.state = msgspec.structs.replace(
            session.state,
            kind=self.name,
            tx_rings=request.tx_rings,
            rx_rings=request.rx_rings,
            tx_slots=min(request.tx_slots, names.SLOTS_MAX),
            rx_slots=min(request.rx_slots, names.SLOTS_MAX),
            mem_id=request.mem_id,
        )

    def restore(self, session: Session, fds: list[int]) -> None:
        close_all(fds)

    def ready(self, session: Session) -> bool:
        return True

    def valid(self, session: Session) -> bool:
        return True

    def close(self, session: Session) -> None:
        pass

    def evict(self, session: Session) -> list[Session]:
        return [session]

    def fds(self, session: Session) -> list[int]:
        return []

    def kept(self, session: Session) -> list[int]:
        return []

    def describe(self, session: Session, answer: Answer) -> None:
        pass

    def mode(self, session: Session) -> str:
        return self.name

    def reading(self, session: Session) -> Reading:
        return Reading()
