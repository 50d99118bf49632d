"""A netmap program in Python: what stands at the other end of pipes and VALE switches.

Layout and numbers are net/netmap.h's, API 14. Rings are read and written through memory that the
kernel writes too; one thread uses a Client.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

DEVICE = "/dev/netmap"
API = 14
_NIOCCTRL = 0xC0586997
_NIOCTXSYNC = 0x6994
_NIOCRXSYNC = 0x6995

REGISTER, PORT_INFO_GET, VALE_ATTACH, VALE_DETACH, VALE_LIST = 1, 2, 3, 4, 5
ALL_NIC, SW, NIC_SW, ONE_NIC, ONE_SW = 1, 2, 3, 4, 8
MONITOR_TX, MONITOR_RX, ZCOPY_MON, EXCLUSIVE = 0x100, 0x200, 0x400, 0x800

_HEADER = struct.Struct("=HHI64sQQ")
_REGISTER = struct.Struct("=QQIIHHHHHHII4xQ")
_LIST = struct.Struct("=HHI")
_SLOT = struct.Struct("=IHHQ")
_SLOTS = 256  # where they begin in a ring
_RING_OFS = 56  # where the offsets of rings begin in struct netmap_if


def control(device: int, kind: int, name: str, body: bytearray) -> None:
    """NIOCCTRL; `body` is read and written. OSError as the kernel says."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(body)) if body else 0
    header = bytearray(_HEADER.pack(API, kind, 0, name.encode(), 0, address))
    fcntl.ioctl(device, _NIOCCTRL, header)


def vale_list(switch: str) -> list[str]:
    """Names of the ports of one VALE switch, as the module gives them: "vale0:p1"."""
    found = []
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        bridge, port = 0, 0
        while True:
            body = bytearray(_LIST.pack(bridge, 0, port))
            address = ctypes.addressof(ctypes.c_char.from_buffer(body))
            header = bytearray(_HEADER.pack(API, VALE_LIST, 0, b"", 0, address))
            try:
                fcntl.ioctl(device, _NIOCCTRL, header)
            except FileNotFoundError:
                return found
            name = _HEADER.unpack(header)[3].rstrip(b"\0").decode()
            bridge, _, port = _LIST.unpack(body)
            port += 1
            if name.partition(":")[0] == switch:
                found.append(name)
    finally:
        os.close(device)


@dataclass(frozen=True)
class Registered:
    """The module's answer: rings counted in pairs, host rings apart."""

    mem_id: int
    tx_rings: int
    rx_rings: int
    host_tx_rings: int
    host_rx_rings: int
    tx_slots: int
    rx_slots: int


class Ring:
    """One ring of a mapped region."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self._memory = memory
        self._offset = offset
        self._buffers, self.slots, self.buffer_bytes = struct.unpack_from("=qII", memory, offset)

    def _indices(self) -> tuple[int, int, int]:
        head, cur, tail = struct.unpack_from("=III", self._memory, self._offset + 20)
        return head, cur, tail

    @property
    def space(self) -> int:
        """Slots that are ours: frames to read, or room to write."""
        head, _, tail = self._indices()
        return (tail - head) % self.slots

    def _slot(self, index: int) -> tuple[int, int, int, int]:
        found = _SLOT.unpack_from(self._memory, self._offset + _SLOTS + index * _SLOT.size)
        return found  # type: ignore[return-value]

    def _buffer(self, index: int) -> int:
        return self._offset + self._buffers + index * self.buffer_bytes

    def _advance(self, head: int) -> None:
        struct.pack_into("=II", self._memory, self._offset + 20, head, head)

    def take(self) -> list[tuple[bytes, int]]:
        """All frames there are, and their slots' flags."""
        head, _, tail = self._indices()
        frames = []
        while head != tail:
            buffer, length, flags, _ = self._slot(head)
            start = self._buffer(buffer)
            frames.append((self._memory[start : start + length], flags))
            head = (head + 1) % self.slots
        self._advance(head)
        return frames

    def drop(self) -> tuple[int, bytes]:
        """Gives all frames back: how many, and the bytes of the last one."""
        head, _, tail = self._indices()
        count = (tail - head) % self.slots
        if not count:
            return 0, b""
        buffer, length, _, _ = self._slot((tail - 1) % self.slots)
        start = self._buffer(buffer)
        last = self._memory[start : start + length]
        self._advance(tail)
        return count, last

    def put_again(self, header: bytes, count: int) -> int:
        """One frame of 60 bytes in as many slots; only what is needed of it is written: buffers
        wander between rings, and any may come."""
        head, _, tail = self._indices()
        count = min((tail - head) % self.slots, count)
        for _ in range(count):
            at = self._offset + _SLOTS + head * _SLOT.size
            (buffer,) = struct.unpack_from("=I", self._memory, at)
            start = self._buffer(buffer)
            self._memory[start : start + len(header)] = header
            struct.pack_into("=HH", self._memory, at + 4, 60, 0)
            head = (head + 1) % self.slots
        self._advance(head)
        return count

    def put(self, frames: Sequence[bytes]) -> int:
        """As many of them as there is room for."""
        head, _, tail = self._indices()
        count = min((tail - head) % self.slots, len(frames))
        for frame in frames[:count]:
            at = self._offset + _SLOTS + head * _SLOT.size
            (buffer,) = struct.unpack_from("=I", self._memory, at)
            start = self._buffer(buffer)
            self._memory[start : start + len(frame)] = frame
            struct.pack_into("=HH", self._memory, at + 4, len(frame), 0)
            head = (head + 1) % self.slots
        self._advance(head)
        return count


class Client:
    """A registered port. The names are those of NIOCCTRL: without prefix "netmap:"."""

    def __init__(self, name: str, mode: int = ALL_NIC, ring: int = 0, flags: int = 0) -> None:
        self.name = name
        self._device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            request = (0, 0, 0, 0, 0, 0, 0, 0, 0, ring, mode, 0, flags)
            body = bytearray(_REGISTER.pack(*request))
            control(self._device, REGISTER, name, body)
            offset, size, *rest = _REGISTER.unpack(body)
            self._memory = mmap.mmap(self._device, size)
        except BaseException:
            os.close(self._device)
            raise
        tx_slots, rx_slots, tx, rx, host_tx, host_rx, mem_id = rest[:7]
        self.registered = Registered(mem_id, tx, rx, host_tx, host_rx, tx_slots, rx_slots)
        # netmap_if counts host rings even where the answer says 0 (VALE ports, pipes).
        ni_tx, ni_rx, _, ni_host_tx, ni_host_rx = struct.unpack_from(
            "=IIIII", self._memory, offset + 24
        )
        counts = (ni_tx, ni_host_tx, ni_rx, ni_host_rx)
        offsets = struct.unpack_from(f"={sum(counts)}q", self._memory, offset + _RING_OFS)
        rings = [Ring(self._memory, offset + o) if o else None for o in offsets]
        self.tx = [r for r in rings[: ni_tx + ni_host_tx] if r]
        self.rx = [r for r in rings[ni_tx + ni_host_tx :] if r]

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._memory.close()
        os.close(self._device)

    def fileno(self) -> int:
        return self._device

    def rxsync(self) -> None:
        fcntl.ioctl(self._device, _NIOCRXSYNC)

    def txsync(self) -> None:
        fcntl.ioctl(self._device, _NIOCTXSYNC)

    def send(self, frames: Sequence[bytes], timeout_s: float = 20) -> None:
        """All of them, waiting for room."""
        deadline = time.monotonic() + timeout_s
        left = list(frames)
        while left:
            del left[: self.tx[0].put(left)]
            self.txsync()
            if left and time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: no room for {len(left)} frames")
            if left and not self.tx[0].space:
                select.select([], [self._device], [], 0.05)

    def again(self, header: bytes, count: int) -> int:
        """Sends frames of which nothing but the header counts: how many there was room for."""
        sent = self.tx[0].put_again(header, count)
        self.txsync()
        return sent

    def receive(self, count: int, timeout_s: float = 10) -> list[tuple[bytes, int]]:
        """At least `count` frames with their flags; TimeoutError says how many came."""
        deadline = time.monotonic() + timeout_s
        frames: list[tuple[bytes, int]] = []
        while True:
            self.rxsync()
            for ring in self.rx:
                frames += ring.take()
            if len(frames) >= count:
                return frames
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: {len(frames)} of {count} frames came")
            select.select([self._device], [], [], 0.02)
