"""A netmap program as the switch sees it, without a library: requests of client_wire.h, and lanes.

with Program(run / "netmap.sock") as program:
    answer = program.register("vale0:p1")
    program.send(frame)
    assert program.receive() == frame
"""

from __future__ import annotations

import array
import contextlib
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastpath import native_clients as wire

# struct client_request and struct client_answer, as client_wire.h lays them out
REQUEST = struct.Struct("=IHH64s32sIIQIIIIIIII48x")
ANSWER = struct.Struct("=IIII64sIIQIIIIIIIIIIIIQ72x")
ALL, ONE = wire.MODE_ALL, wire.MODE_ONE

# struct client_memory and struct lane (lane.h)
GEOMETRY = struct.Struct("=QIIIII")
HEADER_BYTES = 16384
LANE_BYTES = 256
OUTBOX_AT = 128 + 128 + 2 * 16 * 64
INBOX_AT = OUTBOX_AT + 16 * LANE_BYTES
TAIL, HEAD = 0, 128
RECORD = struct.Struct("=IHH")
SKIP, VNET = 1, 2


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer; the fds are the program's."""

    id: int
    error: int
    session: int
    port_index: int
    name: str
    mode: int
    ring_id: int
    flags: int
    tx_rings: int
    rx_rings: int
    tx_slots: int
    rx_slots: int
    mem_id: int
    shared: int
    hdr_len: int
    index: int
    switch_index: int
    more: int
    side: int
    fdb_number: int
    fdb_bytes: int
    fds: list[int] = field(default_factory=list)


class Memory:
    """Of a port, a pipe or a pair: lanes, from the program's ``side`` (client_memory.h)."""

    def __init__(self, fd: int, side: int = 0) -> None:
        self._side = side
        size = os.fstat(fd).st_size
        self.map = mmap.mmap(fd, size)
        _, _, self.tx_rings, self.rx_rings, self.outbox_bytes, self.inbox_bytes = GEOMETRY.unpack(
            self.map[: GEOMETRY.size]
        )
        assert size == (
            HEADER_BYTES + self.tx_rings * self.outbox_bytes + self.rx_rings * self.inbox_bytes
        )

    @property
    def gone(self) -> int:
        return int.from_bytes(self.map[128 + 8 : 128 + 12], "little")

    def _u64(self, at: int) -> int:
        return int.from_bytes(self.map[at : at + 8], "little")

    def _set_u64(self, at: int, value: int) -> None:
        self.map[at : at + 8] = value.to_bytes(8, "little")

    @property
    def direct(self) -> int:
        return int.from_bytes(self.map[128 + 4 : 128 + 8], "little")

    @property
    def news(self) -> int:
        return int.from_bytes(self.map[128:132], "little")

    def _outbox(self, ring: int) -> tuple[int, int, int]:
        """Where the lane and its data are, and how many bytes of it."""
        return (
            OUTBOX_AT + ring * LANE_BYTES,
            HEADER_BYTES + ring * self.outbox_bytes,
            self.outbox_bytes,
        )

    def _inbox(self, ring: int) -> tuple[int, int, int]:
        data = HEADER_BYTES + self.tx_rings * self.outbox_bytes + ring * self.inbox_bytes
        return INBOX_AT + ring * LANE_BYTES, data, self.inbox_bytes

    def count(self, frames: int, bytes: int, full: int = 0, ring: int = 0) -> None:
        """What a producer says that it has sent, ever."""
        lane = (self._inbox if self._side else self._outbox)(ring)[0]
        for at, value in ((16, frames), (24, bytes), (32, full)):
            self._set_u64(lane + at, value)

    def put(self, frame: bytes, ring: int = 0) -> bool:
        """False: there is no room."""
        lane, data, size = (self._inbox if self._side else self._outbox)(ring)
        tail, head = self._u64(lane + TAIL), self._u64(lane + HEAD)
        need = -(-(RECORD.size + len(frame)) // 8) * 8
        rest = size - tail % size
        skip = rest if need > rest else 0
        if tail + skip + need - head > size:
            return False
        if skip:
            at = data + tail % size
            self.map[at : at + 8] = RECORD.pack(0, SKIP, 0)
            tail += skip
        at = data + tail % size
        self.map[at : at + 8] = RECORD.pack(len(frame), 0, 0)
        self.map[at + 8 : at + 8 + len(frame)] = frame
        self._set_u64(lane + TAIL, tail + need)
        return True

    def take(self, ring: int = 0) -> bytes | None:
        """None: there is nothing."""
        lane, data, bytes_ = (self._outbox if self._side else self._inbox)(ring)
        while True:
            tail, head = self._u64(lane + TAIL), self._u64(lane + HEAD)
            if head == tail:
                return None
            at = data + head % bytes_
            size, flags, _ = RECORD.unpack(self.map[at : at + 8])
            if flags & SKIP:
                self._set_u64(lane + HEAD, head + bytes_ - head % bytes_)
                continue
            frame = bytes(self.map[at + 8 : at + 8 + size])
            self._set_u64(lane + HEAD, head + -(-(RECORD.size + size) // 8) * 8)
            return frame[16:] if flags & VNET else frame

    def close(self) -> None:
        self.map.close()


class Program:
    """One open of /dev/netmap."""

    def __init__(self, path: Path, timeout_s: float = 10) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(timeout_s)
        self.memory: Memory | None = None
        self.bells: list[int] = []
        self.region = -1
        self._id = 0
        try:
            self.sock.connect(os.fspath(path))
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The last close."""
        if self.memory is not None:
            self.memory.close()
            self.memory = None
        for fd in (*self.bells, self.region):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.bells, self.region = [], -1
        self.sock.close()

    def post(
        self,
        type: int,
        name: str = "",
        *,
        id: int = 0,
        version: int = wire.VERSION,
        mode: int = 0,
        ring_id: int = 0,
        flags: int = 0,
        rings: tuple[int, int] = (0, 0),
        slots: tuple[int, int] = (0, 0),
        mem_id: int = 0,
        hdr_len: int = 0,
        index: int = 0,
        switch_index: int = 0,
        fds: Sequence[int] = (),
    ) -> int:
        """Ask; returns the request's id."""
        self._id = id or self._id + 1
        packet = REQUEST.pack(
            self._id,
            version,
            type,
            name.encode(),
            b"test",
            mode,
            ring_id,
            flags,
            *rings,
            *slots,
            mem_id,
            hdr_len,
            index,
            switch_index,
        )
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([packet], rights)
        return self._id

    def answered(self) -> Answered:
        """The next answer. ConnectionError: the switch has closed the connection."""
        packet, fds, _, _ = socket.recv_fds(self.sock, ANSWER.size + 1, wire.FDS_MAX)
        if not packet:
            raise ConnectionError("the switch has closed the connection")
        values = list(ANSWER.unpack(packet))
        values[4] = values[4].partition(b"\0")[0].decode()
        return Answered(*values, fds=fds)

    def call(self, type: int, name: str = "", **fields: object) -> Answered:
        id = self.post(type, name, **fields)  # type: ignore[arg-type]
        answer = self.answered()
        assert answer.id == id
        return answer

    def register(self, name: str, *, mode: int = ALL, **fields: object) -> Answered:
        """With a memory of its own, which is kept; on success with the port's memory mapped."""
        region = os.memfd_create("region", os.MFD_CLOEXEC)
        answer = self.call(wire.REGISTER, name, mode=mode, fds=[region], **fields)
        if answer.error:
            os.close(region)
            return answer
        self.bind(answer, region)
        return answer

    def bind(self, answer: Answered, region: int) -> None:
        fds = list(answer.fds)
        if answer.shared:
            os.close(region)
            region = fds.pop(0)
        self.region = region
        self.memory = Memory(fds[0], answer.side)
        self.bells = fds[1:]
        os.close(fds[0])

    def send(self, frame: bytes, ring: int = 0) -> bool:
        """Into the outbox, and ring."""
        assert self.memory is not None
        done = self.memory.put(frame, ring)
        with (
            contextlib.suppress(BlockingIOError),
            socket.socket(fileno=os.dup(self.bells[ring])) as b,
        ):
            b.send(b"x", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return done

    def receive(self, ring: int = 0) -> bytes | None:
        """Out of the inbox."""
        assert self.memory is not None
        return self.memory.take(ring)
