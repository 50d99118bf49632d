"""Our vxlan port and the kernel's vxlan device, each the other's peer.

host 0: vx0 (kernel) ══╗
                        underlay ══ switch: vxlan port ── bridge ── memory port
host 1: vx0 (kernel) ══╝                                       └─── TAP (a host of ours)
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.ports.test_conformance import corpus
from tests.support.overlay import SWITCH6, Underlay, vxlan_options
from tests.support.rigs import frame
from tests.support.switch import Attached, Switch, acquire
from tests.support.topology import run, wait_said, wait_until
from tests.support.wire import HostPort, in_netns

pytestmark = pytest.mark.root

JUMBO_MTU = 9100
STATION = "172.30.0.254"


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as switch:
        yield switch


def vxlan_port(switch: Switch, net: Underlay, *, ipv6: bool = False) -> Attached:
    if ipv6:
        remotes = [net.address6(i) for i in range(len(net.hosts))]
        options = vxlan_options(remotes, SWITCH6)
    else:
        options = vxlan_options(net.addresses)
    return switch.attach(in_netns(net.switch, lambda: acquire("vx", "vxlan", options)))


def station(switch: Switch, net: Underlay, mtu: int) -> str:
    """A host of ours on the bridge: the TAP's interface, with an address."""
    name = f"{net.prefix}t"
    options = {"name": name, "mtu": str(mtu)}
    switch.attach(in_netns(net.switch, lambda: acquire("tap", "tap", options)))
    run("ip", "-n", net.switch, "address", "add", f"{STATION}/24", "dev", name)
    return name


def kernel_station(net: Underlay, host: int, *, ipv6: bool = False, mtu: int | None = None) -> str:
    ifname = net.kernel_vxlan(host, ipv6=ipv6, mtu=mtu)
    address = f"172.30.0.{host + 1}"
    run("ip", "-n", net.hosts[host], "address", "add", f"{address}/24", "dev", ifname)
    return address


def receive(peer: HostPort, count: int) -> list[bytes]:
    """At least ``count`` frames, and what has come by then."""
    received: list[bytes] = []

    def enough() -> bool:
        received.extend(peer.receive())
        return len(received) >= count

    wait_until(enough, 10, f"{count} frames at {peer.ifname}")
    return received


def ping(net: Underlay, netns: str, to: str, payload: int, *, dont_fragment: bool = False) -> None:
    """Five echoes of ``payload`` bytes, none of which may be lost.

    Not with DF towards the kernel's device where the underlay is narrower: it tells its own stack,
    which would refuse the next packet.
    """
    text = net.run(
        *(netns, "ping", "-c", "5", "-i", "0.05", "-W", "2", "-s", str(payload)),
        *("-M", "do" if dont_fragment else "dont", to),
    )
    assert "5 received" in text, text


@pytest.mark.parametrize(
    ("underlay", "inner", "payload", "ipv6"),
    [
        pytest.param(1500, 1450, 1422, False, id="fits-ipv4"),
        pytest.param(1500, 1430, 1402, True, id="fits-ipv6"),
        pytest.param(9100, 9000, 8972, False, id="jumbo-ipv4"),
        pytest.param(9100, 9000, 8972, True, id="jumbo-ipv6"),
        # The kernel's device sends no fragments over IPv6.
        pytest.param(1500, 1500, 1472, False, id="outer-fragments"),
        pytest.param(1500, 9000, 8972, False, id="jumbo-outer-fragments"),
    ],
)
def test_T4_ping_the_kernels_vxlan(
    switch: Switch, underlay: int, inner: int, payload: int, ipv6: bool
) -> None:
    """Packets as large as the inner MTU, whatever the underlay has to do to them."""
    with Underlay(hosts=1, mtu=underlay) as net:
        address = kernel_station(net, 0, ipv6=ipv6, mtu=inner)
        port = vxlan_port(switch, net, ipv6=ipv6)
        station(switch, net, inner)
        ping(net, net.hosts[0], STATION, payload)
        ping(net, net.switch, address, payload)
        counters = switch.counters(port)
        assert (counters.rx_drops, counters.tx_drops) == ({}, {})
        switch.clear()


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("underlay", [1500, 9100])
def test_every_frame_both_ways(switch: Switch, underlay: int, ipv6: bool) -> None:
    """Lengths and tags, byte for byte, in fragments too."""
    inside = switch.add("inside", "memory", {"slots": "1024"})
    frames = sorted(corpus(), key=len)
    with Underlay(hosts=1, mtu=underlay) as net:
        ifname = net.kernel_vxlan(0, mtu=9000, ipv6=ipv6)
        port = vxlan_port(switch, net, ipv6=ipv6)
        with contextlib.closing(HostPort(net.hosts[0], ifname)) as peer:
            # The kernel's device sends no fragments over IPv6; we do.
            whole = [f for f in frames if not ipv6 or len(f) <= underlay - 70 + 14]
            for data in whole:
                peer.send(data)
            assert sorted(switch.take(inside, len(whole))) == sorted(whole)
            switch.send(inside, frames)
            assert sorted(receive(peer, len(frames))) == sorted(frames)
        switch.remove(port)


def gateway(switch: Switch, net: Underlay) -> Attached:
    """A vxlan port to all hosts of ``net``, which have a station each, and a TAP."""
    for host in range(len(net.hosts)):
        kernel_station(net, host)
    port = vxlan_port(switch, net)
    station(switch, net, net.mtu - 50)
    return port


@pytest.mark.parametrize("direction", [(), ("-R",)], ids=["in", "out"])
def test_tcp(switch: Switch, direction: tuple[str, ...]) -> None:
    """All offloads on: over veth the kernel's frames arrive with the checksum unfinished and the
    payload uncut, and those of the TAP are cut here."""
    with Underlay(hosts=1, mtu=1500) as net:
        port = gateway(switch, net)
        server = net.start(net.switch, "iperf3", "-s", "-1", "--forceflush")
        wait_said(server, "listening")
        text = net.run(
            net.hosts[0], "timeout", "20", "iperf3", "-J", "-c", STATION, "-n", "50M", *direction
        )
        end = json.loads(text)["end"]
        assert end["sum_sent"]["bytes"] >= 50_000_000
        assert end["sum_received"]["bytes"] > 0.9 * end["sum_sent"]["bytes"]
        switch.settle()
        counters = switch.counters(port)
        assert counters.rx_drops == {}
        assert set(counters.tx_drops) <= {"queue_full"}
        if direction:
            assert counters.segments > 1000, "the TAP's segments are cut here"
        switch.clear()


def test_broadcast_multicast_and_unknown_go_to_every_remote(switch: Switch) -> None:
    inside = switch.add("inside", "memory")
    with Underlay(hosts=3, mtu=1500) as net, contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(contextlib.closing(HostPort(host, net.kernel_vxlan(i))))
            for i, host in enumerate(net.hosts)
        ]
        port = vxlan_port(switch, net)
        broadcast = b"\xff" * 6 + frame(1)[6:]
        multicast = bytes.fromhex("01005e000001") + frame(2)[6:]
        flooded = [broadcast, multicast, frame(3, to=9)]
        switch.send(inside, flooded)
        for peer in peers:  # flows keep their order, these are three
            assert sorted(receive(peer, len(flooded))) == sorted(flooded)
        switch.settle()
        assert switch.counters(port).tx_frames == len(flooded), "a frame is one frame"

        # Station 7 is heard behind the second remote; what is for it goes there alone, and so
        # does what follows it when it moves.
        for home in (1, 2):
            peers[home].send(frame(10 + home, source=7, to=2))
            assert switch.take(inside, 1) == [frame(10 + home, source=7, to=2)]
            switch.send(inside, [frame(20 + home, to=7), *flooded])
            assert sorted(receive(peers[home], 4)) == sorted([frame(20 + home, to=7), *flooded])
            for other in {0, 1, 2} - {home}:
                assert sorted(receive(peers[other], 3)) == sorted(flooded)
        switch.remove(port)


def test_what_came_from_a_peer_goes_to_no_peer(switch: Switch) -> None:
    """Split horizon: neither broadcasts nor frames for a station behind another remote."""
    inside = switch.add("inside", "memory")
    with Underlay(hosts=2, mtu=1500) as net, contextlib.ExitStack() as stack:
        one, two = (
            stack.enter_context(contextlib.closing(HostPort(host, net.kernel_vxlan(i))))
            for i, host in enumerate(net.hosts)
        )
        port = vxlan_port(switch, net)
        two.send(frame(1, source=5, to=2))
        one.send(b"\xff" * 6 + frame(2, source=4)[6:])
        assert len(switch.take(inside, 2)) == 2
        one.send(frame(3, source=4, to=5))
        wait_until(lambda: switch.counters(port).rx_frames == 3, 5, "all three are received")
        switch.settle()
        assert switch.counters(port).rx_drops == {"same_port": 1}
        assert switch.counters(port).tx_frames == 0
        # What is sent next arrives as the first.
        switch.send(inside, [frame(4, source=2, to=4), frame(5, source=2, to=5)])
        assert receive(one, 1) == [frame(4, source=2, to=4)]
        assert receive(two, 1) == [frame(5, source=2, to=5)]
        switch.remove(port)
