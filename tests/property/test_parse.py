"""parse.c against a model that slices bytes: every frame, in any cut into fragments."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.support.core import core
from tests.support.parse_model import (
    BAD,
    EXTENSIONS,
    EXTENSIONS_MAX,
    IP,
    L3,
    L4,
    PORTS,
    model,
    model_tags,
)

# --- frames that get deep ------------------------------------------------------------------------

draw_bytes = st.binary


@st.composite
def l4(draw: st.DrawFn, proto: int) -> bytes:
    if proto == 6:
        offset = draw(st.sampled_from([5, 5, 5, 6, 15, 4, 0]))
        return (
            draw(draw_bytes(min_size=12, max_size=12))
            + bytes([offset << 4])
            + draw(draw_bytes(min_size=7, max_size=40))
        )
    return draw(draw_bytes(min_size=4, max_size=40))


@st.composite
def ipv4(draw: st.DrawFn) -> bytes:
    proto = draw(st.sampled_from([1, 6, 6, 17, 17, 58, 99]))
    words = draw(st.sampled_from([5, 5, 5, 6, 15, 4]))
    body = draw(draw_bytes(min_size=max(0, 4 * words - 20), max_size=max(0, 4 * words - 20)))
    body += draw(l4(proto))
    total = draw(st.sampled_from([20 + len(body)] * 4 + [19, 20, 21 + len(body), 4 * words]))
    fragment = draw(st.sampled_from([0, 0, 0x4000, 0x2000, 0x2001, 0x1FFF, 0x8000]))
    head = struct.pack("!BBHHHBB", 4 << 4 | words, draw(byte), total, 1, fragment, 64, proto)
    return head + draw(draw_bytes(min_size=10, max_size=10)) + body


@st.composite
def ipv6(draw: st.DrawFn) -> bytes:
    kinds = draw(st.lists(st.sampled_from(sorted(EXTENSIONS)), max_size=10))
    proto = draw(st.sampled_from([6, 17, 58, 1, 59]))
    chain = [*kinds, proto]
    body = b""
    for at, kind in enumerate(kinds):
        blocks = 0 if kind == 44 else draw(st.sampled_from([0, 0, 1, 2]))
        size = 4 * (blocks + 2) if kind == 51 else 8 * (blocks + 1)
        fragment = draw(st.sampled_from([0, 0, 1, 8, 9, 6])) if kind == 44 else draw(byte)
        content = draw(draw_bytes(min_size=size - 4, max_size=size - 4))
        body += struct.pack("!BBH", chain[at + 1], blocks, fragment) + content
    body += draw(l4(proto))
    length = draw(st.sampled_from([len(body)] * 4 + [0, len(body) + 1, 39]))
    head = struct.pack(
        "!IHBB", draw(st.sampled_from([6, 6, 6, 4])) << 28 | draw(byte) << 20, length, chain[0], 1
    )
    return head + draw(draw_bytes(min_size=32, max_size=32)) + body


byte = st.integers(0, 255)
arp = st.builds(
    lambda head, rest: head + rest,
    st.sampled_from([b"\x00\x01\x08\x00\x06\x04\x00", b"\x00\x01\x08\x00\x06\x06\x00"]),
    draw_bytes(min_size=18, max_size=40),
)
tag = st.builds(
    lambda tpid, tci: struct.pack("!HH", tpid, tci),
    st.sampled_from([0x8100, 0x88A8]),
    st.integers(0, 0xFFFF),
)
payload = st.one_of(
    st.tuples(st.just(b"\x08\x00"), ipv4()),
    st.tuples(st.just(b"\x86\xdd"), ipv6()),
    st.tuples(st.just(b"\x08\x06"), arp),
    st.tuples(draw_bytes(min_size=2, max_size=2), draw_bytes(max_size=80)),
)
sound = st.builds(
    lambda macs, tags, body, padding: macs + b"".join(tags) + body[0] + body[1] + padding,
    draw_bytes(min_size=12, max_size=12),
    st.lists(tag, max_size=3),
    payload,
    draw_bytes(max_size=20),
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Sound ones, cut off ones, ones with a byte changed, and noise."""
    data = draw(st.one_of(sound, sound, sound, draw_bytes(max_size=120)))
    if draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    if data and draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw(byte)]) + data[at + 1 :]
    return data


@st.composite
def cuts(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    """A frame and the lengths of its fragments, which may be empty."""
    data = draw(frames())
    ends = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return data, [b - a for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


def parsed(data: bytes, lengths: list[int]) -> Any:
    ffi, lib = core()
    key = ffi.new("struct flow_key *")
    lib.shim_parse_flow(data, lengths, len(lengths), 77, key)
    return key


@settings(max_examples=1000)
@given(cuts())
def test_fields(cut: tuple[bytes, list[int]]) -> None:
    ffi, _ = core()
    data, lengths = cut
    key = parsed(data, lengths)
    expected = model(data)
    event(f"layers {expected.layers:#x}")
    assert (key.vid, key.state, bytes(key.zero)) == (77, 0, bytes(2))
    for name, value in vars(expected).items():
        field = getattr(key, name)
        got = bytes(ffi.buffer(field)) if isinstance(value, bytes) else field
        assert got == value, name


@pytest.mark.parametrize("followed", [0, 1, EXTENSIONS_MAX, EXTENSIONS_MAX + 1])
def test_extension_headers_up_to_the_limit(followed: int) -> None:
    kinds = [60] * followed + [17]
    body = b"".join(bytes([kind, 0]) + bytes(6) for kind in kinds[1:]) + bytes(8)
    head = struct.pack("!IHBB", 6 << 28, len(body), kinds[0], 1) + bytes(32)
    data = bytes(12) + b"\x86\xdd" + head + body
    key = parsed(data, [len(data)])
    sound = followed <= EXTENSIONS_MAX
    assert key.layers == L3 | IP | (L4 | PORTS if sound else BAD)


@given(cuts())
def test_tags(cut: tuple[bytes, list[int]]) -> None:
    ffi, lib = core()
    data, lengths = cut
    out = ffi.new("struct shim_l2 *")
    good = lib.shim_parse_l2(data, lengths, len(lengths), out)
    expected = model_tags(data)
    assert bool(good) == (expected is not None)
    if expected is not None:
        tcis, kind, rest = expected
        assert (out.tags, out.ethertype) == (len(tcis), kind)
        assert out.tci == (tcis[0] if tcis else 0)
        assert out.l3_offset == len(data) - len(rest)
        assert bytes(out.dst) + bytes(out.src) == data[:12]


@given(frames(), st.data())
def test_hash_is_the_same_both_ways(data: bytes, draw: st.DataObject) -> None:
    ffi, lib = core()
    key = parsed(data, [len(data)])
    back = ffi.new("struct flow_key *", key[0])
    for one, two in (("ip_src", "ip_dst"), ("l4_src", "l4_dst"), ("eth_src", "eth_dst")):
        setattr(back, one, getattr(key, two))
        setattr(back, two, getattr(key, one))
    assert lib.shim_flow_hash(key) == lib.shim_flow_hash(back) != 0
