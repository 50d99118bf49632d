"""The same frames through this switch and through others: the same deliveries.

     host 0      host 1      host 2      host 3
        |           |           |           |        veth pairs
    +---+-----------+-----------+-----------+---+
    |  this switch  or  Linux bridge  or  OVS   |    one after the other, each in its namespace
    +-------------------------------------------+

100,000 generated frames (tests/support/corpus.py) enter in batches at one port at a time. For
every batch every host must receive the same frames, byte for byte and as often, and each flow in
the same order. What may differ is listed below, with the reason; an entry that no longer
corresponds to a difference fails the test.
"""

from __future__ import annotations

import pytest

from tests.support.appliance import Appliance
from tests.support.compare import Delivery, Difference, Outcome, compare, deliver
from tests.support.corpus import Batch, Corpus, Sent
from tests.support.oracles import LinuxBridge, OpenVSwitch, PortRules, PortVlan
from tests.support.topology import Topology

FRAMES = 100_000
PORTS = 4
SEED = 20261121

# Two ports that never speak to each other, one that gets no flooded frames, one that does not
# learn.
RULES = [
    PortRules(isolated=True),
    PortRules(isolated=True),
    PortRules(flood=False),
    PortRules(learning=False),
]
# Access in two VLANs, a trunk of both and a third, a trunk with an untagged VLAN of its own.
PLAIN_VLANS = [
    PortVlan("access", 10),
    PortVlan("access", 20),
    PortVlan("trunk", tagged=(10, 20, 30)),
    PortVlan("native", 10, (20, 30)),
]
# Two customers' ports in one tunnel, the provider's trunk, and an access port of that VLAN.
TUNNEL_VLANS = [
    PortVlan("tunnel", 30),
    PortVlan("tunnel", 30),
    PortVlan("trunk", tagged=(10, 30)),
    PortVlan("access", 10),
]


def _tags(frame: bytes) -> int:
    """How many VLAN tags stand one after the other."""
    count = 0
    while frame[12 + 4 * count : 14 + 4 * count] in (b"\x81\x00", b"\x88\xa8"):
        count += 1
    return count


def _dei(sent: Sent, _host: int) -> bool:
    """Does any tag of the frame carry the drop eligible indicator?"""
    return any(sent.data[14 + 4 * i] & 0x10 for i in range(_tags(sent.data)))


def _without_dei(frame: bytes) -> bytes:
    for i in range(_tags(frame)):
        at = 14 + 4 * i
        frame = frame[:at] + bytes([frame[at] & 0xEF]) + frame[at + 1 :]
    return frame


def _without_service_priority(frame: bytes) -> bytes:
    if frame[12:14] == b"\x88\xa8":
        return frame[:14] + bytes([frame[14] & 0x0F]) + frame[15:]
    return frame


def _from_customer(sent: Sent) -> bool:
    return TUNNEL_VLANS[sent.port].mode == "tunnel"


BRIDGE_DIFFERENCES = [
    Difference(
        "01:80:c2:00:00:00 is a reserved address like the others and is dropped; the Linux "
        "bridge floods it while STP is off",
        lambda sent, _: sent.data[:6] == b"\x01\x80\xc2\x00\x00\x00",
    ),
]

OVS_DIFFERENCES = [
    Difference(
        "frames with a group source address are dropped; OVS forwards them",
        lambda sent, _: "bad source" in sent.kind,
    ),
    Difference(
        "the drop eligible indicator of a tag is kept; OVS clears it (it uses the bit itself)",
        _dei,
        _without_dei,
    ),
]


def _to_access(vlans: list[PortVlan]) -> Difference:
    return Difference(
        "an access port takes the tag of its VLAN from a frame and sends the rest, a second tag "
        "included; OVS floods no such frame there and takes both tags from known unicast",
        lambda sent, host: _tags(sent.data) == 2 and vlans[host].mode == "access",
    )


PLAIN_DIFFERENCES = [*OVS_DIFFERENCES, _to_access(PLAIN_VLANS)]

TUNNEL_DIFFERENCES = [
    *OVS_DIFFERENCES,
    _to_access(TUNNEL_VLANS),
    Difference(
        "a customer's second tag passes a tunnel; OVS looks at two tags, its own included, and "
        "loses the third",
        lambda sent, _: _tags(sent.data) == 2 and _from_customer(sent),
    ),
    Difference(
        "a customer's tag of VLAN 0 and priority 0 passes a tunnel; OVS takes it for none",
        lambda sent, _: (
            (_tags(sent.data) == 1 and not sent.data[14] & 0xEF and not sent.data[15])
            and _from_customer(sent)
        ),
    ),
    Difference(
        "the tag that a tunnel adds has the priority of the customer's; OVS gives it none",
        lambda sent, _: _tags(sent.data) > 0 and _from_customer(sent),
        _without_service_priority,
    ),
]


def _ours(
    batches: list[Batch],
    vlans: list[PortVlan] | None = None,
    rules: list[PortRules] | None = None,
) -> list[Delivery]:
    """Deliveries of the whole appliance, af_packet ports; its ledger balances and names what it
    dropped."""
    with (
        Topology(PORTS, mtu=2000, addresses=False) as net,
        Appliance(net, net.switch) as switch,
    ):
        if vlans is not None:
            switch.vlan_bridge("br0", net.switch_ifs, vlans)
        elif rules is not None:
            switch.rules_bridge("br0", net.switch_ifs, rules)
        else:
            switch.bridge("br0", *net.switch_ifs)
        deliveries = deliver(net, switch, batches, vlans, rules)
        ledger = switch.check_ledger()
        assert ledger["rx_frames"] >= sum(len(batch.frames) for batch in batches) - _short(batches)
        return deliveries


def _short(batches: list[Batch]) -> int:
    """Frames that end inside their tags: the kernel drops them before any switch sees them."""
    return sum(len(sent.data) < 24 for batch in batches for sent in batch.frames)


def _judge(outcome: Outcome, differences: list[Difference]) -> None:
    shown = "\n".join(outcome.mismatches[:20])
    assert not outcome.mismatches, f"{len(outcome.mismatches)} mismatches:\n{shown}"
    assert outcome.frames >= FRAMES
    assert outcome.deliveries > FRAMES // 2
    stale = [d.why for d in differences if not outcome.excused[d.why]]
    assert not stale, f"listed as different, and no longer are: {stale}"


@pytest.mark.root
@pytest.mark.parametrize(
    "rules", [pytest.param(None, id="plain"), pytest.param(RULES, id="port-rules")]
)
def test_linux_bridge(rules: list[PortRules] | None) -> None:
    batches = list(Corpus(SEED, ports=PORTS).batches(FRAMES))
    ours = _ours(batches, rules=rules)
    with Topology(PORTS, mtu=2000, addresses=False) as net, LinuxBridge(net, rules) as bridge:
        theirs = deliver(net, bridge, batches, rules=rules)
    _judge(compare(batches, ours, theirs, BRIDGE_DIFFERENCES), BRIDGE_DIFFERENCES)


@pytest.mark.root
@pytest.mark.parametrize(
    ("vlans", "differences"),
    [
        pytest.param(PLAIN_VLANS, PLAIN_DIFFERENCES, id="access-trunk-native"),
        pytest.param(TUNNEL_VLANS, TUNNEL_DIFFERENCES, id="tunnel"),
    ],
)
def test_open_vswitch(vlans: list[PortVlan], differences: list[Difference]) -> None:
    corpus = Corpus(SEED, ports=PORTS, vids=(10, 20, 30, 40), split=True)
    batches = list(corpus.batches(FRAMES))
    ours = _ours(batches, vlans)
    with Topology(PORTS, mtu=2000, addresses=False) as net, OpenVSwitch(net, vlans) as ovs:
        theirs = deliver(net, ovs, batches, vlans)
    _judge(compare(batches, ours, theirs, differences), differences)
