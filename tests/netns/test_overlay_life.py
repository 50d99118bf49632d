"""Tunnel ports through a forwarder's death, and through their address's.

host 0 ══ veth ══ p0 [br0] vx ══ underlay ══ vx0 of host 1's kernel
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.test_handover import Traffic, undisturbed_loss
from tests.netns.test_vxlan_kernel import kernel_station, ping
from tests.support.appliance import Appliance
from tests.support.fastpath import Client, FastPath, bridge, port
from tests.support.overlay import SWITCH, SWITCH6, VNI, Underlay, endpoint, vxlan_options
from tests.support.topology import run, wait_until

pytestmark = pytest.mark.root

KILLS = 8
# The dead process's hands: a batch between its commitment and the system call that sends it.
BATCH = 64


@pytest.fixture
def net() -> Iterator[Underlay]:
    with Underlay(hosts=2, mtu=1600) as underlay:
        yield underlay


@pytest.fixture
def path(net: Underlay, home: Path) -> Iterator[FastPath]:
    with FastPath(home, netns=net.switch) as started:
        yield started


def configure(client: Client, net: Underlay, tunnelled: int) -> None:
    """The tunnel goes to host ``tunnelled``, the other one is on a veth pair."""
    plain = 1 - tunnelled
    net.host_ifs[tunnelled] = net.kernel_vxlan(tunnelled)
    options = vxlan_options([net.addresses[tunnelled]])
    ack = client.apply(
        [
            bridge("br0"),
            port("p0", "af_packet", "br0", options={"ifname": net.switch_ifs[plain]}),
            port("vx", "vxlan", "br0", options=options),
        ]
    )
    assert all(outcome.ok for outcome in ack.outcomes.values()), ack.outcomes


@pytest.mark.parametrize("tunnelled", [0, 1], ids=["out-of-the-tunnel", "into-the-tunnel"])
def test_T4_forwarder_killed_under_traffic(net: Underlay, path: FastPath, tunnelled: int) -> None:
    """Within the queue's bound nothing is lost but the batch that a dead process had in hand; no
    frame comes twice."""
    with path.client() as client:
        configure(client, net, tunnelled)
    usual_loss = undisturbed_loss(net, path)
    kills: list[int] = []
    path.wait_standby()
    traffic = Traffic(net, path, 10)
    while traffic.running and len(kills) < KILLS:
        kills.append(time.time_ns())
        path.wait_replaced(path.kill_forwarder())
        path.wait_standby()
    lost, report = traffic.result()
    # What the socket had no room for while nobody ran is beyond the queue's bound.
    ours = lost - report["overflowed"] - usual_loss
    with path.client() as client:
        client.check_ledger()
        restarts = sum(
            p.rx_drops.get("restart", 0) + p.tx_drops.get("restart", 0)
            for p in client.stats().ports
        )
        assert client.status().restarts == len(kills)
    assert len(kills) >= 3
    assert report["unique"] > 0
    assert ours <= min(restarts, len(kills) * BATCH), (ours, restarts, report)
    assert report["duplicates"] == 0


def test_stations_are_remembered(net: Underlay, path: FastPath) -> None:
    """Known to be behind the second remote, and not to be asked for at the first one again."""
    with path.client() as client:
        peers = [net.addresses[0], net.addresses[1]]
        ack = client.apply(
            [bridge("br0"), port("vx", "vxlan", "br0", options=vxlan_options(peers))]
        )
        assert all(outcome.ok for outcome in ack.outcomes.values()), ack.outcomes
        ifname = net.kernel_vxlan(1)
        run("ip", "-n", net.hosts[1], "address", "add", "172.30.0.2/24", "dev", ifname)
        net.start(net.hosts[1], "ping", "-c", "2", "-i", "0.2", "172.30.0.9")
        wait_until(lambda: "1 station behind" in client.port("vx").detail, 10, "it is learned")
    path.wait_standby()
    path.wait_replaced(path.kill_forwarder())
    with path.client() as client:
        client.wait_ready("vx")
        assert "1 station behind" in client.port("vx").detail


def test_the_address_appears_and_the_port_comes_up(net: Underlay, path: FastPath) -> None:
    change = ("ip", "-n", net.switch, "address")
    for ifname in net.switch_ifs:
        run(*change, "del", f"{SWITCH}/32", "dev", ifname)
    options = vxlan_options([net.addresses[0]])
    with path.client() as client:
        ack = client.apply([bridge("br0"), port("vx", "vxlan", "br0", options=options)])
        outcome = ack.outcomes["port/vx"]
        assert outcome.code == "ADDRESS_NOT_LOCAL"
        assert "ip address add" in outcome.hint
        for _ in range(2):
            run(*change, "add", f"{SWITCH}/32", "dev", net.switch_ifs[0])
            client.wait_ready("vx")
            assert client.port("vx").link_up
            run(*change, "del", f"{SWITCH}/32", "dev", net.switch_ifs[0])
            wait_until(
                lambda: client.port("vx").outcome.code == "ADDRESS_NOT_LOCAL", 10, "it is noticed"
            )


def test_T4_over_rest(net: Underlay) -> None:
    """Made by the bodies of the documentation, against the kernel's device; what is told of it."""
    vxlan = {"type": "vxlan", "vni": VNI, "local": SWITCH, "remotes": [net.addresses[0]]}
    udp = {
        **{"type": "udp", "local": endpoint(SWITCH6), "vni": 1},
        "peers": [endpoint(net.address6(1))],
    }
    address, tap = kernel_station(net, 0), f"{net.prefix}t"
    with Appliance(net, net.switch) as switch:
        switch.put_bridge("br0")
        switch.put_port("tap", "br0", {"type": "tap", "name": tap})
        switch.put_port("vx", "br0", vxlan)
        switch.put_port("u", "br0", udp)
        switch.wait_ports("tap", "vx", "u")
        run("ip", "-n", net.switch, "address", "add", "172.30.0.254/24", "dev", tap)
        ping(net, net.switch, address, 1472)
        assert switch.conditions("vx")["MtuFits"]["status"] == "True"
        narrow = ("ip", "-n", net.switch, "link", "set", net.switch_ifs[0], "mtu")
        run(*narrow, "1500")
        wait_until(
            lambda: switch.conditions("vx")["MtuFits"]["status"] == "False", 10, "it is noticed"
        )
        hint = switch.conditions("vx")["MtuFits"]["hint"]
        assert hint == f"ip link set {net.switch_ifs[0]} mtu 1550"
        net.run(net.switch, *hint.split())
        wait_until(
            lambda: switch.conditions("vx")["MtuFits"]["status"] == "True", 10, "it is mended"
        )
        types = switch.call("GET", "/system/capabilities")["port_types"]
        assert {"vxlan", "udp"} <= {item["type"] for item in types if item["available"]}
        switch.check_ledger()
