"""Packet sockets, item by item: which frames a port gets, in what shape, and by which way its own
go out. The rings themselves are test_packet_mmap.py's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support import cbpf
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
from tests.support.rigs import TAG_C, TAG_S, AfPacketRig, frame
from tests.support.switch import Switch, acquire
from tests.support.topology import Topology, run, wait_until
from tests.support.wire import HostPort, in_netns
from vswitch.filters import FilterError, compile_filter
from vswitch.kinds.backends import AfPacket
from vswitch.packet_filters import fanout_program, socket_filter

pytestmark = pytest.mark.root

PACKET_IGNORE_OUTGOING = 23


# --- P9: fanout -----------------------------------------------------------------------------------


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
