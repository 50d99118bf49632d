"""PACKET_MMAP, item by item: what the kernel's document says, on the kernel that is here.

The rings are looked at as the kernel leaves them (nobody is attached), or through a switch:

      packet socket ---- veth ---- af_packet port ---- bridge ---- memory port

The states of a send ring's slots, fanout modes and kills are driven in C (tests/c/test_af_packet*).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import select
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support import cbpf
from tests.support.rigs import TAG_C, TAG_S, AfPacketRig, frame
from tests.support.switch import Attached, NativeError, Switch, acquire
from tests.support.topology import Topology, run, wait_until
from tests.support.wire import HostPort, in_netns
from vswitch.filters import FilterError, compile_filter
from vswitch.kinds.backends import AfPacket
from vswitch.packet_filters import fanout_program, socket_filter

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root and network namespaces"),
]

SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, PACKET_RESERVE = 5, 6, 10, 12
PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 15, 23
TP_STATUS_USER, TP_STATUS_COPY, TP_STATUS_LOSING = 1, 2, 4
TP_STATUS_AVAILABLE, TP_STATUS_SEND_REQUEST, TP_STATUS_WRONG_FORMAT = 0, 1, 4
RESERVE_BYTES = 42
VERSIONS = (1, 2, 3)
SMALL_SLOTS = {"geometry_block_bytes": "4096", "geometry_blocks": "32"}  # 64 of 2 KB


class Slot(NamedTuple):
    status: int
    len: int
    snaplen: int
    mac: int
    net: int
    ns: int


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[AfPacketRig]:
    with contextlib.closing(AfPacketRig(tmp_path)) as rig:
        yield rig


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as switch:
        yield switch


@contextlib.contextmanager
def held(attached: Attached) -> Iterator[Attached]:
    """A port that nobody attaches."""
    try:
        yield attached
    finally:
        Switch.release(attached)


def ring(attached: Attached, length: int, queue: int = 0) -> mmap.mmap:
    return mmap.mmap(attached.fds[1 + queue], length)


def slot(view: mmap.mmap, version: int, at: int) -> Slot:
    if version == 1:
        *fields, sec, usec = struct.unpack_from("=QIIHHII", view, at)
        return Slot(*fields, sec * 10**9 + usec * 1000)
    *fields, sec, nsec = struct.unpack_from("=IIIHHII", view, at)
    return Slot(*fields, sec * 10**9 + nsec)


def statistics(attached: Attached, queue: int = 0) -> tuple[int, int]:
    """Packets (dropped ones included) and drops since the last look at one socket."""
    with socket.socket(fileno=os.dup(attached.fds[1 + queue])) as sock:
        packets, drops = struct.unpack("=II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    return packets, drops


def pump(switch: Switch, rig: AfPacketRig, frames: Sequence[bytes], inside: Attached) -> None:
    rig.send(switch, frames)
    assert switch.take(inside, len(frames)) == list(frames)


# --- P1: rings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("rings", ["rx", "tx", "both"])
def test_P1_rings_of_every_version(
    version: int, rings: str, rig: AfPacketRig, switch: Switch
) -> None:
    inside = switch.add("inside", "memory")
    port = switch.attach(rig.open({"version": str(version), "ring": rings}))
    detail = switch.status(port).detail
    assert detail.startswith(f"TPACKET_V{version}")
    assert ("rx ring" in detail, "tx ring" in detail) == (rings != "tx", rings != "rx")
    outwards = [frame(n, 60 + n % 1400, source=2, to=1) for n in range(2000)]
    for at in range(0, len(outwards), 500):
        switch.send(inside, outwards[at : at + 500])
        assert rig.receive(switch, 500) == outwards[at : at + 500]
    if rings != "tx":
        pump(switch, rig, [frame(n, 60 + n % 1400) for n in range(2000)][:900], inside)
    else:
        rig.peer.send(frame(1))
        assert switch.status(port).rx_queues == 0
    switch.settle()
    assert switch.counters(port).rx_frames == (900 if rings != "tx" else 0)


# --- P2: geometry ---------------------------------------------------------------------------------


def refusal(rig: AfPacketRig, options: Mapping[str, str]) -> str:
    """What acquire says against it; "": nothing."""
    try:
        attached = rig.open(options)
    except NativeError as error:
        return error.message
    Switch.release(attached)
    return ""


@pytest.mark.parametrize(
    ("version", "changes", "named"),
    [
        (2, {"block_bytes": 4097}, "geometry_block_bytes"),
        (1, {"block_bytes": 2048}, "geometry_block_bytes"),
        (3, {"block_bytes": 100_000}, "geometry_block_bytes"),
        (2, {"blocks": 0}, "geometry_blocks"),
        (2, {"frame_bytes": 2056}, "geometry_frame_bytes"),
        (2, {"frame_bytes": 80}, "geometry_frame_bytes"),
        (1, {"frame_bytes": 80}, "geometry_frame_bytes"),
        (2, {"block_bytes": 4096, "frame_bytes": 8192}, "geometry_frame_bytes"),
        (3, {"frame_bytes": 2048}, "geometry_frame_bytes"),
        (2, {"block_bytes": 1 << 26, "blocks": 17}, "geometry_blocks"),
    ],
)
def test_P2_each_broken_rule_is_named(
    rig: AfPacketRig, version: int, changes: dict[str, int], named: str
) -> None:
    options = {f"geometry_{name}": str(value) for name, value in changes.items()}
    assert named in refusal(rig, {"version": str(version), **options})


def kernel_takes(version: int, block_bytes: int, blocks: int, frame_bytes: int) -> bool:
    """The kernel's own verdict; frame_nr as it wants it."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.setsockopt(SOL_PACKET, PACKET_VERSION, version - 1)
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sock.setsockopt(SOL_PACKET, PACKET_RESERVE, RESERVE_BYTES)
        frames = block_bytes // frame_bytes * blocks
        request = struct.pack("=IIIIIII", block_bytes, blocks, frame_bytes, frames, 1, 0, 0)
        try:
            sock.setsockopt(SOL_PACKET, PACKET_RX_RING, request[: 28 if version == 3 else 16])
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    version=st.sampled_from((1, 2)),
    block_bytes=st.one_of(st.integers(1, 1 << 16), st.integers(1, 16).map(lambda n: n * 4096)),
    blocks=st.integers(1, 8),
    frame_bytes=st.one_of(
        st.integers(1, 1 << 16), st.integers(1, 600).map(lambda n: n * 16), st.integers(80, 130)
    ),
)
def test_P2_validator_and_kernel_agree(
    rig: AfPacketRig, version: int, block_bytes: int, blocks: int, frame_bytes: int
) -> None:
    geometry = {"block_bytes": block_bytes, "blocks": blocks, "frame_bytes": frame_bytes}
    options = {f"geometry_{name}": str(value) for name, value in geometry.items()}
    said = refusal(rig, {"version": str(version), **options})
    assert (said == "") == kernel_takes(version, block_bytes, blocks, frame_bytes), said
    if not said:
        return
    with pytest.raises(ValidationError):  # the API refuses it before the keeper sees it
        AfPacket.model_validate(
            {"type": "af_packet", "ifname": "e0", "version": version, "geometry": geometry}
        )


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("frame_bytes", [112, 304, 1360, 2064, 4096])
def test_P2_slots_never_span_blocks(
    rig: AfPacketRig, switch: Switch, version: int, frame_bytes: int
) -> None:
    """Sizes that leave a gap at a block's end, for several turns of the ring."""
    inside = switch.add("inside", "memory")
    geometry = {"geometry_block_bytes": "4096", "geometry_blocks": "5"}
    geometry["geometry_frame_bytes"] = str(frame_bytes)
    port = switch.attach(rig.open({"version": str(version), **geometry}))
    for n in range(300):
        pump(switch, rig, [frame(n, 60 + n * 7 % 1400)], inside)
    assert switch.counters(port).rx_drops == {}


# --- P3: what the versions say --------------------------------------------------------------------


def test_P3_v3_block_of_packed_frames(rig: AfPacketRig, switch: Switch) -> None:
    """num_pkts, the walk by next_offset, the hash where it was asked for."""
    inside = switch.add("inside", "memory")
    hashes = []
    for rxhash in ("0", "1"):
        attached = rig.open(
            {"version": "3", "rxhash": rxhash, "retire_ms": "20", "geometry_blocks": "4"}
        )
        frames = [udp_frame(n, 100 + 300 * n) for n in range(2)]
        for data in frames:
            rig.peer.send(data)
        assert select.select([attached.fds[1]], [], [], 2)[0]
        with ring(attached, 1 << 20) as view:
            status, count, at = struct.unpack_from("=III", view, 8)
            assert status & TP_STATUS_USER
            assert count == 2
            for data in frames:
                after, _, _, snaplen, length, _, mac, _, rx_hash = struct.unpack_from(
                    "=IIIIIIHHI", view, at
                )
                assert snaplen == length == len(data)
                assert view[at + mac : at + mac + length] == data
                hashes.append(rx_hash)
                at += after
        switch.attach(attached)
        assert switch.take(inside, 2) == frames
        switch.remove(attached)
    assert hashes[:2] == [0, 0]
    assert all(hashes[2:])


def test_P3_v3_idle_link_hands_over_by_timeout(rig: AfPacketRig) -> None:
    for retire_ms, early in (("1", True), ("1500", False)):
        with held(rig.open({"version": "3", "retire_ms": retire_ms})) as attached:
            rig.peer.send(frame(1))
            assert bool(select.select([attached.fds[1]], [], [], 0.3)[0]) == early
            assert select.select([attached.fds[1]], [], [], 5)[0]


@pytest.mark.parametrize("options", [{"version": "3"}, {"version": "3", "retire_ms": "50"}])
def test_P3_v3_sends_through_a_ring(
    rig: AfPacketRig, switch: Switch, options: dict[str, str]
) -> None:
    inside = switch.add("inside", "memory")
    switch.attach(rig.open({**options, "ring": "both"}))
    frames = [frame(n, 60 + n, source=2, to=1) for n in range(900)]
    switch.send(inside, frames)
    assert rig.receive(switch, len(frames)) == frames


# --- P4: ownership --------------------------------------------------------------------------------


def test_P4_slot_goes_back_to_the_kernel(rig: AfPacketRig, switch: Switch) -> None:
    """A slot is the reader's once the kernel says so, and 0 hands it back."""
    inside = switch.add("inside", "memory")
    attached = rig.open({"version": "2", **SMALL_SLOTS})
    with ring(attached, 1 << 17) as view:
        for n in range(3):
            rig.peer.send(frame(n))
        wait_until(lambda: slot(view, 2, 2 * 2048).status & TP_STATUS_USER != 0, 2, "filled")
        assert [slot(view, 2, n * 2048).status & TP_STATUS_USER for n in range(4)] == [1, 1, 1, 0]
        switch.attach(attached)
        assert switch.take(inside, 3) == [frame(n) for n in range(3)]
        switch.settle()
        wait_until(lambda: slot(view, 2, 2 * 2048).status == 0, 2, "handed back")
        assert [slot(view, 2, n * 2048).status for n in range(3)] == [0, 0, 0]


# --- P5: frames that do not fit -------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_P5_whole_frame_from_the_socket_queue(
    version: int, rig: AfPacketRig, switch: Switch
) -> None:
    """The slot bears COPY; all bytes come, in order with frames that fit."""
    inside = switch.add("inside", "memory")
    attached = rig.open({"version": str(version), "geometry_frame_bytes": "256", **SMALL_SLOTS})
    frames = [frame(n, 60 if n % 3 else 1500) for n in range(12)]
    for data in frames:
        rig.peer.send(data)
    with ring(attached, 1 << 17) as view:
        wait_until(lambda: slot(view, version, 11 * 256).status != 0, 2, "the slots are filled")
        flags = [slot(view, version, n * 256).status & TP_STATUS_COPY != 0 for n in range(12)]
    assert flags == [n % 3 == 0 for n in range(12)]
    switch.attach(attached)
    assert switch.take(inside, len(frames)) == frames
    assert switch.counters(attached).rx_drops == {}


@pytest.mark.parametrize("version", [1, 2])
def test_P5_without_a_copy_truncation_has_no_flag(
    version: int, rig: AfPacketRig, switch: Switch
) -> None:
    """The socket's queue is full: only snaplen < len tells, and the frame is counted."""
    switch.add("inside", "memory")
    attached = rig.open({"version": str(version), "geometry_frame_bytes": "256", **SMALL_SLOTS})
    with socket.socket(fileno=os.dup(attached.fds[1])) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    for n in range(6):
        rig.peer.send(frame(n, 1500))
    with ring(attached, 1 << 17) as view:
        wait_until(lambda: slot(view, version, 5 * 256).status != 0, 2, "the slots are filled")
        last = slot(view, version, 5 * 256)
    assert not last.status & TP_STATUS_COPY
    assert last.snaplen < last.len == 1500
    switch.attach(attached)
    wait_until(lambda: switch.counters(attached).rx_frames == 6, 5, "all are received")
    switch.settle()
    assert switch.counters(attached).rx_drops["truncated"] >= 4


def test_P5_v3_counts_truncated(rig: AfPacketRig, switch: Switch) -> None:
    """A frame larger than a block."""
    switch.add("inside", "memory")
    geometry = {"geometry_block_bytes": "4096", "geometry_blocks": "16"}
    attached = switch.attach(rig.open({"version": "3", **geometry}))
    rig.peer.send(frame(1, 9000))
    wait_until(lambda: switch.counters(attached).rx_frames == 1, 5, "it is received")
    switch.settle()
    assert switch.counters(attached).rx_drops == {"truncated": 1}
    assert switch.counters(attached).rx_bytes == 9000


# --- P6: overload ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_P6_offered_is_received_and_dropped(version: int, rig: AfPacketRig, switch: Switch) -> None:
    """Ten times more than fits; a port that comes back goes on counting."""
    switch.add("inside", "memory")
    attached = rig.open({"version": str(version), **SMALL_SLOTS})
    for overload in range(10):
        offered = 1500 + 37 * overload
        for n in range(offered):
            rig.peer.send(frame(n, 200))
        switch.attach(attached)

        def accounted(offered: int = offered) -> bool:
            switch.status(attached)  # reads what the kernel counted
            counters = switch.counters(attached)
            return counters.rx_frames + counters.kernel_drops == offered

        wait_until(accounted, 10, f"{offered} = received + dropped: {switch.counters(attached)}")
        assert switch.counters(attached).kernel_drops > 0
        switch.settle()
        assert accounted(), "to the frame"
        switch.detach(attached)
    Switch.release(attached)


def test_P6_statistics_of_the_kernel(rig: AfPacketRig) -> None:
    """Reading resets; packets include drops; LOSING marks what came after the drops."""
    geometry = {"geometry_block_bytes": "4096", "geometry_blocks": "4"}
    with held(rig.open({"version": "2", **geometry})) as attached, ring(attached, 16384) as view:
        for n in range(21):
            rig.peer.send(frame(n))
        wait_until(lambda: slot(view, 2, 7 * 2048).status != 0, 2, "the ring is full")
        assert statistics(attached) == (21, 13)
        assert statistics(attached) == (0, 0)
        for n in range(5):
            rig.peer.send(frame(n))
        assert statistics(attached) == (5, 5)
        for n in range(8):
            assert not slot(view, 2, n * 2048).status & TP_STATUS_LOSING
            view[n * 2048 : n * 2048 + 4] = bytes(4)
        rig.peer.send(frame(99))
        for n in range(3):
            rig.peer.send(frame(n))
        filled = [slot(view, 2, n * 2048).status for n in range(8)]
        assert any(filled)


# --- P7: unfinished checksums ---------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_P7_tcp_to_a_tap_has_right_checksums(version: int, switch: Switch) -> None:
    """The sender leaves checksums to its veth device; the stack behind the TAP finds them right."""
    with Topology(hosts=1) as net:
        tap = f"{net.prefix}t"
        options = {"ifname": net.switch_ifs[0], "version": str(version)}
        switch.attach(in_netns(net.switch, lambda: acquire("p1", "af_packet", options)))
        switch.attach(in_netns(net.switch, lambda: acquire("p2", "tap", {"name": tap})))
        run("ip", "-n", net.switch, "address", "add", "10.99.0.200/24", "dev", tap)
        run("ip", "-n", net.switch, "link", "set", tap, "up")
        assert "tx-checksumming: on" in net.run(net.hosts[0], "ethtool", "-k", net.host_ifs[0])
        data = os.urandom(300_000)
        with in_netns(net.switch, lambda: socket.create_server(("10.99.0.200", 0))) as server:
            server.settimeout(10)
            address = server.getsockname()
            with in_netns(
                net.hosts[0], lambda: socket.create_connection(address, timeout=10)
            ) as client:
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(10)
                    received = bytearray()
                    for at in range(0, len(data), 30_000):
                        client.sendall(data[at : at + 30_000])
                        while len(received) < min(at + 30_000, len(data)):
                            received += connection.recv(1 << 20)
        assert received == data
        snmp = net.run(net.switch, "cat", "/proc/net/snmp").splitlines()
        names, values = (line.split() for line in snmp if line.startswith("Tcp:"))
        tcp = dict(zip(names, values, strict=True))
        assert (tcp["InCsumErrors"], tcp["InErrs"]) == ("0", "0")


# --- P8: slots that are sent ----------------------------------------------------------------------


def tx_slots(version: int) -> dict[str, str]:
    """A send ring of two slots."""
    geometry = {"geometry_block_bytes": "4096", "geometry_blocks": "1"}
    return {"version": str(version), "ring": "tx", "geometry_frame_bytes": "2048", **geometry}


@pytest.mark.parametrize("version", VERSIONS)
def test_P8_states_of_a_slot(version: int, rig: AfPacketRig) -> None:
    """AVAILABLE, SEND_REQUEST, sent; oversize: EMSGSIZE and WRONG_FORMAT, and the ring stands."""
    status_at, length_at, data_at = {1: (0, 8, 32), 2: (0, 4, 32), 3: (20, 16, 48)}[version]
    with held(rig.open(tx_slots(version))) as attached, ring(attached, 4096) as view:
        sock = socket.socket(fileno=os.dup(attached.fds[1]))

        def put(at: int, data: bytes, length: int) -> None:
            view[at + data_at : at + data_at + 10 + len(data)] = bytes(10) + data
            view[at + length_at : at + length_at + 4] = length.to_bytes(4, "little")
            view[at + status_at] = TP_STATUS_SEND_REQUEST

        with sock:
            put(0, frame(1, 100), 110)
            assert sock.send(b"") == 100
            assert view[status_at] == TP_STATUS_AVAILABLE
            put(2048, b"", 3000)
            with pytest.raises(OSError, match="too long"):
                sock.send(b"")
            assert view[2048 + status_at] == TP_STATUS_WRONG_FORMAT
            put(0, frame(2, 100), 110)
            sock.send(b"", socket.MSG_DONTWAIT)
            assert view[status_at] == TP_STATUS_SEND_REQUEST, "stuck: whoever sends has to help"
            put(2048, frame(3, 100), 110)
            assert sock.send(b"") == 200
        wait_until(lambda: rig.peer.receive()[-1:] == [frame(2, 100)], 2, "in the ring's order")


@pytest.mark.parametrize("version", VERSIONS)
def test_P8_ring_never_wedges(version: int, rig: AfPacketRig, switch: Switch) -> None:
    """An MTU that shrinks behind the switch's back: those frames are dropped, no others."""
    inside = switch.add("inside", "memory")
    attached = switch.attach(rig.open({"version": str(version), "ring": "both"}))

    def set_mtu(mtu: int) -> None:
        for netns, ifname in (
            (rig.net.switch, rig.net.switch_ifs[0]),
            (rig.net.hosts[0], rig.net.host_ifs[0]),
        ):
            run("ip", "-n", netns, "link", "set", ifname, "mtu", str(mtu))

    for turn in range(3):
        set_mtu(1000)
        frames = [frame(n, 1400 if n % 7 == 3 else 200, source=2, to=1) for n in range(700)]
        switch.send(inside, frames)
        fit = [data for data in frames if len(data) < 1000]
        assert rig.receive(switch, len(fit)) == fit
        switch.settle()
        assert switch.counters(attached).tx_drops == {"too_big": 100 * (turn + 1)}
        set_mtu(9000)


# --- P9: fanout -----------------------------------------------------------------------------------


def udp_frame(number: int, length: int = 60, source: int = 1, port: int = 1000) -> bytes:
    udp = struct.pack("!HHHH", port, 9, length - 34, 0) + number.to_bytes(4, "big")
    head = struct.pack("!BBHIBBH", 0x45, 0, length - 14, 0, 64, 17, 0)
    ip = head + bytes((192, 0, 2, source, 198, 51, 100, 1))
    return (frame(0)[:12] + b"\x08\x00" + ip + udp + bytes(length))[:length]


def test_P9_fanout_program_from_an_expression(rig: AfPacketRig) -> None:
    """What matches goes to the first queue, the rest by addresses to the others."""
    queues = 4
    program = fanout_program("udp port 5060 or (vlan 7 and udp)", queues)
    options = {"queues": str(queues), "fanout": "cbpf", "fanout_program": program}
    with held(rig.open(options)) as attached:

        def counts(frames: Sequence[bytes]) -> list[int]:
            for data in frames:
                rig.peer.send(data)
            return [statistics(attached, queue)[0] for queue in range(queues)]

        assert counts([udp_frame(n, port=5060) for n in range(50)]) == [50, 0, 0, 0]
        tagged = [data[:12] + struct.pack("!HH", TAG_C, 7) + data[12:] for data in (udp_frame(1),)]
        assert counts(tagged * 10) == [10, 0, 0, 0]
        others = [udp_frame(n, source=n) for n in range(1, 201)]
        spread = counts(others)
        assert spread[0] == 0
        assert min(spread[1:]) > 30
        assert sum(spread) == 200
        assert sorted(counts([others[0]] * 20)) == [0, 0, 0, 20], "one conversation, one queue"
        assert counts([frame(n) for n in range(10)])[0] == 0, "no IP"


def test_P9_fanout_program_rules() -> None:
    with pytest.raises(FilterError):
        fanout_program("tcp", 1)
    with pytest.raises(FilterError):
        fanout_program("", 2)
    body: dict[str, Any] = {"type": "af_packet", "ifname": "e0"}
    for wrong in (
        {"fanout": "cbpf", "queues": 2},
        {"fanout": "hash", "fanout_program": "tcp"},
        {"fanout": "cbpf", "fanout_program": "tcp", "queues": 1},
        {"fanout": "rollover", "fanout_rollover": True},
        {"fanout": "all"},
        {"fanout_group": 65_536},
    ):
        with pytest.raises(ValidationError):
            AfPacket.model_validate({**body, **wrong})


# --- P10: without the queueing discipline ---------------------------------------------------------


def test_P10_qdisc_bypass(rig: AfPacketRig, switch: Switch) -> None:
    """tbf limits what goes through it; what bypasses it nobody else on the interface sees."""
    inside = switch.add("inside", "memory")
    frames = [frame(n, 1000, source=2, to=1) for n in range(200)]
    received_before = 0
    for ring_kind in ("rx", "both"):
        for bypass in (False, True):
            options = {"qdisc_bypass": str(int(bypass)), "ring": ring_kind}
            attached = switch.attach(rig.open(options))
            neighbour = in_netns(rig.net.switch, lambda: sniffer(rig.net.switch_ifs[0]))
            with neighbour, rig.slow():
                switch.send(inside, frames)
                received_before += len(frames)
                wait_until(
                    lambda wanted=received_before: switch.counters(inside).rx_frames == wanted,  # type: ignore[misc]
                    10,
                    "all are received",
                )
                switch.settle()
                sent = switch.counters(attached).tx_frames
                assert (sent == len(frames)) == bypass
                seen = received(neighbour)
                assert (seen == 0) == bypass
            if bypass:
                assert rig.receive(switch, len(frames))[-len(frames) :] == frames
            switch.remove(attached)
            rig.receive(switch, 0)


def sniffer(ifname: str) -> socket.socket:
    """Another program's look at the interface, what leaves it included."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind((ifname, 3))
    return sock


def received(sock: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while sock.recv(1 << 16, socket.MSG_DONTWAIT):
            count += 1
    return count


# --- P11: timestamps ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("source", ["kernel", "software", "hardware"])
def test_P11_received_time_is_monotonic(
    version: int, source: str, rig: AfPacketRig, switch: Switch
) -> None:
    switch.add("inside", "memory")
    attached = rig.open({"version": str(version), "timestamp": source, **SMALL_SLOTS})
    for n in range(30):
        rig.peer.send(frame(n))
    with ring(attached, 1 << 17) as view:
        wait_until(lambda: slot(view, version, 29 * 2048).status != 0, 2, "filled")
        times = [slot(view, version, n * 2048).ns for n in range(30)]
    assert all(a <= b for a, b in pairwise(times))
    assert times[-1] > times[0] > 10**18
    if version == 2:
        assert any(ns % 1000 for ns in times)
    switch.attach(attached)
    wait_until(lambda: switch.counters(attached).rx_frames == 30, 5, "received")
    detail = switch.status(attached).detail
    assert "tx_timestamps: unsupported" in detail
    assert any(f"rx_timestamps: {word}" in detail for word in ("kernel", "software"))


# --- P12, P13: tags, frames of one's own ----------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    "tags",
    [
        ((TAG_C, 0xA01D),),
        ((TAG_C, 0xA000),),
        ((TAG_C, 0xFFFF),),
        ((TAG_S, 0x0064), (TAG_C, 0x000C)),
    ],
)
def test_P12_tagged_frames_are_byte_identical(
    version: int, tags: tuple[tuple[int, int], ...], rig: AfPacketRig, switch: Switch
) -> None:
    inside = switch.add("inside", "memory")
    switch.attach(rig.open({"version": str(version), "ring": "both"}))
    frames = [frame(n, 64 + n, *tags) for n in range(20)]
    pump(switch, rig, frames, inside)
    switch.send(inside, frames)
    assert rig.receive(switch, len(frames)) == frames


def test_P12_version_1_drops_what_it_cannot_carry(rig: AfPacketRig, switch: Switch) -> None:
    inside = switch.add("inside", "memory")
    attached = switch.attach(rig.open({"version": "1"}))
    for n in range(10):
        rig.peer.send(frame(n, 64, *(((TAG_C, n),) if n % 2 else ())))
    assert switch.take(inside, 5) == [frame(n, 64) for n in range(0, 10, 2)]
    switch.settle()
    assert switch.counters(attached).rx_drops == {"vlan_unsupported": 5}
    assert switch.counters(attached).rx_bytes == 640


@pytest.mark.parametrize("kernel_ignores", [True, False])
def test_P13_no_frame_comes_back(kernel_ignores: bool, switch: Switch) -> None:
    """Two ports of a bridge: each frame once, however the kernel shows outgoing ones."""
    with Topology(hosts=2, addresses=False) as net:
        for i, ifname in enumerate(net.switch_ifs):
            options = {"ifname": ifname}
            attached = in_netns(
                net.switch,
                lambda options=options, i=i: acquire(f"p{i}", "af_packet", options),  # type: ignore[misc]
            )
            if not kernel_ignores:
                with socket.socket(fileno=os.dup(attached.fds[1])) as sock:
                    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 0)
                attached.state = attached.state.replace("outgoing=0", "outgoing=1")
            switch.attach(attached)
        ports = list(switch.ports.values())
        hosts = [HostPort(*pair) for pair in zip(net.hosts, net.host_ifs, strict=True)]
        got: list[list[bytes]] = [[], []]
        for n in range(200):
            hosts[n % 2].send(frame(n, source=1 + n % 2, to=2 - n % 2))

        def all_there() -> bool:
            for number, host in enumerate(hosts):
                got[number] += host.receive()
            return all(len(frames) >= 100 for frames in got)

        wait_until(all_there, 10, "every frame on the other side")
        switch.settle()
        all_there()
        assert [len(frames) for frames in got] == [100, 100]
        assert [switch.counters(port).rx_frames for port in ports] == [100, 100]
        for host in hosts:
            host.close()


# --- P14, P15: before and after bind --------------------------------------------------------------


def test_P14_foreign_unicast_arrives_and_promiscuity_ends(rig: AfPacketRig, switch: Switch) -> None:
    inside = switch.add("inside", "memory")
    attached = switch.attach(rig.open())
    pump(switch, rig, [frame(1, to=77)], inside)
    show = ("ip", "-d", "-n", rig.net.switch, "link", "show", rig.net.switch_ifs[0])
    assert "promiscuity 1" in run(*show)
    switch.remove(attached)
    assert "promiscuity 0" in run(*show)


@contextlib.contextmanager
def busy(netns: str, ifname: str, data: bytes) -> Iterator[None]:
    """A child that sends as fast as it can."""
    host = HostPort(netns, ifname)
    pid = os.fork()
    if pid == 0:
        try:
            while os.getppid() != 1:
                with contextlib.suppress(OSError):
                    host.send(data)
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        host.close()


@pytest.mark.parametrize("queues", [1, 3])
def test_P14_filter_is_there_before_the_first_frame(rig: AfPacketRig, queues: int) -> None:
    """Under traffic that it does not want, a new socket never got one of them."""
    options = {"filter": socket_filter("ether src 02:00:00:00:00:99"), "queues": str(queues)}
    with busy(rig.net.hosts[0], rig.net.host_ifs[0], frame(1)):
        for _ in range(20):
            with held(rig.open(options)) as attached:
                assert [statistics(attached, q) for q in range(queues)] == [(0, 0)] * queues


@pytest.mark.parametrize("version", VERSIONS)
def test_P15_no_frame_of_another_interface(version: int) -> None:
    """A socket that is not bound yet receives nothing, however busy the machine is."""
    with Topology(hosts=2, addresses=False) as net:
        options = {"ifname": net.switch_ifs[0], "version": str(version)}
        with busy(net.hosts[1], net.host_ifs[1], frame(1)):
            for _ in range(20):
                with held(
                    in_netns(net.switch, lambda: acquire("p", "af_packet", options))
                ) as attached:
                    assert statistics(attached) == (0, 0)


# --- filters --------------------------------------------------------------------------------------

EXPRESSIONS = (
    "tcp",
    "udp port 1000",
    "not tcp",
    "ip",
    "arp",
    "vlan",
    "vlan 10",
    "vlan 10 and udp",
    "vlan 10 and vlan 20",
    "vlan and udp src port 1000",
    "not vlan",
    "not udp port 1000",
    "less 100",
    "greater 64",
    "len = 64",
    "ether[14] = 0xa0",
    "ether[15] & 0x0f = 10",
    "ether[12:2] = 0x88a8",
    "ether[16:2] = 0x0800",
    "ether src 02:00:00:fd:00:01 and host 198.51.100.1",
    "ip[6:2] & 0x1fff = 0 and dst net 198.51.100.0/24",
)


def filter_corpus() -> list[bytes]:
    plain = [udp_frame(1), udp_frame(2, 400, port=7), frame(3), frame(4, 300)]
    plain.append(frame(0)[:12] + b"\x08\x06" + bytes(46))
    plain.append(frame(0)[:12] + b"\x08\x00" + udp_frame(1)[14:23] + b"\x06" + bytes(40))
    tags = ((), ((TAG_C, 10),), ((TAG_C, 0xA00A),), ((TAG_S, 10), (TAG_C, 20)), ((TAG_C, 11),))
    return [
        data[:12] + b"".join(struct.pack("!HH", *tag) for tag in kind) + data[12:]
        for data in plain
        for kind in tags
    ]


@pytest.mark.parametrize("version", [1, 2])
def test_P14_filters_see_the_wire(version: int, rig: AfPacketRig) -> None:
    """The kernel's verdict on each frame is libpcap's on its bytes, tags included."""
    frames = filter_corpus()
    for expression in EXPRESSIONS:
        program = compile_filter(expression)
        expected = [cbpf.run(program, data) > 0 for data in frames]
        options = {"version": str(version), "filter": socket_filter(expression)}
        with held(rig.open(options)) as attached:
            found = []
            for data in frames:
                rig.peer.send(data)
                found.append(statistics(attached)[0] == 1)
        assert found == expected, expression
        assert any(expected), expression
        assert not all(expected), expression


def test_P14_filters_that_cannot_be() -> None:
    for expression in ("ether[11:2] = 1", "ether[14:4] = 1", "ether[ether[0]] = 1"):
        with pytest.raises(FilterError):
            socket_filter(expression)
    assert socket_filter("  ") == ""
