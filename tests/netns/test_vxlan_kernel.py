"""Our vxlan port and the kernel's vxlan device, each the other's peer.

host 0: vx0 (kernel) ══╗
                        underlay ══ switch: vxlan port ── bridge ── memory port
host 1: vx0 (kernel) ══╝                                       └─── TAP (a host of ours)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.ports.test_conformance import corpus
from tests.support.overlay import SWITCH6, Underlay, vxlan_options
from tests.support.switch import Attached, Switch, acquire
from tests.support.topology import run, wait_until
from tests.support.wire import HostPort, in_netns

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root and network namespaces"),
]

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


def ping(net: Underlay, netns: str, to: str, payload: int) -> None:
    """Five echoes of ``payload`` bytes, none of which may be lost.

    Without DF: the kernel's device tells its own stack of the narrower underlay, which would
    refuse the next packet that may not be fragmented.
    """
    text = net.run(
        *(netns, "ping", "-c", "5", "-i", "0.05", "-W", "2"),
        *("-s", str(payload), "-M", "dont", to),
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
            for frame in whole:
                peer.send(frame)
            assert sorted(switch.take(inside, len(whole))) == sorted(whole)
            switch.send(inside, frames)
            received: list[bytes] = []

            def enough() -> bool:
                received.extend(peer.receive())
                return len(received) >= len(frames)

            wait_until(enough, 10, "all frames at the kernel's device")
            assert sorted(received) == sorted(frames)
        switch.remove(port)
