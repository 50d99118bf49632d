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
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from fastpath import native
from tests.support import offload
from tests.support.fastpath import bridge, port
from tests.support.offload import Offload
from tests.support.offload_model import finished, gso_type, l4_of, model, packets, unfinished
from tests.support.packet_socket import PacketSocket, in_netns, mark_frame
from tests.support.topology import Topology, run, wait_until

pytestmark = pytest.mark.root

HOST_MAC = "02:00:00:00:00:01"  # destination of the frames of offload_model
MTU = 1500


@dataclass
class Tap:
    """An acquired device; closing it is releasing it."""

    name: str  # given by the kernel
    options: dict[str, str]
    fds: list[int]
    state: str

    @classmethod
    def acquire(cls, netns: str, **options: str) -> Tap:
        fds, state = in_netns(netns, lambda: native.port_acquire("tap", "p", options))
        return cls(dict(pair.split("=") for pair in state.split())["name"], options, fds, state)

    def close(self) -> None:
        native.port_release("tap", "p", self.options, self.fds, self.state)
        for fd in self.fds:
            os.close(fd)
        self.fds = []


@dataclass
class Switch:
    """An engine with one bridge in this process."""

    engine: native.Engine = field(
        default_factory=lambda: native.Engine(ports_max=8, bridges_max=2, workers_max=16)
    )
    ports: list[native.PlacedPort] = field(default_factory=list)
    vlan_filtering: bool = False
    generation: int = 0

    def __post_init__(self) -> None:
        self.engine.bridge_add(0, "br", 64, -1)

    def add(self, type: str, tap: Tap | None = None, **changes: Any) -> int:
        slot = len(self.ports)
        name = f"{type}-{slot}"
        options = tap.options if tap else {"slots": "2048"}
        fds, state = (tap.fds, tap.state) if tap else ([], "")
        self.engine.port_add(slot, name, type, options, fds, state)
        self.ports.append(native.PlacedPort(slot, port(name, type, "br", **changes), 0))
        return slot

    def publish(self) -> None:
        self.generation += 1
        spec = bridge("br", vlan_filtering=self.vlan_filtering)
        self.engine.publish(self.generation, [native.PlacedBridge(0, spec)], self.ports)

    def policy(self, slot: int, policy: str) -> None:
        """Another offload policy for one port, published."""
        old = self.ports[slot]
        spec = port(old.spec.name, old.spec.type, "br", offload_policy=policy)
        self.ports[slot] = native.PlacedPort(slot, spec, 0)
        self.publish()

    def balance(self) -> native.Counters:
        """The sums over everything, once they balance."""

        def balanced() -> bool:
            t = self.engine.total_counters()
            taken = t.rx_frames + t.copies + t.segments + t.originated
            drops = sum(t.rx_drops.values()) + sum(t.tx_drops.values())
            return taken == t.tx_frames + drops + t.consumed

        wait_until(balanced, 5, "the ledger balances")
        return self.engine.total_counters()

    def settle(self, rx_frames: int) -> native.Counters:
        """Until that many frames came in, and what became of them is booked."""
        total = self.engine.total_counters
        wait_until(lambda: total().rx_frames >= rx_frames, 10, f"{rx_frames} frames came in")
        return self.balance()

    def take_all(self, slot: int) -> list[bytes]:
        frames = []
        while (frame := self.engine.memory_take(slot)) is not None:
            frames.append(frame)
        return frames


@pytest.fixture(scope="module")
def net() -> Iterator[Topology]:
    with Topology(hosts=2, addresses=False) as net:
        yield net


@dataclass
class Pair:
    """Two TAPs and a memory port on one bridge, packet sockets at the far ends."""

    switch: Switch
    taps: list[Tap]
    hosts: list[PacketSocket]
    memory: int
    marks: Iterator[int] = field(default_factory=itertools.count)

    def send(self, frame: bytes, state: Offload) -> tuple[list[tuple[bytes, Offload]], list[bytes]]:
        """From host 0; what host 1 and the memory port got of it."""
        mark = mark_frame(next(self.marks))
        self.hosts[0].send(frame, state)
        self.hosts[0].send(mark)
        arrived = self.hosts[1].until(mark)
        self.switch.balance()
        memory = self.switch.take_all(self.memory)
        assert memory.pop() == mark
        return arrived, memory


@pytest.fixture(scope="module")
def pair(net: Topology) -> Iterator[Pair]:
    switch = Switch()
    taps = [Tap.acquire(net.switch, name=f"tap{i}", mtu="9000") for i in range(2)]
    hosts = []
    for tap, netns in zip(taps, net.hosts, strict=True):
        switch.add("tap", tap)
        run("ip", "-n", net.switch, "link", "set", tap.name, "netns", netns)
        run("ip", "-n", netns, "link", "set", tap.name, "up")
        hosts.append(PacketSocket(netns, tap.name, offloads=True))
    memory = switch.add("memory")
    switch.publish()
    yield Pair(switch, taps, hosts, memory)
    switch.engine.destroy()
    for host in hosts:
        host.close()
    for tap in taps:
        tap.close()


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
    switch = pair.switch
    try:
        switch.policy(1, "complete")
        arrived, _ = pair.send(frame, state)
        assert [data for data, _ in arrived] == model(packet, 1400)
        assert all(not left.flags & offload.CSUM_NEEDED for _, left in arrived)
        segments = switch.engine.port_counters(1).segments

        switch.policy(1, "refuse")
        switch.policy(pair.memory, "refuse")
        arrived, memory = pair.send(frame, state)
        # A TAP can carry it, so there is nothing to refuse; memory would need it completed.
        assert [data for data, _ in arrived] == [frame]
        assert memory == []
        assert switch.engine.port_counters(pair.memory).tx_drops == {"offload_refused": 1}
        assert switch.engine.port_counters(1).segments == segments
        arrived, memory = pair.send(plain, Offload())
        assert [data for data, _ in arrived] == [plain]
        assert memory == [plain]
    finally:
        for slot in (1, pair.memory):
            switch.policy(slot, "carry")


def test_larger_than_the_mtu(pair: Pair, net: Topology) -> None:
    """An MTU counts for the packets that a frame becomes, not for the frame."""
    switch = pair.switch
    spec = bridge("br", mtu=MTU)
    switch.engine.publish(1000, [native.PlacedBridge(0, spec)], switch.ports)
    try:
        small, small_state = state_of(tcp(20000), MTU - 40)
        arrived, memory = pair.send(small, small_state)
        assert len(arrived) == 1
        assert max(len(data) for data in memory) == 14 + MTU
        large, large_state = state_of(tcp(20000), MTU - 39)
        before = switch.engine.port_counters(1).tx_drops.get("too_big", 0)
        assert pair.send(large, large_state) == ([], [])
        assert switch.engine.port_counters(1).tx_drops["too_big"] == before + 1
        tagged, tagged_state = state_of(tcp(20000, Dot1Q(vlan=5)), MTU - 40)
        assert len(pair.send(tagged, tagged_state)[0]) == 1
    finally:
        switch.generation = 1000
        switch.publish()


# ---- the device's life ----


@contextlib.contextmanager
def acquired(net: Topology, **options: str) -> Iterator[Tap]:
    tap = Tap.acquire(net.switch, **options)
    try:
        yield tap
    finally:
        tap.close()


def exists(netns: str, name: str) -> bool:
    return f" {name}:" in run("ip", "-n", netns, "-o", "link")


def remove(netns: str, name: str) -> None:
    if exists(netns, name):
        run("ip", "-n", netns, "link", "delete", name)


def test_the_kernel_gives_the_name(net: Topology) -> None:
    with acquired(net, name="vt%d") as tap:
        assert tap.name.startswith("vt")
        assert tap.name[2:].isdigit()
        assert exists(net.switch, tap.name)
    assert not exists(net.switch, tap.name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a:b", "a b", "x" * 16, "a%s", "%d%d", "a%", "\x7f", "ä"]
)
def test_names_that_are_none(net: Topology, name: str) -> None:
    with pytest.raises(native.NativeError) as caught:
        Tap.acquire(net.switch, name=name)
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
        Tap.acquire(net.switch, name="vtx", **options)
    assert caught.value.code == errno.EINVAL
    assert next(iter(options)) in caught.value.message
    assert not exists(net.switch, "vtx")


def test_a_failure_leaves_nothing(net: Topology) -> None:
    before = len(os.listdir("/proc/self/fd"))
    run("ip", "-n", net.switch, "link", "add", "vtbr", "type", "bridge")
    with pytest.raises(native.NativeError) as caught:
        Tap.acquire(net.switch, name="vtbr")
    assert caught.value.code == errno.EINVAL
    assert "not a TAP" in caught.value.message
    with acquired(net, name="vt0"), pytest.raises(native.NativeError) as caught:
        Tap.acquire(net.switch, name="vt0")
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
        Tap.acquire(net.switch, name="vte", queues="2")
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
    switch = Switch()
    tap = Tap.acquire(net.switch, name="vts", queues="2", mtu="1400")
    slot = switch.add("tap", tap)
    status = switch.engine.port_status(slot)
    assert (status.link_up, status.lost, status.mtu) == (True, False, 1400)
    assert (status.rx_queues, status.tx_queues) == (2, 2)
    assert {"csum", "tso4", "tso6", "frags"} <= set(status.caps)
    link = run("ip", "-n", net.switch, "-o", "link", "show", "vts")
    assert status.mac in link
    assert link.startswith(f"{status.ifindex}:")
    run("ip", "-n", net.switch, "link", "set", "vts", "mtu", "1300", "down")
    status = switch.engine.port_status(slot)
    assert (status.link_up, status.lost, status.mtu) == (False, False, 1300)

    run("ip", "-n", net.switch, "link", "set", "vts", "netns", net.hosts[0])
    run("ip", "-n", net.switch, "tuntap", "add", "vts", "mode", "tap")  # the same name, another
    status = switch.engine.port_status(slot)
    assert (status.link_up, status.lost, status.mtu, status.ifindex) == (False, False, 0, 0)
    remove(net.switch, "vts")
    run("ip", "-n", net.hosts[0], "link", "set", "vts", "up")
    status = switch.engine.port_status(slot)
    assert (status.link_up, status.lost) == (True, False)
    assert "another namespace" in status.detail

    run("ip", "-n", net.hosts[0], "link", "delete", "vts")
    status = switch.engine.port_status(slot)
    assert (status.link_up, status.lost) == (False, True)
    switch.engine.destroy()
    tap.close()


def test_frames_for_a_device_that_is_down_or_gone(net: Topology) -> None:
    switch = Switch()
    tap = Tap.acquire(net.switch, name="vtd")
    slot, source = switch.add("tap", tap), switch.add("memory")
    switch.publish()
    frame = finished(tcp(100))
    for sent, command in enumerate((("set", "vtd", "down"), ("delete", "vtd")), 1):
        run("ip", "-n", net.switch, "link", *command)
        assert switch.engine.memory_put(source, frame)
        switch.settle(sent)
    assert switch.engine.port_counters(slot).tx_drops == {"link_down": 2}
    switch.engine.destroy()
    tap.close()


def test_a_reader_that_does_not_keep_up(net: Topology) -> None:
    """Back-pressure first, then a drop with its reason: never a wait without end.

    memory --- switch --- vtf (TAP) --- bridge --- p0, 1 Mbit/s
    """
    switch = Switch()
    tap = Tap.acquire(net.switch, name="vtf")
    slot, source = switch.add("tap", tap), switch.add("memory")
    switch.publish()
    slow = net.switch_ifs[0]
    ip = ("ip", "-n", net.switch, "link")
    run(*ip, "add", "name", "vtbridge", "type", "bridge", "mcast_snooping", "0")
    for name in ("vtf", slow):
        run(*ip, "set", name, "master", "vtbridge")
    run(*ip, "set", "vtbridge", "up")
    qdisc = ("tbf", "rate", "1mbit", "burst", "20k", "limit", "1g")
    run("tc", "-n", net.switch, "qdisc", "add", "dev", slow, "root", *qdisc)
    frame = finished(tcp(1400))
    sent = 0
    while "queue_full" not in switch.engine.port_counters(slot).tx_drops:
        assert sent < 200_000, "nothing ever pushed back"
        sent += switch.engine.memory_put(source, frame)
    assert switch.engine.port_status(slot).link_up  # full is not down
    switch.settle(sent)
    counters = switch.engine.port_counters(slot)
    assert counters.tx_frames + counters.tx_drops["queue_full"] == sent
    run("tc", "-n", net.switch, "qdisc", "del", "dev", slow, "root")
    assert switch.engine.memory_put(source, frame)
    switch.settle(sent + 1)
    assert switch.engine.port_counters(slot).tx_frames == counters.tx_frames + 1
    switch.engine.destroy()
    tap.close()
    remove(net.switch, "vtbridge")
