"""What the keeper keeps of netmap programs that have ports: fds and a text, both a forwarder's.

It neither reads the text nor maps a memory. What a forwarder gives is checked as if it had been
taken over: so many, so long, a connection first and memories behind it.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator, Mapping

from fastpath.channel import ChannelError, Session, close_all, is_memory
from fastpath.client_names import RINGS_MAX
from fastpath.client_sessions import STATE_BYTES_MAX

FDS_MAX = 3 + 2 * RINGS_MAX  # connection, the program's memory, a pipe's and its bells


class KeptSessions:
    """By number."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._most = limits["netmap_connections_max"]
        self._kept: dict[int, tuple[Session, list[int]]] = {}

    def __iter__(self) -> Iterator[tuple[Session, list[int]]]:
        return iter(self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, session: Session, fds: list[int]) -> None:
        """In the place of what it had; takes the fds. ChannelError: no forwarder sends that."""
        full = session.id not in self._kept and len(self._kept) >= self._most
        problem = f"{self._most} sessions are the limit" if full else _problem(session, fds)
        if problem:
            close_all(fds)
            raise ChannelError(f"session {session.id}: {problem}")
        self.forget(session.id)
        self._kept[session.id] = (session, fds)

    def forget(self, id: int) -> None:
        """Nothing, when there is none."""
        _, fds = self._kept.pop(id, (None, []))
        close_all(fds)

    def close(self) -> None:
        for id in list(self._kept):
            self.forget(id)


def _problem(session: Session, fds: list[int]) -> str:
    if len(session.state.encode()) > STATE_BYTES_MAX:
        return f"{len(session.state)} characters of state"
    if not 2 <= len(fds) <= FDS_MAX:
        return f"{len(fds)} fds"
    if not _is_connection(fds[0]):
        return "the first fd is no connection"
    if not is_memory(fds[1]):
        return "the second fd is no memory"
    return ""


def _is_connection(fd: int) -> bool:
    """Of packets, between processes of this machine."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    with socket.socket(fileno=os.dup(fd)) as sock:
        return (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET)
