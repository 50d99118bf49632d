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
from tests.support.oracles import LinuxBridge, OpenVSwitch, PortVlan
from tests.support.topology import Topology

FRAMES = 100_000
PORTS = 4
SEED = 20261121

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


def _stp_group(sent: Sent) -> bool:
    return sent.data[:6] == b"\x01\x80\xc2\x00\x00\x00"


def _dei(sent: Sent) -> bool:
    """Does any tag of the frame carry the drop eligible indicator?"""
    at = 12
    while sent.data[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        if sent.data[at + 2] & 0x10:
            return True
        at += 4
    return False


def _without_dei(frame: bytes) -> bytes:
    at = 12
    while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8") and at + 3 < len(frame):
        frame = frame[: at + 2] + bytes([frame[at + 2] & 0xEF]) + frame[at + 3 :]
        at += 4
    return frame


BRIDGE_DIFFERENCES = [
    Difference(
        "01:80:c2:00:00:00 is a reserved address like the others and is dropped; the Linux "
        "bridge floods it while STP is off",
        _stp_group,
    ),
]

OVS_DIFFERENCES = [
    Difference(
        "frames with a group or zero source address are dropped; OVS forwards them",
        lambda sent: "bad source" in sent.kind,
    ),
    Difference(
        "the drop eligible indicator of a tag is kept; OVS clears it (it uses the bit itself)",
        _dei,
        _without_dei,
    ),
]


def _ours(batches: list[Batch], vlans: list[PortVlan] | None) -> list[Delivery]:
    """Deliveries of the whole appliance, af_packet ports; its ledger balances and names what it
    dropped."""
    with (
        Topology(PORTS, mtu=2000, addresses=False) as net,
        Appliance(net, net.switch) as switch,
    ):
        if vlans is None:
            switch.bridge("br0", *net.switch_ifs)
        else:
            switch.vlan_bridge("br0", net.switch_ifs, vlans)
        deliveries = deliver(net, switch, batches, vlans)
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
    assert outcome.deliveries > FRAMES
    stale = [d.why for d in differences if not outcome.excused[d.why]]
    assert not stale, f"listed as different, and no longer are: {stale}"


@pytest.mark.root
def test_linux_bridge() -> None:
    batches = list(Corpus(SEED, ports=PORTS).batches(FRAMES))
    ours = _ours(batches, None)
    with Topology(PORTS, mtu=2000, addresses=False) as net, LinuxBridge(net) as bridge:
        theirs = deliver(net, bridge, batches, None)
    _judge(compare(batches, ours, theirs, BRIDGE_DIFFERENCES), BRIDGE_DIFFERENCES)


@pytest.mark.root
@pytest.mark.parametrize(
    ("vlans", "differences"),
    [
        pytest.param(PLAIN_VLANS, OVS_DIFFERENCES, id="access-trunk-native"),
        pytest.param(TUNNEL_VLANS, OVS_DIFFERENCES, id="tunnel"),
    ],
)
def test_open_vswitch(vlans: list[PortVlan], differences: list[Difference]) -> None:
    corpus = Corpus(SEED, ports=PORTS, vids=(10, 20, 30, 40), split=True)
    batches = list(corpus.batches(FRAMES))
    ours = _ours(batches, vlans)
    with Topology(PORTS, mtu=2000, addresses=False) as net, OpenVSwitch(net, vlans) as ovs:
        theirs = deliver(net, ovs, batches, vlans)
    _judge(compare(batches, ours, theirs, differences), differences)
