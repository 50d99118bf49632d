"""Monitor ports in the engine: what they copy, in which order, and that nobody waits for them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.ports.test_conformance import corpus
from tests.support.offload import CSUM_NEEDED, TCPV4, Offload
from tests.support.rigs import TAG_C, AfPacketRig, frame, pcap_read, pcap_write
from tests.support.switch import Attached, NativeError, Switch, acquire
from tests.support.topology import wait_until
from vswitch.filters import compile_filter

BURST = 900  # fits the memory ports' rings
BROADCAST = b"\xff" * 6
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


class Scene:
    """p1 and p2 talk in br0; collector, in the bridge mon, gets what monitors there bring."""

    def __init__(self, switch: Switch, p1: Mapping[str, str] = {}) -> None:
        self.switch = switch
        switch.add_bridge("mon", learning=False, reserved_forward=True)
        self.p1 = switch.add("p1", "memory", p1)
        self.p2 = switch.add("p2", "memory")
        self.collector = switch.add("collector", "memory", {"slots": "8192"}, bridge="mon")

    def monitor(
        self,
        name: str = "m1",
        *,
        port: str = "p1",
        bridge: str | None = "mon",
        admin_up: bool = True,
        polling: str = "adaptive",
        **options: str,
    ) -> Attached:
        wanted = {"port": port, **options}
        return self.switch.add(
            name, "monitor", wanted, bridge=bridge, admin_up=admin_up, polling=polling
        )

    def inwards(self, frames: list[bytes]) -> None:
        """p1 receives them."""
        self.switch.send(self.p1, frames)
        assert self.switch.take(self.p2, len(frames)) == frames

    def outwards(self, frames: list[bytes]) -> None:
        """p1 sends them."""
        self.switch.send(self.p2, frames)
        assert self.switch.take(self.p1, len(frames)) == frames

    def copies(self, count: int) -> list[bytes]:
        """What the collector got: so many frames, and whatever follows them."""
        frames = self.switch.take(self.collector, count)
        self.switch.settle()
        return frames + self.switch.take(self.collector, 0)


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as switch:
        yield switch


@pytest.fixture
def scene(switch: Switch) -> Scene:
    return Scene(switch)


def there(count: int = BURST) -> list[bytes]:
    return [frame(n, 60 + n % 1400, source=1, to=2) for n in range(count)]


def back(count: int = BURST) -> list[bytes]:
    return [frame(n, 60 + n % 900, source=2, to=1) for n in range(BURST, BURST + count)]


# --- what is copied ------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["rx", "tx", "both"])
def test_N11_a_monitor_sees_exactly_the_frames_of_its_direction(
    scene: Scene, direction: str
) -> None:
    monitor = scene.monitor(direction=direction)
    scene.inwards(there())
    scene.outwards(back())
    expected = {"rx": there(), "tx": back(), "both": there() + back()}[direction]
    assert scene.copies(len(expected)) == expected
    counters = scene.switch.counters(monitor)
    assert counters.rx_frames == len(expected)
    assert counters.rx_bytes == sum(map(len, expected))
    assert (counters.rx_drops, counters.tx_frames) == ({}, 0)
    assert counters.learned == 0
    assert scene.switch.counters(scene.p1).rx_frames == BURST


def test_N2_a_capture_is_the_file_that_was_replayed(switch: Switch, tmp_path: Path) -> None:
    """Lengths from the shortest to jumbo, every kind of tag: byte for byte, in order."""
    frames = corpus()
    pcap_write(tmp_path / "in.pcap", frames)
    switch.add_bridge("mon", learning=False)
    out = {"directory": str(tmp_path), "out": "out.pcap"}
    switch.add("capture", "pcap", out, bridge="mon")
    switch.add("m1", "monitor", {"port": "p1", "direction": "rx"}, bridge="mon")
    switch.add("p1", "pcap", {"directory": str(tmp_path), "in": "in.pcap", "rate": "0"})
    wait_until(
        lambda: len(pcap_read(tmp_path / "out.pcap")) >= len(frames), 10, "the capture is whole"
    )
    switch.settle()
    assert pcap_read(tmp_path / "out.pcap") == frames


def test_what_the_switch_drops_is_seen(scene: Scene) -> None:
    """rx is before any decision: here the port is in no bridge, and one frame has no source."""
    lone = scene.switch.add("lone", "memory", bridge=None)
    monitor = scene.monitor(port="lone", direction="rx")
    bad = frame(1)[:6] + BROADCAST + frame(1)[12:]
    frames = [*there(100), bad]
    scene.switch.send(lone, frames)
    assert scene.copies(101) == frames
    wait_until(lambda: scene.switch.counters(monitor).rx_frames == 101, 5, "all were copied")
    scene.switch.settle()
    assert scene.switch.counters(lone).rx_drops == {"no_bridge": 101}
    # The monitor's own bridge, which forwards reserved addresses, takes no offence either.
    assert scene.switch.counters(monitor).rx_drops == {}


def test_sent_frames_are_seen_as_they_leave() -> None:
    """A trunk's copies bear the tag that the access port's frames did not have."""
    with Switch(vlan_filtering=True) as switch:
        switch.add_bridge("mon", learning=False)
        trunk = switch.add("trunk", "memory", vlan_mode="trunk", tagged=((7, 7),))
        access = switch.add("access", "memory", pvid=7)
        collector = switch.add("collector", "memory", bridge="mon")
        switch.add("m1", "monitor", {"port": "trunk"}, bridge="mon")
        switch.send(access, [frame(n, 100) for n in range(50)])
        tagged = [frame(n, 100)[:12] + b"\x81\x00\x00\x07" + frame(n, 100)[12:] for n in range(50)]
        assert switch.take(trunk, 50) == tagged
        assert switch.take(collector, 50) == tagged
        switch.send(trunk, [frame(3, 80, (TAG_C, 7), source=2, to=1)])
        assert switch.take(collector, 1) == [frame(3, 80, (TAG_C, 7), source=2, to=1)]


def test_unfinished_frames_are_finished_behind_the_monitor(switch: Switch) -> None:
    """A segment of 60 KB is copied as it is: the collector gets the packets that p2 gets."""
    scene = Scene(switch, p1={"vnet_hdr": "1"})
    scene.monitor(direction="rx")
    switch.add_bridge("mon2", learning=False)
    short = switch.add("short", "memory", bridge="mon2")
    switch.add("m2", "monitor", {"port": "p1", "snaplen": "200"}, bridge="mon2")
    tcp = IP(src="192.0.2.1", dst="192.0.2.2") / TCP(sport=1, dport=2, flags="A")
    packet = bytes(ETHER / tcp / Raw(bytes(range(256)) * 200))
    state = Offload(CSUM_NEEDED, TCPV4, 54, 1448, 34, 16)
    switch.send(scene.p1, [state.pack() + packet])
    count = -(-256 * 200 // 1448)
    segments = switch.take(scene.p2, count)
    assert len(segments) == count
    assert scene.copies(count) == segments
    assert switch.take(short, 1) == [packet[:200]], "cut, it is plain bytes"


def test_filters_choose(scene: Scene) -> None:
    """Three monitors of one port, each with an expression of its own; cut to the header."""
    for name, expression in (("m1", "tcp port 80"), ("m2", "vlan 5"), ("m3", "")):
        scene.switch.add_bridge(f"br-{name}", learning=False)
        scene.switch.add(f"c-{name}", "memory", bridge=f"br-{name}")
        program = compile_filter(expression)
        scene.monitor(name, bridge=f"br-{name}", filter=program, snaplen="54")
    ports = {attached.spec.name: attached for attached in scene.switch.ports.values()}
    web = [bytes(ETHER / IP() / TCP(dport=80) / Raw(bytes(n))) for n in range(100)]
    other = [bytes(ETHER / IP() / TCP(dport=81) / Raw(bytes(n))) for n in range(100)]
    tagged = [frame(n, 64 + n, (TAG_C, 5)) for n in range(100)]
    frames = [frame for three in zip(web, other, tagged, strict=True) for frame in three]
    scene.inwards(frames)
    for name, expected in (("m1", web), ("m2", tagged), ("m3", frames)):
        assert scene.switch.take(ports[f"c-{name}"], len(expected)) == [f[:54] for f in expected]
        assert scene.switch.counters(ports[name]).rx_frames == len(expected)


# --- nobody waits --------------------------------------------------------------------------------


def check_excess(scene: Scene, monitor: Attached, count: int, direction: str) -> None:
    """p1 and p2 do not notice; of `count` frames each was copied or counted as too many."""
    switch = scene.switch
    wait_until(
        lambda: switch.counters(monitor).rx_frames >= count, 10, f"the books of all {direction}"
    )
    switch.settle()
    received, sent = switch.counters(scene.p1), switch.counters(scene.p2)
    assert (received.rx_frames, received.rx_drops) == (count, {})
    assert (sent.tx_frames, sent.tx_drops) == (count, {})
    counters = switch.counters(monitor)
    assert counters.rx_frames == count
    assert set(counters.rx_drops) == {"monitor_full"}
    assert 0 < counters.rx_drops["monitor_full"] < count


@pytest.mark.parametrize(("direction", "port"), [("rx", "p1"), ("tx", "p2")])
def test_N11_excess_is_counted_exactly(direction: str, port: str) -> None:
    """A reader that sleeps is woken behind a batch; its ring holds half of one."""
    with Switch() as switch:
        scene = Scene(switch)
        monitor = scene.monitor(
            port=port, direction=direction, slots="64", snaplen="4000", polling="block"
        )
        frames = [frame(n, 3000) for n in range(256)]
        # Put in before anybody serves the port: it is received in full batches.
        switch.remove(scene.p1)
        scene.p1 = switch.attach(acquire("p1", "memory"), publish=False)
        switch.send(scene.p1, frames)
        switch.publish()
        assert switch.take(scene.p2, len(frames)) == frames
        check_excess(scene, monitor, len(frames), direction)
        dropped = switch.counters(monitor).rx_drops["monitor_full"]
        copies = scene.copies(len(frames) - dropped)
        assert len(copies) == len(frames) - dropped
        remaining = iter(frames)
        assert all(copy in remaining for copy in copies), "reordered or changed"


@pytest.mark.root
def test_N11_a_reader_that_stands_still_slows_nobody(tmp_path: Path) -> None:
    """Behind the monitor is an interface that sends a frame a second; its worker waits there."""
    count = 20_000
    with contextlib.closing(AfPacketRig(tmp_path)) as rig, Switch() as switch:
        scene = Scene(switch)
        switch.remove(scene.collector)
        options = {"ifname": rig.net.switch_ifs[0], "qdisc_bypass": "false"}
        attached = rig.open(options)
        attached.spec = msgspec.structs.replace(attached.spec, name="slow", bridge="mon")
        switch.attach(attached)
        monitor = scene.monitor(slots="256")
        with rig.slow():
            for at in range(0, count, 500):
                scene.inwards([frame(n, 60 + n % 200) for n in range(at, at + 500)])
            check_excess(scene, monitor, count, "both")


# --- nothing goes round --------------------------------------------------------------------------


def test_copies_are_never_copied(scene: Scene) -> None:
    """Two monitors, each in the bridge of the other's port: a ring of copies, were they copied."""
    first = scene.monitor("m1", port="p1", bridge="mon", direction="tx")
    second = scene.monitor("m2", port="collector", bridge="br0", direction="tx")
    frames = [BROADCAST + frame(n, 100, source=2)[6:] for n in range(100)]
    scene.outwards(frames)
    assert scene.copies(100) == frames
    assert scene.switch.counters(first).rx_frames == 100
    assert scene.switch.counters(second).rx_frames == 0
    total = scene.switch.engine.total_counters()
    assert total.rx_frames == 200


@pytest.mark.parametrize("direction", ["rx", "tx", "both"])
def test_no_storm_in_the_ports_own_bridge(switch: Switch, direction: str) -> None:
    """The API refuses it; the engine is safe without it: one copy a frame, and nobody learns."""
    p1, p2 = switch.add("p1", "memory"), switch.add("p2", "memory")
    monitor = switch.add("m1", "monitor", {"port": "p1", "direction": direction})
    one, two = (frame(n, 80, source=n, to=3 - n) for n in (1, 2))
    switch.send(p1, [one])
    switch.take(p2, 1)
    switch.settle()
    switch.send(p2, [two] * 100)
    switch.take(p1, 100)
    switch.settle()
    counters = switch.counters(monitor)
    assert counters.rx_frames == {"rx": 1, "tx": 100, "both": 101}[direction]
    assert switch.engine.total_counters().rx_frames == 101 + counters.rx_frames
    assert (counters.learned, counters.moved) == (0, 0)


def test_a_monitor_of_a_monitor_sees_nothing(scene: Scene) -> None:
    scene.monitor("m1")
    second = scene.monitor("m2", port="m1", bridge=None)
    scene.inwards(there(50))
    assert scene.copies(50) == there(50)
    assert scene.switch.counters(second).rx_frames == 0


def test_a_monitor_sends_nothing(scene: Scene) -> None:
    monitor = scene.monitor()
    scene.switch.send(scene.collector, [BROADCAST + frame(n)[6:] for n in range(50)])
    wait_until(lambda: scene.switch.counters(scene.collector).rx_frames == 50, 5, "received")
    scene.switch.settle()
    counters = scene.switch.counters(monitor)
    assert (counters.tx_frames, counters.tx_drops) == (0, {"receive_only": 50})


# --- comes and goes ------------------------------------------------------------------------------


def test_the_monitored_port_comes_later_goes_and_comes_again(scene: Scene) -> None:
    monitor = scene.monitor(port="late", direction="rx")
    assert scene.switch.status(monitor).link_up
    for _ in range(3):
        late = scene.switch.add("late", "memory")
        scene.switch.send(late, there(20))
        assert scene.copies(20) == there(20)
        scene.switch.remove(late)
    assert scene.switch.counters(monitor).rx_frames == 60


def test_of_two_ports_of_one_name_the_first_is_monitored(scene: Scene) -> None:
    """The API has no two; the engine does not rely on it."""
    second = scene.switch.add("p1", "memory")
    monitor = scene.monitor(direction="rx")
    scene.inwards(there(20))
    scene.switch.send(second, [frame(n, source=7) for n in range(20)])
    wait_until(lambda: scene.switch.counters(second).rx_frames == 20, 5, "received")
    assert scene.copies(20) == there(20)
    assert scene.switch.counters(monitor).rx_frames == 20


def test_without_a_bridge_copies_are_dropped_with_a_reason(scene: Scene) -> None:
    monitor = scene.monitor(bridge=None)
    scene.inwards(there(50))
    wait_until(lambda: scene.switch.counters(monitor).rx_frames == 50, 5, "copied")
    scene.switch.settle()
    assert scene.switch.counters(monitor).rx_drops == {"no_bridge": 50}


def test_a_monitor_that_is_down_costs_nothing(scene: Scene) -> None:
    monitor = scene.monitor(admin_up=False)
    scene.inwards(there(50))
    scene.switch.settle()
    assert scene.switch.counters(monitor).rx_frames == 0


def test_no_descriptor_stays_behind(scene: Scene) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        monitor = scene.monitor()
        scene.inwards(there(10))
        assert scene.copies(10) == there(10)
        scene.switch.remove(monitor)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_status_says_what_is_monitored(scene: Scene) -> None:
    monitor = scene.monitor(direction="tx", filter=compile_filter("tcp"), snaplen="128")
    assert scene.switch.status(monitor).detail == "sent by p1, filtered, 128 bytes of each"


@pytest.mark.parametrize(
    "options",
    [
        {"port": ""},
        {"port": "p" * 32},
        {"direction": "up"},
        {"snaplen": "13"},
        {"snaplen": "-1"},
        {"slots": "63"},
        {"filter": "1,6 0 0"},
        {"filter": "2,40 0 0 12,6 0 0 1,6 0 0 1"},
        {"filter": "1,5 0 0 7"},
    ],
)
def test_options_that_are_refused(scene: Scene, options: dict[str, str]) -> None:
    with pytest.raises(NativeError):
        scene.switch.add("m1", "monitor", {"port": "p1", **options}, bridge="mon")
    scene.inwards(there(10))
