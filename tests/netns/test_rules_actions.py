"""What rules do to frames: redirect, mirror, set. Byte for byte, at the hosts' ends.

host 0 ══ p0 ┐
host 1 ══ p1 ┤ br0        host 1's addresses are known
host 2 ══ p2 ┘
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.support.appliance import Appliance
from tests.support.oracles import PortVlan
from tests.support.packets import checksum
from tests.support.topology import Topology, wait_until
from tests.support.wire import Wire

pytestmark = pytest.mark.root

MACS = [bytes([2, 0, 0, 0, 1, host]) for host in range(3)]
BROADCAST = b"\xff" * 6
ANY: dict[str, Any] = {}


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Topology, Appliance]]:
    """One appliance for all tests of a bridge that filters no VLANs."""
    with Topology(hosts=3, addresses=False) as net, Appliance(net, net.switch) as switch:
        switch.bridge("br0", *net.switch_ifs)
        yield net, switch


@pytest.fixture
def switch(world: tuple[Topology, Appliance]) -> Iterator[Appliance]:
    yield world[1]
    world[1].call("DELETE", "/rulesets/fw")
    world[1].check_ledger()


@pytest.fixture
def hosts(world: tuple[Topology, Appliance], switch: Appliance) -> Iterator[Hosts]:
    with Wire(world[0]) as wire:
        yield Hosts(wire, switch)


def udp(
    number: int,
    *,
    dst: bytes = MACS[1],
    src: bytes = MACS[0],
    tci: int | None = None,
    dscp: int = 0,
    length: int = 200,
) -> bytes:
    """A datagram with right checksums; ECN is 1, so that it is seen to stay."""
    payload = number.to_bytes(4, "big") + bytes(length)
    addresses = bytes([198, 51, 100, 1, 198, 51, 100, 2])
    head = struct.pack("!BBHHHBBH", 0x45, dscp << 2 | 1, 28 + len(payload), 7, 0, 64, 17, 0)
    head = head[:10] + struct.pack("!H", checksum(head + addresses)) + addresses
    segment = struct.pack("!HHHH", 4000, 5000, 8 + len(payload), 0)
    pseudo = addresses + struct.pack("!HH", 17, 8 + len(payload))
    segment = segment[:6] + struct.pack("!H", checksum(pseudo + segment + payload)) + payload
    tag = b"" if tci is None else struct.pack("!HH", 0x8100, tci)
    return dst + src + tag + b"\x08\x00" + head + segment


class Hosts:
    """All three, on the wire."""

    def __init__(self, wire: Wire, switch: Appliance) -> None:
        self._wire = wire
        self._switch = switch
        for host, mac in enumerate(MACS):  # everybody speaks once, and is known from then on
            self._handled(host, [udp(0xFFFF, dst=BROADCAST, src=mac)])
        wire.receive()

    def _handled(self, host: int, frames: Sequence[bytes]) -> None:
        """Sends, and returns when the switch has done with all of it."""

        def received() -> int:
            return int(self._switch.port_stats()[f"p{host}"]["rx_frames"])

        before = received()
        for frame in frames:
            self._wire.ports[host].send(frame)
        wait_until(lambda: received() == before + len(frames), 10, f"all frames of host {host}")
        self._switch.check_ledger()

    def arrive(self, sent: Sequence[bytes], wanted: Sequence[Sequence[bytes]]) -> None:
        """Sent by host 0: host N receives what is wanted there, and nobody anything else."""
        self._handled(0, sent)
        assert self._wire.receive() == [list(frames) for frames in wanted]


def do(switch: Appliance, *actions: dict[str, Any], match: dict[str, Any] = ANY) -> None:
    rules = [
        {"id": f"r{i}", "priority": i, "match": match, "action": action}
        for i, action in enumerate(actions)
    ]
    switch.put_rules("fw", rules, attach=[{"port": "p0", "direction": "ingress"}])


def test_redirect(hosts: Hosts, switch: Appliance) -> None:
    do(switch, {"type": "redirect", "port": "p2"}, match={"l4": {"dport": ["5000"]}})
    hosts.arrive([udp(1), udp(2, dst=BROADCAST)], [[], [], [udp(1), udp(2, dst=BROADCAST)]])
    arp = MACS[1] + MACS[0] + b"\x08\x06" + bytes(46)
    hosts.arrive([arp], [[], [arp], []])
    switch.call("PATCH", "/ports/p2", {"spec": {"admin_up": False}})
    hosts.arrive([udp(3)], [[], [], []])
    switch.call("PATCH", "/ports/p2", {"spec": {"admin_up": True}})
    switch.wait_ports("p2")
    assert switch.drops("destination_down") == 1


def test_mirror(hosts: Hosts, switch: Appliance) -> None:
    """The copy is the frame as it came, whatever else the rules do with it, cut to snaplen."""
    sent = [udp(n, tci=0x2005) for n in range(20)]
    do(
        switch,
        {"type": "set", "vlan": 0, "dscp": 10},
        {"type": "mirror", "port": "p2", "snaplen": 64},
    )
    wanted = [udp(n, dscp=10) for n in range(20)]
    hosts.arrive(sent, [[], wanted, [frame[:64] for frame in sent]])
    do(switch, {"type": "mirror", "port": "p2"}, {"type": "drop"})
    hosts.arrive(sent, [[], [], sent])
    assert switch.check_ledger()["copies"] >= 40


@pytest.mark.parametrize(
    ("fields", "before", "after"),
    [
        pytest.param({"dscp": 46}, {"dscp": 1}, {"dscp": 46}, id="dscp"),
        pytest.param({"vlan": 7}, {}, {"tci": 7}, id="tag"),
        pytest.param({"vlan": 7}, {"tci": 0x6005}, {"tci": 0x6007}, id="other-tag"),
        pytest.param({"vlan": 0}, {"tci": 0x6005}, {}, id="no-tag"),
        pytest.param({"pcp": 5}, {"tci": 0x6005}, {"tci": 0xA005}, id="pcp"),
        pytest.param({"eth_src": "02:00:00:00:09:09"}, {}, {"src": b"\2\0\0\0\x09\x09"}, id="src"),
        pytest.param(
            {"eth_src": "02:00:00:00:09:09", "vlan": 7, "pcp": 1, "dscp": 3},
            {"dscp": 9},
            {"src": b"\2\0\0\0\x09\x09", "tci": 0x2007, "dscp": 3},
            id="all",
        ),
    ],
)
def test_set(
    hosts: Hosts,
    switch: Appliance,
    fields: dict[str, Any],
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    do(switch, {"type": "set", **fields})
    sent = [udp(n, **before) for n in range(5)]
    hosts.arrive(sent, [[], [udp(n, **after) for n in range(5)], []])
    flooded = udp(9, dst=BROADCAST, **before)
    changed = udp(9, dst=BROADCAST, **after)
    hosts.arrive([flooded], [[], [changed], [changed]])


def test_set_destination_is_looked_up(hosts: Hosts, switch: Appliance) -> None:
    do(switch, {"type": "set", "eth_dst": MACS[2].hex(":")})
    hosts.arrive([udp(1)], [[], [], [udp(1, dst=MACS[2])]])


def test_vlans_of_a_bridge_that_filters_them() -> None:
    """Access 10, a trunk of both, access 20: `vid` is the VLAN that the switch assigned, and
    another one leads elsewhere."""
    vlans = [PortVlan("access", 10), PortVlan("trunk", tagged=(10, 20)), PortVlan("access", 20)]
    with (
        Topology(hosts=3, addresses=False) as net,
        Appliance(net, net.switch) as switch,
        Wire(net) as wire,
    ):
        switch.vlan_bridge("br0", net.switch_ifs, vlans)
        hosts = Hosts(wire, switch)
        _vlans_are_what_the_switch_assigned(hosts, switch)


def _vlans_are_what_the_switch_assigned(hosts: Hosts, switch: Appliance) -> None:
    everybody = udp(1, dst=BROADCAST)
    hosts.arrive([everybody], [[], [udp(1, dst=BROADCAST, tci=10)], []])
    do(switch, {"type": "set", "vlan": 20, "pcp": 3}, match={"vlan": {"vid": 10}})
    hosts.arrive([everybody], [[], [udp(1, dst=BROADCAST, tci=0x6014)], [everybody]])
    do(switch, {"type": "drop"}, match={"vlan": {"vid": 10, "tagged": True}})
    hosts.arrive([everybody], [[], [udp(1, dst=BROADCAST, tci=10)], []])
    do(switch, {"type": "drop"}, match={"vlan": {"vid": 10}})
    hosts.arrive([everybody], [[], [], []])
