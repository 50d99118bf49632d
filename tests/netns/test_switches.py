"""Pipes and VALE switches in the real processes: kills under traffic, and hosts that talk.

host 0 ══ p0 [br0] ── pipe, or a switch ── [br1] p1 ══ host 1
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from fastpath.protocol import WireObject, WirePort
from tests.support.appliance import Appliance
from tests.support.fastpath import Client, FastPath, bridge, port
from tests.support.kills import Traffic, lost_by_us, pauses_ms, undisturbed_loss
from tests.support.topology import Topology, wait_until

pytestmark = pytest.mark.root

KILLS = 10


@pytest.fixture
def net() -> Iterator[Topology]:
    with Topology(hosts=2) as topology:
        yield topology


def ends(name: str, master: str, slave: str, **options: str) -> list[WirePort]:
    """The two ports of a pipe in two bridges."""
    return [
        port(f"{name}{end}", "pipe", to, options={"name": name, "end": end, **options})
        for end, to in (("master", master), ("slave", slave))
    ]


def outside(net: Topology) -> list[WireObject]:
    """Two bridges, each with a host."""
    return [
        bridge("br0"),
        bridge("br1"),
        *(
            port(f"p{i}", "af_packet", f"br{i}", options={"ifname": ifname})
            for i, ifname in enumerate(net.switch_ifs)
        ),
    ]


def configure(client: Client, net: Topology, joint: list[WireObject]) -> None:
    ack = client.apply([*outside(net), *joint])
    assert all(outcome.ok for outcome in ack.outcomes.values()), ack.outcomes


JOINTS: dict[str, list[WireObject]] = {
    "pipe": [*ends("x", "br0", "br1")],
    "vale": [
        bridge("vale0", ageing_s=0),
        *ends("a", "br0", "vale0", block="0", slots="2048"),
        *ends("b", "br1", "vale0", block="0", slots="2048"),
    ],
}


@pytest.mark.parametrize("joint", JOINTS)
def test_forwarder_killed_under_traffic(joint: str, net: Topology, path: FastPath) -> None:
    """What is in a pipe stays in it: no frame is lost, and none is sent twice."""
    with path.client() as client:
        configure(client, net, JOINTS[joint])
    usual_loss = undisturbed_loss(net, path)
    kills = 0
    while kills < KILLS:
        path.wait_standby()
        traffic = Traffic(net, path, 5)
        times: list[int] = []
        while traffic.running and kills < KILLS:
            times.append(time.time_ns())
            path.wait_replaced(path.kill_forwarder())
            path.wait_standby()
            kills += 1
        lost, report = traffic.result()
        at_kills, other = pauses_ms(report, times)
        assert lost_by_us(lost, report, other) <= usual_loss, (lost, at_kills, report)
        assert report["duplicates"] == 0
    with path.client() as client:
        client.check_ledger()
        assert client.status().restarts == KILLS
        drops = {p.name: dict(p.rx_drops) | dict(p.tx_drops) for p in client.stats().ports}
    assert all(set(reasons) <= {"restart"} for reasons in drops.values()), drops


def test_what_is_in_a_pipe_outlives_keeper_and_forwarder(net: Topology, path: FastPath) -> None:
    """A lone end fills; the keeper dies, the forwarder dies; the other end comes and has it all."""
    with path.client() as client:
        master, slave = ends("x", "br0", "br1")
        configure(client, net, [master])
        assert not client.port(master.name).link_up
        traffic = Traffic(net, path, 0.05)
        traffic.result()
        kept = {p.name: p.tx_frames for p in client.stats().ports}[master.name]
    assert kept > 100
    path.wait_standby()
    path.kill_keeper()
    path.start()
    path.wait_standby()
    path.wait_replaced(path.kill_forwarder())
    path.wait_standby()
    with path.client() as client:
        client.snapshot([*outside(net), master, slave])
        client.wait_ready(master.name, slave.name)
        assert client.port(master.name).link_up
        assert client.port(slave.name).link_up

        def received() -> int:
            return {p.name: p.rx_frames for p in client.stats().ports}[slave.name]

        wait_until(lambda: received() == kept, 5, "the slave has what the master was given")
        client.check_ledger()


def test_hosts_talk_through_a_vale_switch(net: Topology) -> None:
    """Two bridges, each a port of one switch; local stacks with all their offloads."""
    with Appliance(net, net.switch) as appliance:
        for i, ifname in enumerate(net.switch_ifs):
            appliance.put_bridge(f"br{i}")
            appliance.put_port(f"p{i}", f"br{i}", {"type": "af_packet", "ifname": ifname})
            joint = {"type": "vale", "switch": "vale0", "port": f"to_br{i}"}
            appliance.put_port(f"v{i}", f"br{i}", joint)
        appliance.wait_ports("p0", "p1", "v0", "v1")
        switch = appliance.call("GET", "/bridges/vale0")
        assert switch["spec"]["origin"] == "vale"
        assert switch["status"]["ports"] == ["v0", "v1"]
        server = net.start(net.hosts[1], "iperf3", "-s", "-1")
        assert server.stdout is not None
        net.run(net.hosts[0], "ping", "-c", "3", "-i", "0.2", net.addresses[1])
        net.run(net.hosts[0], "iperf3", "-c", net.addresses[1], "-t", "2")
        ledger = appliance.check_ledger()
        stats = appliance.port_stats()
        # The switch's own ports are counted like all others.
        for i in (0, 1):
            ours, theirs = stats[f"v{i}"], stats[f"vale0:to_br{i}"]
            assert ours["tx_frames"] == theirs["rx_frames"] > 0
            assert theirs["tx_frames"] == ours["rx_frames"] > 0
            assert ours["segments"] == theirs["segments"] == 0, "large frames pass as they are"
        assert ledger["rx_frames"] > 1000
        stations = appliance.call("GET", "/bridges/vale0/fdb")["items"]
        assert {row["port"] for row in stations} == {"vale0:to_br0", "vale0:to_br1"}
