"""Pipes between two bridges of one forwarder, and the memory that both ends share."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fastpath import Client, FastPath, bridge, port
from tests.support.topology import wait_until

FRAMES = 1_000_000
RECORD = struct.Struct("<IIII")
FILE_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[FastPath]:
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    with FastPath(tmp_path) as started:
        yield started


def numbered(count: int) -> bytes:
    """Frames of 60 to 123 bytes from one station to another, as a file's records."""
    head = bytes([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]) + b"\x88\xb5"
    fill = bytes(range(128))
    out = bytearray(FILE_HEADER)
    for number in range(count):
        length = 60 + number % 64
        out += RECORD.pack(0, 0, length, length)
        out += head + number.to_bytes(4, "big") + fill[18:length]
    return bytes(out)


def frames_of(file: bytes) -> Iterator[bytes]:
    at = len(FILE_HEADER)
    while at + RECORD.size <= len(file):
        length = RECORD.unpack_from(file, at)[2]
        at += RECORD.size + length
        yield file[at - length : at]


def two_bridges(client: Client, *outside: object) -> None:
    """br0 and br1, joined by a pipe."""
    ack = client.apply(
        [
            bridge("br0"),
            bridge("br1"),
            port("m", "pipe", "br0", options={"name": "x", "end": "master"}),
            port("s", "pipe", "br1", options={"name": "x", "end": "slave"}),
            *outside,  # type: ignore[list-item]
        ]
    )
    assert all(outcome.ok for outcome in ack.outcomes.values()), ack.outcomes


def test_N10_a_million_frames_cross_a_pipe(path: FastPath) -> None:
    """A file is read faster than the other one is written: the pipe is full again and again."""
    pcap = path.data / "pcap"
    sent = numbered(FRAMES)
    (pcap / "in.pcap").write_bytes(sent)
    with path.client() as client:
        two_bridges(client, port("out", "pcap", "br1", options={"out": "out.pcap"}))
        reader = port("in", "pcap", "br0", options={"in": "in.pcap", "rate": "0"})
        assert client.apply([reader]).outcomes["port/in"].ok

        def written() -> int:
            return next(p.tx_frames for p in client.stats().ports if p.name == "out")

        wait_until(lambda: written() == FRAMES, 120, "all frames are written")
        ledger = client.check_ledger()
        ports = {p.name: p for p in client.stats().ports}
        assert client.apply((), ["port/in", "port/out"]).hash
    assert ledger.drops == 0
    assert (ports["m"].tx_frames, ports["s"].rx_frames) == (FRAMES, FRAMES)
    received = (pcap / "out.pcap").read_bytes()
    assert all(a == b for a, b in zip(frames_of(sent), frames_of(received), strict=True))
