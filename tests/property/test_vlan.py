"""vlan.c against a model that takes the tag off on the way in and puts one on on the way out."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.support.core import core

ACCESS, TRUNK, NATIVE, TUNNEL = range(4)
NOT_ADMITTED, NOT_MEMBER = -1, -2


@dataclass(frozen=True)
class Port:
    mode: int
    pvid: int
    tagged: frozenset[int]

    def member(self, vid: int) -> bool:
        if self.mode == TRUNK:
            return vid in self.tagged
        return vid == self.pvid or (self.mode == NATIVE and vid in self.tagged)

    def sends_tagged(self, vid: int) -> bool:
        return self.mode == TRUNK or (self.mode == NATIVE and vid != self.pvid)


@dataclass(frozen=True)
class Inside:
    """A frame in the switch: its VLAN, what its tag would look like, the bytes behind that."""

    vid: int
    tpid: int
    priority: int  # PCP and DEI, in place
    rest: bytes
    to_customer: bytes  # behind the addresses, where a tunnel port sends it


def model_in(port: Port, frame: bytes) -> Inside | None:
    """IEEE 802.1Q-2018, 6.9.1; None: dropped."""
    rest = frame[12:]
    tpid, tci = struct.unpack("!HH", rest[:4])
    tagged = tpid in (0x8100, 0x88A8)
    if port.mode == TUNNEL:
        return Inside(port.pvid, 0x88A8, tci & 0xF000 if tagged else 0, rest, rest)
    if tagged and tci & 0xFFF:
        vid = tci & 0xFFF
        if port.mode == ACCESS or vid == 4095 or not port.member(vid):
            return None
        return Inside(vid, tpid, tci & 0xF000, rest[4:], rest[4:])
    if port.mode == TRUNK:
        return None
    if tagged:  # priority only: a tag of the sender, which a tunnel's customer gets back
        return Inside(port.pvid, tpid, tci & 0xF000, rest[4:], rest)
    return Inside(port.pvid, 0x8100, 0, rest, rest)


def model(source: Port, target: Port, frame: bytes) -> tuple[int, bytes]:
    """Status (or length) and the frame that leaves."""
    inside = model_in(source, frame)
    if inside is None:
        return NOT_ADMITTED, b""
    if not target.member(inside.vid):
        return NOT_MEMBER, b""
    if target.sends_tagged(inside.vid):
        tag = struct.pack("!HH", inside.tpid, inside.priority | inside.vid)
        out = frame[:12] + tag + inside.rest
    else:
        out = frame[:12] + (inside.to_customer if target.mode == TUNNEL else inside.rest)
    return len(out), out


vids = st.sampled_from([1, 64, 4094])
ports = st.builds(Port, st.integers(0, 3), vids, st.frozensets(vids))
tags = st.builds(
    lambda tpid, priority, vid: struct.pack("!HH", tpid, priority << 12 | vid),
    st.sampled_from([0x8100, 0x88A8]),
    st.integers(0, 15),
    st.one_of(vids, st.sampled_from([0, 3, 4095])),
)
frames = st.builds(
    lambda macs, tags, rest: macs + b"".join(tags) + b"\x88\xb5" + rest,
    st.binary(min_size=12, max_size=12),
    st.lists(tags, max_size=3),
    st.binary(min_size=4, max_size=40),
)


def shim_port(port: Port) -> Any:
    ffi, _ = core()
    bits = [0] * 64
    for vid in port.tagged:
        bits[vid // 64] |= 1 << vid % 64
    return ffi.new("struct shim_vlan_port *", (port.mode, port.pvid, bits))


def passed(source: Port, target: Port, frame: bytes) -> tuple[int, bytes, int]:
    ffi, lib = core()
    out, vid = ffi.new("uint8_t[]", len(frame) + 4), ffi.new("uint16_t *")
    status = lib.shim_vlan(shim_port(source), shim_port(target), frame, len(frame), out, vid)
    return status, bytes(ffi.buffer(out, max(status, 0))), vid[0]


@settings(max_examples=1000)
@given(ports, ports, frames)
def test_through_the_switch(source: Port, target: Port, frame: bytes) -> None:
    status, out = model(source, target, frame)
    event(f"{source.mode} to {target.mode}: {'passes' if status > 0 else status}")
    got = passed(source, target, frame)
    assert got[:2] == (status, out)
    inside = model_in(source, frame)
    if inside is not None:
        assert got[2] == inside.vid


@given(vids, st.frozensets(vids), frames)
def test_a_tunnel_is_transparent(vid: int, tagged: frozenset[int], frame: bytes) -> None:
    """Customer to customer over a trunk: what comes out is what went in, tags included."""
    customer, trunk = Port(TUNNEL, vid, frozenset()), Port(TRUNK, 1, tagged | {vid})
    status, middle, _ = passed(customer, trunk, frame)
    assert status == len(frame) + 4
    assert passed(trunk, customer, middle)[:2] == (len(frame), frame)


@given(ports, frames)
def test_trunks_do_not_touch(port: Port, frame: bytes) -> None:
    """Between two trunks of the same VLANs a frame passes unchanged or not at all."""
    trunk = Port(TRUNK, port.pvid, port.tagged)
    status, out, _ = passed(trunk, trunk, frame)
    assert status == NOT_ADMITTED or out == frame
