"""What preflight finds on real interfaces, and that the command it names mends it.

host 0 ── veth ── [br0] ── veth ── host 1      the first pair's host end is in the switch's own
                                               namespace for some tests: both ends are seen
"""

from __future__ import annotations

import shlex
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
        yield switch


@pytest.fixture
def pair(net: Topology) -> Iterator[tuple[str, str]]:
    """Two ends in the switch's namespace, both up."""
    ends = f"{net.prefix}a", f"{net.prefix}b"
    run("ip", "-n", net.switch, "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    for end in ends:
        run("ip", "-n", net.switch, "link", "set", end, "up")
    yield ends
    run("ip", "-n", net.switch, "link", "delete", ends[0])


def findings(switch: Appliance, port: str) -> dict[str, dict[str, Any]]:
    """By code."""
    found = switch.call("GET", "/system/preflight")["findings"]
    return {item["code"]: item for item in found if item["object"] == f"ports/{port}"}


def mend(net: Topology, switch: Appliance, code: str) -> None:
    """The command that a finding names makes it go."""
    command = shlex.split(findings(switch, "p")[code]["fix"])
    net.run(net.switch, *command)
    wait_until(lambda: code not in findings(switch, "p"), 5, f"{code} is mended by {command}")


def af_packet(ifname: str, **options: Any) -> dict[str, Any]:
    return {"type": "af_packet", "ifname": ifname, **options}


def promiscuity(net: Topology, ifname: str) -> int:
    words = run("ip", "-n", net.switch, "-d", "link", "show", ifname).split()
    return int(words[words.index("promiscuity") + 1])


def test_N6_promiscuous_while_it_is_a_port(net: Topology, switch: Appliance) -> None:
    assert [promiscuity(net, name) for name in net.switch_ifs] == [0, 0]
    ports = switch.bridge("br0", *net.switch_ifs)
    net.run(net.hosts[0], "ping", "-c", "3", "-i", "0.05", "-W", "2", net.addresses[1])
    assert all(promiscuity(net, name) >= 1 for name in net.switch_ifs)
    for port in ports:
        assert findings(switch, port)["PROMISCUOUS"]["severity"] == "info"
    for port in ports:
        switch.call("DELETE", f"/ports/{port}")
    for name in net.switch_ifs:
        wait_until(lambda name=name: promiscuity(net, name) == 0, 5, f"{name} is as before")  # type: ignore[misc]


def test_N12_link_and_both_ends_of_a_veth(
    net: Topology, switch: Appliance, pair: tuple[str, str]
) -> None:
    ours, other = pair
    switch.put_port("p", "br0", af_packet(ours))
    try:
        switch.wait_ports("p")
        assert set(findings(switch, "p")) == {"PROMISCUOUS"}
        run("ip", "-n", net.switch, "link", "set", ours, "down")
        assert findings(switch, "p")["IFACE_DOWN"]["severity"] == "error"
        mend(net, switch, "IFACE_DOWN")
        run("ip", "-n", net.switch, "link", "set", other, "down")
        assert other in findings(switch, "p")["NO_CARRIER"]["message"]
        mend(net, switch, "NO_CARRIER")
        switch.wait_ports("p")
    finally:
        switch.call("DELETE", "/ports/p")


def test_N12_an_end_in_another_namespace(net: Topology, switch: Appliance) -> None:
    switch.put_port("p", "br0", af_packet(net.switch_ifs[1], version=2), offload_policy="refuse")
    try:
        switch.wait_ports("p")
        assert findings(switch, "p")["VETH_PEER_HIDDEN"]["severity"] == "info"
        run("ip", "-n", net.hosts[1], "link", "set", net.host_ifs[1], "down")
        found = findings(switch, "p")["NO_CARRIER"]
        assert "another network namespace" in found["message"]
        run(*shlex.split(found["fix"].replace("NETNS", net.hosts[1])))
        wait_until(lambda: "NO_CARRIER" not in findings(switch, "p"), 5, "the link is back")
    finally:
        run("ip", "-n", net.hosts[1], "link", "set", net.host_ifs[1], "up")
        switch.call("DELETE", "/ports/p")


def test_N12_offloads_of_the_sender(
    net: Topology, switch: Appliance, pair: tuple[str, str]
) -> None:
    """The end that sends is the one that leaves checksums and segments to the device."""
    switch.put_port("p", "br0", af_packet(pair[0]), offload_policy="refuse")
    try:
        switch.wait_ports("p")
        found = findings(switch, "p")["OFFLOADS_ENABLED"]
        assert found["fix"].startswith(f"ethtool -K {pair[1]} tx off")
        mend(net, switch, "OFFLOADS_ENABLED")
        said = net.run(net.switch, "ethtool", "-k", pair[1])
        assert "tx-checksumming: off" in said
        assert "tcp-segmentation-offload: off" in said
    finally:
        switch.call("DELETE", "/ports/p")


def test_N12_tags_that_are_stripped(
    net: Topology, switch: Appliance, pair: tuple[str, str]
) -> None:
    """Versions 2 and 3 put the tag back; version 1 cannot."""
    switch.put_port("p", "br0", af_packet(pair[0], version=2))
    try:
        switch.wait_ports("p")
        assert "VLAN_UNSUPPORTED" not in findings(switch, "p")
        switch.put_port("p", "br0", af_packet(pair[0], version=1))
        switch.wait_ports("p")
        assert "version=2" in findings(switch, "p")["VLAN_UNSUPPORTED"]["fix"]
    finally:
        switch.call("DELETE", "/ports/p")
