"""The far end of a pipe, played by this process on the pipe's memory.

Everything here is written from the layout alone (port_pipe.c's header, netmap's rings), so that a
test of a pipe does not trust the driver on both sides. The end itself is attached to an engine
that publishes nothing: it is there, and nobody serves it but this.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastpath import pipes
from fastpath.channel import Bundle
from fastpath.native import Engine
from tests.support.switch import Attached, Switch, acquire
from tests.support.topology import wait_until

HEADER_BYTES = 8192
PAGE = 4096
RING_SLOTS = 256  # from a ring to its first slot
MOREFRAG = 0x20
VNET = bytes(10)

_U32 = struct.Struct("=I")
_SLOT = struct.Struct("=IHH8x")
_BUF_OFS = struct.Struct("=q")  # at 0
_NUM_SLOTS, _BUF_SIZE, _HEAD, _TAIL = 8, 12, 20, 28


class Ring:
    """One netmap ring in a mapping. Indices are written whole: struct clears what it packs into."""

    def __init__(self, memory: mmap.mmap, at: int, slots: int) -> None:
        self._memory = memory
        self._words = memoryview(memory).cast("I")
        self._at = at
        self.slots = slots
        assert _U32.unpack_from(memory, at + _NUM_SLOTS)[0] == slots, "num_slots"
        self._buffer_bytes: int = _U32.unpack_from(memory, at + _BUF_SIZE)[0]
        self._buffers = at + int(_BUF_OFS.unpack_from(memory, at)[0])

    @property
    def head(self) -> int:
        return self._words[(self._at + _HEAD) // 4]

    @property
    def tail(self) -> int:
        return self._words[(self._at + _TAIL) // 4]

    def put(self, frame: bytes) -> bool:
        """As the sender: False when it does not fit."""
        data = VNET + frame
        parts = [data[i : i + self._buffer_bytes] for i in range(0, len(data), self._buffer_bytes)]
        tail = self.tail
        if (self.head - tail - 1) % self.slots < len(parts):
            return False
        for n, part in enumerate(parts):
            buffer, _, _ = self._slot(tail)
            start = self._buffers + buffer * self._buffer_bytes
            self._memory[start : start + len(part)] = part
            flags = MOREFRAG if n + 1 < len(parts) else 0
            _SLOT.pack_into(self._memory, self._slot_at(tail), buffer, len(part), flags)
            tail = (tail + 1) % self.slots
        self._words[(self._at + _TAIL) // 4] = tail
        return True

    def take(self) -> bytes | None:
        """As the receiver: None when there is nothing."""
        head = self.head
        if head == self.tail:
            return None
        data, flags = b"", MOREFRAG
        while flags & MOREFRAG:
            buffer, length, flags = self._slot(head)
            start = self._buffers + buffer * self._buffer_bytes
            data += self._memory[start : start + length]
            head = (head + 1) % self.slots
        self._words[(self._at + _HEAD) // 4] = head
        return data[len(VNET) :]

    def close(self) -> None:
        self._words.release()

    def _slot_at(self, slot: int) -> int:
        return self._at + RING_SLOTS + slot * 16

    def _slot(self, slot: int) -> tuple[int, int, int]:
        buffer, length, flags = _SLOT.unpack_from(self._memory, self._slot_at(slot))
        return buffer, length, flags


class PipeRig:
    """The port is the master, this the slave."""

    type = "pipe"
    options: Mapping[str, str] = {"slots": "1024"}

    def __init__(self, home: Path) -> None:
        del home
        self._close_far: list[Attached] = []
        self._engine: Engine | None = None

    def open(self, options: Mapping[str, str] = {}) -> Attached:
        self.close()
        wanted = {"name": "rig", "end": "master", **self.options, **options}
        self.port = acquire("p1", "pipe", wanted)
        self._attach_far(wanted)
        queues, slots = int(wanted.get("queues", 1)), int(wanted["slots"])
        stride = -(-(RING_SLOTS + 16 * slots) // PAGE) * PAGE
        far = self._close_far[0]
        self._memory = mmap.mmap(far.fds[0], 0)
        rings = [Ring(self._memory, HEADER_BYTES + n * stride, slots) for n in range(2 * queues)]
        self._into, self._out = rings[:queues], rings[queues:]
        self._bells = far.fds[1 : 1 + queues]
        return self.port

    def _attach_far(self, options: Mapping[str, str]) -> None:
        spec = acquire("far", "null").spec
        near = Bundle("p1", "pipe", dict(options), "pipe", dict(options), self.port.state)
        shared = pipes.share({**options, "end": "slave"}, [(near, self.port.fds)])
        assert shared is not None
        far = Attached(0, spec, *shared)
        self._engine = Engine(ports_max=1, bridges_max=1, workers_max=1)
        self._engine.port_add(0, "far", "pipe", {**options, "end": "slave"}, far.fds, far.state)
        self._close_far.append(far)

    def send(self, switch: Switch, frames: Sequence[bytes]) -> None:
        """A flow, told by its source port, keeps to one queue."""
        rung: set[int] = set()
        for frame in frames:
            queue = frame[35] % len(self._into) if len(frame) > 35 else 0
            ring = self._into[queue]
            wait_until(lambda ring=ring, frame=frame: ring.put(frame), 10, "room in the pipe")  # type: ignore[misc]
            os.eventfd_write(self._bells[queue], 1)
            rung.add(queue)
        for queue in rung:
            ring = self._into[queue]
            wait_until(lambda ring=ring: ring.head == ring.tail, 10, "the switch takes all")  # type: ignore[misc]
            # The switch reads only what the driver's own sender rang.
            os.eventfd_read(self._bells[queue])

    def receive(self, switch: Switch, count: int) -> list[bytes]:
        frames: list[bytes] = []

        def enough() -> bool:
            for ring in self._out:
                while (frame := ring.take()) is not None:
                    frames.append(frame)
            return len(frames) >= count

        wait_until(enough, 10, f"{count} frames in the pipe")
        return frames

    def close(self) -> None:
        if self._engine is not None:
            self._engine.destroy()
            self._engine = None
            for ring in (*self._into, *self._out):
                ring.close()
            self._memory.close()
        while self._close_far:
            for fd in self._close_far.pop().fds:
                os.close(fd)


class Pipe4Rig(PipeRig):
    options: Mapping[str, str] = {"slots": "1024", "queues": "4"}


class ValeRig(PipeRig):
    """A port of a VALE switch: neither side waits for the other."""

    type = "vale"
    options: Mapping[str, str] = {"slots": "2048", "block": "0"}
