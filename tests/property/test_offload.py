"""offload.c against a model that lets scapy write every header anew from the original packet."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.packet import Packet

from tests.support import offload
from tests.support.offload import Offload, OffloadError
from tests.support.offload_model import (
    finished,
    gso_type,
    l4_of,
    model,
    packets,
    splits,
    unfinished,
)


@settings(max_examples=150, deadline=None)
@given(packets(), st.integers(1, 65535), st.booleans(), st.booleans(), st.data())
def test_segments(packet: Packet, mss: int, by_copy: bool, ecn: bool, data: st.DataObject) -> None:
    payload = len(l4_of(packet).payload)
    mss = max(mss % 3000, 1)
    frame, start, place = unfinished(packet)
    state = Offload(
        offload.CSUM_NEEDED,
        gso_type(packet) | (offload.ECN if ecn else 0),
        hdr_len=data.draw(st.integers(0, 65535)),
        gso_size=mss,
        csum_start=start,
        csum_offset=place,
    )
    lengths = data.draw(splits(len(frame)))
    if (payload + mss - 1) // mss > offload.SEGMENTS_MAX:
        with pytest.raises(OffloadError) as caught:
            offload.cut(frame, state, 0, lengths, by_copy=by_copy)
        assert caught.value.errno == errno.EINVAL
        return
    made = offload.cut(frame, state, offload.CAP_FRAGS, lengths, by_copy=by_copy)
    expected = model(packet, mss)
    assert [segment.data for segment in made] == expected
    assert all(segment.left.flags == segment.left.gso_type == 0 for segment in made)
    assert offload.packet_max(frame, state) == max(len(segment) for segment in expected)

    # A device that finishes checksums but cuts nothing gets the same, after its share of the work.
    caps = offload.CAP_FRAGS | offload.CAP_CSUM
    made = offload.cut(frame, state, caps, lengths, by_copy=by_copy)
    assert [offload.checksum(segment.data, segment.left) for segment in made] == expected


@settings(max_examples=150, deadline=None)
@given(packets(), st.booleans(), st.data())
def test_checksum(packet: Packet, by_copy: bool, data: st.DataObject) -> None:
    frame, start, place = unfinished(packet)
    state = Offload(offload.CSUM_NEEDED, csum_start=start, csum_offset=place)
    lengths = data.draw(splits(len(frame)))
    expected = finished(packet)
    assert offload.checksum(frame, state, lengths) == expected
    (made,) = offload.cut(frame, state, 0, lengths, by_copy=by_copy)
    assert made.data == expected
    assert made.left.flags == 0


@settings(max_examples=300, deadline=None)
@given(packets(), st.binary(min_size=10, max_size=10), st.integers(0, 31), st.data())
def test_nonsense_is_refused_or_bounded(
    packet: Packet, header: bytes, caps: int, data: st.DataObject
) -> None:
    """Any state over any damaged frame: an error, or segments that hold no more than there was."""
    frame = bytearray(unfinished(packet)[0])
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, min(len(frame), 200) - 1), st.integers(0, 255)))
    ):
        frame[at] = value
    state = Offload(*struct.unpack("=BBHHHH", header))
    try:
        made = offload.cut(bytes(frame), state, caps)
    except OffloadError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return
    assert 1 <= len(made) <= offload.SEGMENTS_MAX
    assert all(len(segment.data) <= len(frame) for segment in made)
