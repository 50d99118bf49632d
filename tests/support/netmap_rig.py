"""A netmap port over the module of netmap_fake.c: what it sees of the driver is audited."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from cffi import FFI

from fastpath import native
from tests.support.core import MARKED, ROOT, SOURCE
from tests.support.switch import Attached, Switch, acquire
from tests.support.topology import wait_until

FAKE = ROOT / "tests/support/netmap_fake"
FRAME_MAX = 65554


@cache
def fake() -> tuple[Any, Any]:
    """cffi's FFI and the library of the fake module."""
    ffi = FFI()
    marked = "\n".join(MARKED.findall(FAKE.with_suffix(".h").read_text()))
    ffi.cdef("struct netmap_device; struct netmap_ring;" + marked)
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "fake.so"
        command = [
            *shlex.split(os.environ.get("CC", "cc")),
            *("-std=gnu17", "-O2", "-g", "-shared", "-fPIC", "-D_GNU_SOURCE"),
            *(f"-I{SOURCE}", "-o", str(target), str(FAKE.with_suffix(".c"))),
        ]
        subprocess.run(command, check=True)
        lib = ffi.dlopen(str(target))
    return ffi, lib


class NetmapRig:
    """An interface of one NIC ring pair whose frames may take several slots."""

    type = "netmap"
    portspec: ClassVar[str] = "netmap:eth0"

    def __init__(self, home: Path) -> None:
        del home
        self.ffi, self.lib = fake()
        self.lib.fake_reset()
        native.netmap_device_use(int(self.ffi.cast("uintptr_t", self.lib.fake_device())))
        self.name = re.sub(r"^netmap:|[-*^/@].*$", "", self.portspec).encode()
        shape = self.ffi.new("struct fake_shape *")
        shape.rings, shape.host_rings, shape.slots = 1, 1, 1024
        shape.mem_id, shape.mtu = 1, 9000
        self.lib.fake_adapter(self.name, shape)

    def open(self, options: Mapping[str, str] = {}) -> Attached:
        self.port = acquire("p1", "netmap", {"portspec": self.portspec, **options})
        return self.port

    def send(self, switch: Switch, frames: Sequence[bytes]) -> None:
        del switch
        for frame in frames:
            wait_until(
                lambda frame=frame: self.lib.fake_put(self.name, False, 0, frame, len(frame)),  # type: ignore[misc]
                10,
                "room in the receive ring",
            )

    def receive(self, switch: Switch, count: int) -> list[bytes]:
        del switch
        frames: list[bytes] = []
        room = self.ffi.new("uint8_t[]", FRAME_MAX)

        def enough() -> bool:
            while (size := self.lib.fake_take(self.name, False, 0, room, FRAME_MAX)) >= 0:
                frames.append(bytes(self.ffi.buffer(room, size)))
            return len(frames) >= count

        wait_until(enough, 10, f"{count} frames from {self.portspec}")
        return frames

    def close(self) -> None:
        """What the module saw of the driver was right."""
        native.netmap_device_use(0)
        faults, first = self.lib.fake_faults(), self.ffi.string(self.lib.fake_fault()).decode()
        assert faults == 0, first


class NetmapHostRig(NetmapRig):
    """The same with its host: it hears what the group is told."""

    portspec = "netmap:eth0*"
