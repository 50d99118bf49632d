"""The program's side of a client port, played by this process on the port's memory.

Everything here is written from the layout alone (client_memory.h, lane.h), so that a test of the
driver does not trust the functions that both sides use.
"""

from __future__ import annotations

import contextlib
import mmap
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.switch import Attached, Switch, acquire
from tests.support.topology import wait_until

HEADER_BYTES = 16384
LANES = 16
LANE_BYTES = 256
OUTBOXES_AT = 2304
INBOXES_AT = OUTBOXES_AT + LANES * LANE_BYTES
TAIL, PRODUCER_WAITS, HEAD, CONSUMER_WAITS, COMMITTED = 0, 8, 128, 136, 144
SKIP, VNET, NO_LEARN, TXMON = 1, 2, 4, 8
VNET_BYTES = 16
INDICES = 1 << 64

_GEOMETRY = struct.Struct("=QIIIII")  # magic, version, tx rings, rx rings, outbox, inbox bytes
_RECORD = struct.Struct("=IHH")
_MAGIC = 0x316E6C6377737600


class Lane:
    """One lane of a mapping. Words are written whole."""

    def __init__(self, memory: mmap.mmap, at: int, data_at: int, size: int) -> None:
        self._memory = memory
        self._words = memoryview(memory).cast("Q")
        self._halves = memoryview(memory).cast("I")
        self._at = at
        self._data_at = data_at
        self.size = size

    def word(self, which: int) -> int:
        return self._words[(self._at + which) // 8]

    def set_word(self, which: int, value: int) -> None:
        self._words[(self._at + which) // 8] = value % INDICES

    def set_waits(self, which: int, value: int) -> None:
        self._halves[(self._at + which) // 4] = value

    def waits(self, which: int) -> int:
        return self._halves[(self._at + which) // 4]

    @property
    def drained(self) -> bool:
        return self.word(HEAD) == self.word(TAIL)

    def put(self, frame: bytes, flags: int = 0, vnet: bytes | None = None) -> bool:
        """As the producer: False when it does not fit."""
        if vnet is not None:
            frame, flags = vnet.ljust(VNET_BYTES, b"\0") + frame, flags | VNET
        record = _RECORD.pack(len(frame), flags, 0) + frame
        span = -(-len(record) // 8) * 8
        tail, head = self.word(TAIL), self.word(HEAD)
        to_end = self.size - tail % self.size
        skipped = to_end if span > to_end else 0
        if self.size - (tail - head) % INDICES < skipped + span:
            return False
        if skipped:
            self.write(tail, _RECORD.pack(0, SKIP, 0))
            tail += skipped
        self.write(tail, record)
        self.set_word(TAIL, tail + span)
        return True

    def take(self) -> tuple[bytes, int, bytes | None] | None:
        """As the consumer: the frame, its flags and its virtio-net header; None: there is none."""
        head, tail = self.word(HEAD), self.word(TAIL)
        while head != tail:
            at = self._data_at + head % self.size
            length, flags, reserved = _RECORD.unpack_from(self._memory, at)
            assert reserved == 0
            if flags & SKIP:
                head += self.size - head % self.size
                continue
            data = self._memory[at + 8 : at + 8 + length]
            self.set_word(HEAD, head + -(-(8 + length) // 8) * 8)
            if flags & VNET:
                return data[VNET_BYTES:], flags, data[:VNET_BYTES]
            return data, flags, None
        return None

    def write(self, index: int, data: bytes) -> None:
        """Bytes of the lane's data; ``index`` counts for ever, as the lane's do."""
        at = self._data_at + index % self.size
        self._memory[at : at + len(data)] = data

    def close(self) -> None:
        self._words.release()
        self._halves.release()


class Program:
    """The lanes and bells of one client port, from the descriptors that its program gets."""

    def __init__(self, fds: Sequence[int]) -> None:
        self._memory = mmap.mmap(fds[0], 0)
        magic, version, tx, rx, outbox, inbox = _GEOMETRY.unpack_from(self._memory, 0)
        assert (magic, version) == (_MAGIC, 1)
        bells = max(tx, rx)
        self.bells = [socket.socket(fileno=fd) for fd in map(_copy, fds[1 + bells :])]
        self.outboxes = [
            Lane(self._memory, OUTBOXES_AT + t * LANE_BYTES, HEADER_BYTES + t * outbox, outbox)
            for t in range(tx)
        ]
        inboxes_at = HEADER_BYTES + tx * outbox
        self.inboxes = [
            Lane(self._memory, INBOXES_AT + r * LANE_BYTES, inboxes_at + r * inbox, inbox)
            for r in range(rx)
        ]

    def ring(self, queue: int) -> None:
        with contextlib.suppress(BlockingIOError):  # rung often, and not heard yet
            self.bells[queue].send(b"\0", socket.MSG_DONTWAIT)

    def rung(self, queue: int) -> bool:
        """Takes the rings back; was there one?"""
        try:
            return bool(self.bells[queue].recv(64, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False

    def close(self) -> None:
        for lane in (*self.outboxes, *self.inboxes):
            lane.close()
        for bell in self.bells:
            bell.close()
        self._memory.close()


def _copy(fd: int) -> int:
    return socket.dup(fd)


class ClientRig:
    """A netmap program that uses every ring of its port."""

    type = "client"
    options: Mapping[str, str] = {}

    def __init__(self, home: Path) -> None:
        del home
        self.program: Program | None = None

    def open(self, options: Mapping[str, str] = {}) -> Attached:
        self.close()
        self.port = acquire("p1", "client", {**self.options, **options})
        self.program = Program(self.port.fds)
        return self.port

    def send(self, switch: Switch, frames: Sequence[bytes]) -> None:
        """A flow, told by its source port, keeps to one queue."""
        program = self._opened()
        for frame in frames:
            queue = frame[35] % len(program.outboxes) if len(frame) > 35 else 0
            lane = program.outboxes[queue]
            wait_until(lambda lane=lane, frame=frame: lane.put(frame), 10, "room in the outbox")  # type: ignore[misc]
            if lane.waits(CONSUMER_WAITS):
                program.ring(queue)
        for queue, lane in enumerate(program.outboxes):
            program.ring(queue)  # a store of this process's may be seen after its load
            wait_until(lambda lane=lane: lane.drained, 10, "the switch takes all")  # type: ignore[misc]

    def receive(self, switch: Switch, count: int) -> list[bytes]:
        program = self._opened()
        frames: list[bytes] = []

        def enough() -> bool:
            for lane in program.inboxes:
                while (taken := lane.take()) is not None:
                    frames.append(taken[0])
            return len(frames) >= count

        wait_until(enough, 10, f"{count} frames in the inbox")
        return frames

    def close(self) -> None:
        if self.program is not None:
            self.program.close()
            self.program = None

    def _opened(self) -> Program:
        assert self.program is not None, "open() comes first"
        return self.program


class Client4Rig(ClientRig):
    options: Mapping[str, str] = {"tx_rings": "4", "rx_rings": "4"}
