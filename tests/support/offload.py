"""fastpath/src/offload.c for Python tests: one frame's bytes and offload state in, segments out.

The C file is compiled with tests/support/offload_shim.c into a shared object of its own; it needs
no port and no engine.
"""

from __future__ import annotations

import os
import shlex
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cffi import FFI

ROOT = Path(__file__).resolve().parents[2]

CSUM_NEEDED = 1
TCPV4, UFO, TCPV6, UDP_L4, ECN = 1, 3, 4, 5, 0x80  # gso_type, virtio 1.2, section 5.1.6
CAP_CSUM, CAP_TSO4, CAP_TSO6, CAP_USO, CAP_FRAGS = 1, 2, 4, 8, 16

DECLARATIONS = """
struct frame_offload { uint8_t flags, gso_type; uint16_t hdr_len, gso_size, csum_start,
                       csum_offset; };
struct shim_segment { uint32_t len; struct frame_offload left; };
int shim_cut(uint8_t *bytes, uint32_t len, const uint32_t *lengths, unsigned fragments,
             const struct frame_offload *offload, uint32_t caps, int by_copy, uint8_t *out,
             uint32_t out_bytes, struct shim_segment *segments, unsigned segments_max);
int shim_checksum(uint8_t *bytes, uint32_t len, const uint32_t *lengths, unsigned fragments,
                  const struct frame_offload *offload);
uint32_t shim_packet_max(uint8_t *bytes, uint32_t len, const struct frame_offload *offload);
"""

SEGMENTS_MAX = 1366


@dataclass(frozen=True)
class Offload:
    """struct virtio_net_hdr; offsets in bytes from the frame's first."""

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    def pack(self) -> bytes:
        """The ten bytes in front of a frame that crosses a TAP's fd."""
        return struct.pack(
            "=BBHHHH",
            self.flags,
            self.gso_type,
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
        )


@dataclass(frozen=True)
class Segment:
    data: bytes
    left: Offload


class OffloadError(Exception):
    """The C function's -errno."""

    def __init__(self, errno: int) -> None:
        super().__init__(os.strerror(errno))
        self.errno = errno


@cache
def _library() -> tuple[FFI, Any]:
    ffi = FFI()
    ffi.cdef(DECLARATIONS)
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "offload.so"
        command = [
            *shlex.split(os.environ.get("CC", "cc")),
            *("-std=gnu17", "-O2", "-g", "-shared", "-fPIC", "-D_GNU_SOURCE"),
            f"-I{ROOT / 'fastpath/src'}",
            *("-o", str(target)),
            str(ROOT / "fastpath/src/offload.c"),
            str(ROOT / "tests/support/offload_shim.c"),
        ]
        subprocess.run(command, check=True)
        return ffi, ffi.dlopen(str(target))


def _arguments(ffi: FFI, offload: Offload, lengths: Sequence[int]) -> tuple[Any, Any]:
    header = ffi.new("struct frame_offload *", vars(offload))
    return header, ffi.new("uint32_t[]", list(lengths))


def cut(
    frame: bytes,
    offload: Offload,
    caps: int = 0,
    lengths: Sequence[int] | None = None,
    *,
    by_copy: bool = True,
) -> list[Segment]:
    """What a destination with ``caps`` is sent for the frame; ``lengths`` are its fragments'."""
    ffi, lib = _library()
    lengths = lengths or [len(frame)]
    header, parts = _arguments(ffi, offload, lengths)
    out = ffi.new("uint8_t[]", len(frame) + SEGMENTS_MAX * 256)
    segments = ffi.new("struct shim_segment[]", SEGMENTS_MAX)
    count = lib.shim_cut(
        ffi.from_buffer("uint8_t[]", bytearray(frame)),
        *(len(frame), parts, len(lengths), header, caps, by_copy, out, len(out)),
        *(segments, SEGMENTS_MAX),
    )
    if count < 0:
        raise OffloadError(-count)
    made = []
    at = 0
    for segment in segments[0:count]:
        left = segment.left
        fields = {name: getattr(left, name) for name in Offload.__dataclass_fields__}
        made.append(Segment(bytes(ffi.buffer(out + at, segment.len)), Offload(**fields)))
        at += segment.len
    return made


def checksum(frame: bytes, offload: Offload, lengths: Sequence[int] | None = None) -> bytes:
    """The frame with its checksum finished in place."""
    ffi, lib = _library()
    lengths = lengths or [len(frame)]
    data = bytearray(frame)
    header, parts = _arguments(ffi, offload, lengths)
    status = lib.shim_checksum(
        ffi.from_buffer("uint8_t[]", data), len(frame), parts, len(lengths), header
    )
    if status < 0:
        raise OffloadError(-status)
    return bytes(data)


def packet_max(frame: bytes, offload: Offload) -> int:
    """Bytes of the largest packet the frame becomes; 0: the state is invalid."""
    ffi, lib = _library()
    header, _ = _arguments(ffi, offload, [len(frame)])
    return int(
        lib.shim_packet_max(ffi.from_buffer("uint8_t[]", bytearray(frame)), len(frame), header)
    )
