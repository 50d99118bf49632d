"""TUN ports of the whole appliance: over REST, given to other namespaces, and with kills.

host 0 ── TUN ── [br0] ── TUN ── host 1       the interfaces live in the hosts' namespaces
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.appliance import Appliance
from tests.support.topology import Topology, run, wait_until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def net() -> Iterator[Topology]:
    with Topology(hosts=2) as net:
        yield net


@pytest.fixture(scope="module")
def switch(net: Topology) -> Iterator[Appliance]:
    with Appliance(net, net.switch) as switch:
        switch.put_bridge("br0")
        for i, host in enumerate(net.hosts):
            name = f"{net.prefix}n{i}"
            switch.put_port(f"t{i}", "br0", {"type": "tun", "name": name})
            switch.wait_ready(f"t{i}")
            run("ip", "-n", host, "link", "delete", net.host_ifs[i])
            run("ip", "-n", net.switch, "link", "set", name, "netns", host)
            run("ip", "-n", host, "link", "set", name, "up")
            run("ip", "-n", host, "address", "add", f"{net.addresses[i]}/24", "dev", name)
        switch.wait_ports("t0", "t1")
        yield switch


def test_T2_ping_between_namespaces(net: Topology, switch: Appliance) -> None:
    """A name is all that was said; the sandboxed forwarder finds the rest."""
    for host, target in ((0, 1), (1, 0)):
        command = ("ping", "-c", "20", "-i", "0.01", "-W", "2", net.addresses[target])
        net.run(net.hosts[host], *command)

    def status() -> dict[str, Any]:
        said: dict[str, Any] = switch.call("GET", "/ports/t0")["status"]
        return said

    wait_until(
        lambda: "1 known, 1 behind" in status()["backend_effective"], 5, "the status says so"
    )
    assert int(status()["mac"][:2], 16) & 3 == 2, "a local address of a station"
    ledger = switch.check_ledger()
    assert ledger["originated"] > 0
    assert ledger["consumed"] > 0


def test_T2_a_killed_forwarder(net: Topology, switch: Appliance) -> None:
    """The keeper holds the device and what is known of neighbours: packets wait in the device's
    queue and go on at once. Lost is what the dead one had taken, booked as restart."""
    kills, wanted = 5, 1500
    net.run(net.hosts[0], "ping", "-c", "1", "-W", "5", net.addresses[1])  # who is where
    count = ("-c", str(wanted), "-i", "0.004", "-W", "5")
    ping = net.start(net.hosts[0], "ping", "-q", *count, net.addresses[1])
    for _ in range(kills):
        before = switch.kill("forwarder")
        switch.wait_replaced("forwarder", before)
        wait_until(switch.ready, 10, "the next one forwards")
        switch.wait_ports("t0", "t1")
    assert ping.wait(60) in (0, 1)
    assert ping.stdout is not None
    said = ping.stdout.read()
    received = int(said.split(" received")[0].split()[-1])
    restart = sum(p["rx_drops"].get("restart", 0) for p in switch.port_stats().values())
    assert all("no_neighbor" not in p["rx_drops"] for p in switch.port_stats().values())
    assert wanted - received <= restart, said
    switch.check_ledger()


def test_T2_the_address_is_the_same_after_a_restart(net: Topology, switch: Appliance) -> None:
    macs = [switch.call("GET", f"/ports/t{i}")["status"]["mac"] for i in (0, 1)]
    assert macs[0] != macs[1]
    switch.put_port("t2", "br0", {"type": "tun", "name": f"{net.prefix}n2"})
    switch.wait_ports("t2")
    mac = switch.call("GET", "/ports/t2")["status"]["mac"]
    switch.call("DELETE", "/ports/t2")
    switch.put_port("t2", "br0", {"type": "tun", "name": f"{net.prefix}n2"})
    switch.wait_ports("t2")
    assert switch.call("GET", "/ports/t2")["status"]["mac"] == mac
    switch.call("DELETE", "/ports/t2")
