"""TAP ports: the device's life, and what crosses them with and without offload state.

       host 0                     test process                      host 1
    +------------+        +---------------------------+        +------------+
    | tap0  (ns) |========| port a    bridge   port b |========| tap1  (ns) |
    +------------+   fd   |           port m          |   fd   +------------+
                          | memory: takes nothing     |
                          | unfinished                |
                          +---------------------------+

The engine runs in the test; the TAPs' network interfaces are moved into the hosts' namespaces,
where packet sockets with a virtio-net header send and see frames with their offload state.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from fastpath import native
from tests.support import offload
from tests.support.fastpath import bridge
from tests.support.offload import Offload
from tests.support.offload_model import finished, gso_type, l4_of, model, packets, unfinished
from tests.support.packet_socket import PacketSocket, in_netns, mark_frame
from tests.support.switch import Attached, Switch, acquire
from tests.support.topology import Topology, run, wait_until

pytestmark = pytest.mark.root

HOST_MAC = "02:00:00:00:00:01"  # destination of the frames of offload_model
MTU = 1500


def open_tap(netns: str, **options: str) -> Attached:
    """A TAP made in a namespace, as a keeper that lives there would."""
    return in_netns(netns, lambda: acquire("tap", "tap", options))


def name_of(tap: Attached) -> str:
    """The name the kernel gave it."""
    return dict(pair.split("=") for pair in tap.state.split())["name"]


@pytest.fixture(scope="module")
def net() -> Iterator[Topology]:
    with Topology(hosts=2, addresses=False) as net:
        yield net


@dataclass
class Pair:
    """Two TAPs and a memory port on one bridge, packet sockets at the far ends."""

    switch: Switch
    taps: list[Attached]
    memory: Attached
    hosts: list[PacketSocket]
    marks: Iterator[int] = field(default_factory=itertools.count)

    def send(self, frame: bytes, state: Offload) -> tuple[list[tuple[bytes, Offload]], list[bytes]]:
        """From host 0; what host 1 and the memory port got of it."""
        mark = mark_frame(next(self.marks))
        self.hosts[0].send(frame, state)
        self.hosts[0].send(mark)
        arrived = self.hosts[1].until(mark)
        self.switch.settle()
        memory = self.switch.take(self.memory, 1)
        assert memory.pop() == mark
        return arrived, memory

    def policy(self, attached: Attached, policy: str) -> None:
        """Another offload policy for one port, published."""
        attached.spec = msgspec.structs.replace(attached.spec, offload_policy=policy)
        self.switch.publish()


@pytest.fixture(scope="module")
def pair(net: Topology) -> Iterator[Pair]:
    with Switch() as switch, contextlib.ExitStack() as stack:
        taps, hosts = [], []
        for i, netns in enumerate(net.hosts):
            taps.append(switch.attach(open_tap(net.switch, name=f"tap{i}", mtu="9000")))
            run("ip", "-n", net.switch, "link", "set", f"tap{i}", "netns", netns)
            run("ip", "-n", netns, "link", "set", f"tap{i}", "up")
            hosts.append(PacketSocket(netns, f"tap{i}", offloads=True))
            stack.callback(hosts[-1].close)
        memory = switch.add("memory", "memory", {"slots": "2048"})
        yield Pair(switch, taps, memory, hosts)


def state_of(packet: Packet, mss: int) -> tuple[bytes, Offload]:
    frame, start, place = unfinished(packet)
    segmented = len(l4_of(packet).payload) > mss
    return frame, Offload(
        offload.CSUM_NEEDED,
        gso_type(packet) if segmented else 0,
        hdr_len=len(frame) - len(l4_of(packet).payload),
        gso_size=mss if segmented else 0,
        csum_start=start,
        csum_offset=place,
    )


def meaning(state: Offload) -> tuple[int, ...]:
    """All but the hint, and the sizes that mean nothing without segmentation."""
    gso = (state.gso_type, state.gso_size) if state.gso_type else (0, 0)
    return (state.flags & offload.CSUM_NEEDED, *gso, state.csum_start, state.csum_offset)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(packet=packets(), mss=st.integers(500, 3000))
def test_carried_to_a_tap_completed_for_memory(pair: Pair, packet: Packet, mss: int) -> None:
    """One flooded frame: whole and unfinished where that is understood, complete elsewhere."""
    frame, state = state_of(packet, mss)
    arrived, memory = pair.send(frame, state)
    assert [data for data, _ in arrived] == [frame]
    assert meaning(arrived[0][1]) == meaning(state)
    assert memory == model(packet, mss if state.gso_type else 65535)


def tcp(payload: int, *layers: Packet) -> Packet:
    packet = Ether(dst=HOST_MAC, src="02:00:00:00:00:02")
    for layer in layers:
        packet /= layer
    packet /= IP(src="10.0.0.1", dst="10.0.0.2", id=7) / TCP(sport=1, dport=2, flags="PA")
    return packet / Raw(bytes(i & 255 for i in range(payload)))


def test_policies(pair: Pair) -> None:
    packet = tcp(10000)
    frame, state = state_of(packet, 1400)
    plain = finished(tcp(100))
    switch, tap = pair.switch, pair.taps[1]
    try:
        pair.policy(tap, "complete")
        arrived, _ = pair.send(frame, state)
        assert [data for data, _ in arrived] == model(packet, 1400)
        assert all(not left.flags & offload.CSUM_NEEDED for _, left in arrived)
        segments = switch.counters(tap).segments

        pair.policy(tap, "refuse")
        pair.policy(pair.memory, "refuse")
        arrived, memory = pair.send(frame, state)
        # A TAP can carry it, so there is nothing to refuse; memory would need it completed.
        assert [data for data, _ in arrived] == [frame]
        assert memory == []
        assert switch.counters(pair.memory).tx_drops == {"offload_refused": 1}
        assert switch.counters(tap).segments == segments
        arrived, memory = pair.send(plain, Offload())
        assert [data for data, _ in arrived] == [plain]
        assert memory == [plain]
    finally:
        for attached in (tap, pair.memory):
            pair.policy(attached, "carry")


def test_larger_than_the_mtu(pair: Pair) -> None:
    """An MTU counts for the packets that a frame becomes, not for the frame."""
    switch = pair.switch
    before = switch.bridge
    switch.bridges["br0"] = native.PlacedBridge(before.slot, bridge("br0", mtu=MTU))
    switch.publish()
    try:
        small, small_state = state_of(tcp(20000), MTU - 40)
        arrived, memory = pair.send(small, small_state)
        assert len(arrived) == 1
        assert max(len(data) for data in memory) == 14 + MTU
        large, large_state = state_of(tcp(20000), MTU - 39)
        assert pair.send(large, large_state) == ([], [])
        for attached in (pair.taps[1], pair.memory):
            assert switch.counters(attached).tx_drops["too_big"] == 1
        tagged, tagged_state = state_of(tcp(20000, Dot1Q(vlan=5)), MTU - 40)
        assert len(pair.send(tagged, tagged_state)[0]) == 1
    finally:
        switch.bridges["br0"] = before
        switch.publish()


# ---- the device's life ----


@contextlib.contextmanager
def acquired(net: Topology, **options: str) -> Iterator[Attached]:
    tap = open_tap(net.switch, **options)
    try:
        yield tap
    finally:
        Switch.release(tap)


def exists(netns: str, name: str) -> bool:
    return f" {name}:" in run("ip", "-n", netns, "-o", "link")


def remove(netns: str, name: str) -> None:
    if exists(netns, name):
        run("ip", "-n", netns, "link", "delete", name)


def test_the_kernel_gives_the_name(net: Topology) -> None:
    with acquired(net, name="vt%d") as tap:
        name = name_of(tap)
        assert name.startswith("vt")
        assert name[2:].isdigit()
        assert exists(net.switch, name)
    assert not exists(net.switch, name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a:b", "a b", "x" * 16, "a%s", "%d%d", "a%", "\x7f", "ä"]
)
def test_names_that_are_none(net: Topology, name: str) -> None:
    with pytest.raises(native.NativeError) as caught:
        open_tap(net.switch, name=name)
    assert caught.value.code == errno.EINVAL
    assert "interface name" in caught.value.message


@pytest.mark.parametrize(
    "options",
    [
        {"queues": "0"},
        {"queues": "17"},
        {"queues": "two"},
        {"persistent": "perhaps"},
        {"mtu": "67"},
        {"mtu": "70000"},
        {"color": "red"},
    ],
)
def test_options_that_are_none(net: Topology, options: dict[str, str]) -> None:
    with pytest.raises(native.NativeError) as caught:
        open_tap(net.switch, name="vtx", **options)
    assert caught.value.code == errno.EINVAL
    assert next(iter(options)) in caught.value.message
    assert not exists(net.switch, "vtx")


def test_a_failure_leaves_nothing(net: Topology) -> None:
    before = len(os.listdir("/proc/self/fd"))
    run("ip", "-n", net.switch, "link", "add", "vtbr", "type", "bridge")
    with pytest.raises(native.NativeError) as caught:
        open_tap(net.switch, name="vtbr")
    assert caught.value.code == errno.EINVAL
    assert "not a TAP" in caught.value.message
    with acquired(net, name="vt0"), pytest.raises(native.NativeError) as caught:
        open_tap(net.switch, name="vt0")
    assert caught.value.name == "PORT_BUSY"
    assert len(os.listdir("/proc/self/fd")) == before
    remove(net.switch, "vtbr")


def test_persistent_devices_stay(net: Topology) -> None:
    with acquired(net, name="vtp", persistent="true", queues="2"):
        pass
    assert exists(net.switch, "vtp")
    # Whoever made it, a device that was persistent before outlives the port.
    with acquired(net, name="vtp"):
        pass
    assert exists(net.switch, "vtp")
    with acquired(net, name="vtp", persistent="true", queues="4") as tap:
        assert "queues=4" in tap.state
    remove(net.switch, "vtp")


def test_a_device_made_elsewhere(net: Topology) -> None:
    """ip tuntap makes persistent devices with one queue and no header; both are fine."""
    run("ip", "-n", net.switch, "tuntap", "add", "vte", "mode", "tap")
    with acquired(net, name="vte") as tap:
        assert "caps=31" in tap.state or "caps=23" in tap.state
    with pytest.raises(native.NativeError) as caught:
        open_tap(net.switch, name="vte", queues="2")
    assert "2 queues" in caught.value.message
    remove(net.switch, "vte")


def test_nobody_else_can_join(net: Topology) -> None:
    """Another user who can open /dev/net/tun could take frames from a queue of its own."""
    code = (
        "import fcntl, os, struct\n"
        "fd = os.open('/dev/net/tun', os.O_RDWR)\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "fcntl.ioctl(fd, 0x400454CA, struct.pack('16sH22x', b'vto', 0x5102))\n"
    )
    with acquired(net, name="vto", queues="2"):
        intruder = subprocess.run(
            ["ip", "netns", "exec", net.switch, sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
        )
    assert "PermissionError" in intruder.stderr


def test_status_follows_the_device(net: Topology) -> None:
    with Switch() as switch:
        tap = switch.attach(open_tap(net.switch, name="vts", queues="2", mtu="1400"))
        status = switch.status(tap)
        assert (status.link_up, status.lost, status.mtu) == (True, False, 1400)
        assert (status.rx_queues, status.tx_queues) == (2, 2)
        assert {"csum", "tso4", "tso6", "frags"} <= set(status.caps)
        link = run("ip", "-n", net.switch, "-o", "link", "show", "vts")
        assert status.mac in link
        assert link.startswith(f"{status.ifindex}:")
        run("ip", "-n", net.switch, "link", "set", "vts", "mtu", "1300", "down")
        status = switch.status(tap)
        assert (status.link_up, status.lost, status.mtu) == (False, False, 1300)

        run("ip", "-n", net.switch, "link", "set", "vts", "netns", net.hosts[0])
        run("ip", "-n", net.switch, "tuntap", "add", "vts", "mode", "tap")  # only the same name
        status = switch.status(tap)
        assert (status.link_up, status.lost) == (False, False)
        assert (status.mtu, status.ifindex) == (0, 0)
        remove(net.switch, "vts")
        run("ip", "-n", net.hosts[0], "link", "set", "vts", "up")
        status = switch.status(tap)
        assert (status.link_up, status.lost) == (True, False)
        assert "another namespace" in status.detail

        run("ip", "-n", net.hosts[0], "link", "delete", "vts")
        status = switch.status(tap)
        assert (status.link_up, status.lost) == (False, True)


def test_frames_for_a_device_that_is_down_or_gone(net: Topology) -> None:
    with Switch() as switch:
        tap = switch.attach(open_tap(net.switch, name="vtd"))
        source = switch.add("memory", "memory")
        for sent, command in enumerate((("set", "vtd", "down"), ("delete", "vtd")), 1):
            run("ip", "-n", net.switch, "link", *command)
            send_counted(switch, source, [finished(tcp(100))])
            assert switch.counters(tap).tx_drops == {"link_down": sent}


def send_counted(switch: Switch, source: Attached, frames: list[bytes]) -> None:
    """Returns when what became of the frames is booked."""
    before = switch.counters(source).rx_frames
    switch.send(source, frames)
    wait_until(
        lambda: switch.counters(source).rx_frames == before + len(frames), 10, "frames came in"
    )
    switch.settle()


def test_a_reader_that_does_not_keep_up(net: Topology) -> None:
    """Back-pressure first, then a drop with its reason: never a wait without end.

    memory --- switch --- vtf (TAP) --- bridge --- p0, 1 Mbit/s
    """
    slow = net.switch_ifs[0]
    ip = ("ip", "-n", net.switch, "link")
    with Switch() as switch:
        tap = switch.attach(open_tap(net.switch, name="vtf"))
        source = switch.add("memory", "memory")
        run(*ip, "add", "name", "vtbridge", "type", "bridge", "mcast_snooping", "0")
        for name in ("vtf", slow):
            run(*ip, "set", name, "master", "vtbridge")
        run(*ip, "set", "vtbridge", "up")
        qdisc = ("tbf", "rate", "1mbit", "burst", "20k", "limit", "1g")
        run("tc", "-n", net.switch, "qdisc", "add", "dev", slow, "root", *qdisc)
        frames = [finished(tcp(1400))] * 500
        while "queue_full" not in switch.counters(tap).tx_drops:
            assert switch.counters(source).rx_frames < 200_000, "nothing ever pushed back"
            send_counted(switch, source, frames)
        assert switch.status(tap).link_up  # full is not down
        before = switch.counters(tap)
        assert set(before.tx_drops) == {"queue_full"}
        run("tc", "-n", net.switch, "qdisc", "del", "dev", slow, "root")
        send_counted(switch, source, frames)
        assert switch.counters(tap).tx_frames == before.tx_frames + len(frames)
        assert switch.counters(tap).tx_drops == before.tx_drops
    remove(net.switch, "vtbridge")
