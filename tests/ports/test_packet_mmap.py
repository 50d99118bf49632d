"""PACKET_MMAP, item by item: what the kernel's document says, on the kernel that is here.

The rings are looked at as the kernel leaves them (nobody is attached), or through a switch:

      packet socket ---- veth ---- af_packet port ---- bridge ---- memory port

The states of a send ring's slots, fanout modes and kills are driven in C (tests/c/test_af_packet*).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support.packet_ring import (
    SMALL_SLOTS,
    SOL_PACKET,
    VERSIONS,
    held,
    pump,
    ring,
    slot,
    statistics,
    udp_frame,
)
from tests.support.rigs import AfPacketRig, frame
from tests.support.switch import NativeError, Switch, acquire
from tests.support.topology import Topology, run, wait_until
from tests.support.wire import in_netns
from vswitch.kinds.backends import AfPacket

pytestmark = pytest.mark.root

PACKET_RX_RING, PACKET_VERSION, PACKET_RESERVE, PACKET_VNET_HDR = 5, 10, 12, 15
TP_STATUS_USER, TP_STATUS_COPY, TP_STATUS_LOSING = 1, 2, 4
TP_STATUS_AVAILABLE, TP_STATUS_SEND_REQUEST, TP_STATUS_WRONG_FORMAT = 0, 1, 4
RESERVE_BYTES = 42


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
