"""The same rules here, in nftables (bridge family) and in Open vSwitch: the same verdicts.

    host 0 ══ p0 [ this switch, or a Linux bridge, or OVS ] p1 ══ host 1

100,000 generated frames (tests/support/packets.py) meet sets of random rules (peer_rules.py); every
one has to arrive, or not, as through the other switch. What may differ is listed below, with the
reason; an entry that no longer corresponds to a difference fails the test.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import peer_rules
from tests.support.appliance import Appliance
from tests.support.oracles import LinuxBridge, OpenVSwitch
from tests.support.packets import Made, Packets
from tests.support.peer_rules import Rule, Rules
from tests.support.topology import Topology
from tests.support.verdicts import Comparison, Excuse, Passing

FRAMES = 100_000
SETS = 20
RULES = 60
SEED = 20261121

NFT_EXCUSES = [
    Excuse(
        "IP is found behind two tags; nftables looks behind one", lambda made: "qinq" in made.kind
    ),
    Excuse(
        "a header that contradicts itself is none; nftables compares its bytes all the same",
        lambda made: "broken" in made.kind,
    ),
    Excuse(
        "a layer 4 header is there as a whole or not at all, and ends where its packet ends; "
        "nftables reads what it can of it",
        lambda made: "cut" in made.kind,
    ),
    Excuse(
        "a later fragment has no ports; nftables takes payload for them",
        lambda made: "later" in made.kind and made.version == 6,
    ),
]
OVS_EXCUSES = [
    Excuse(
        "a header that contradicts itself is none; OVS takes its addresses and ports for 0",
        lambda made: not made.kind.isdisjoint({"broken", "cut"}),
    ),
    Excuse(
        "a later fragment of IPv6 has the protocol that its header names; OVS says it is 44",
        lambda made: "later" in made.kind and made.version == 6,
    ),
]


def _ours(sets: list[list[Rule]], corpus: list[list[Made]]) -> list[set[int]]:
    with (
        Topology(2, mtu=2000, addresses=False) as net,
        Appliance(net, net.switch) as switch,
        Passing(net) as passing,
    ):
        switch.bridge("br0", *net.switch_ifs)
        found = []
        for rules, made in zip(sets, corpus, strict=True):
            switch.put_rules("fw", peer_rules.api(rules))
            found.append(passing.passed(frame.data for frame in made))
        ledger = switch.check_ledger()
        assert ledger["drops"] >= sum(map(len, corpus)) - sum(map(len, found))
        return found


def _nftables(sets: list[list[Rule]], corpus: list[list[Made]]) -> list[set[int]]:
    with (
        Topology(2, mtu=2000, addresses=False) as net,
        LinuxBridge(net) as bridge,
        Passing(net) as passing,
    ):
        found = []
        for rules, made in zip(sets, corpus, strict=True):
            bridge.filter(peer_rules.nft(rules))
            found.append(passing.passed(frame.data for frame in made))
        return found


def _open_vswitch(sets: list[list[Rule]], corpus: list[list[Made]]) -> list[set[int]]:
    with (
        Topology(2, mtu=2000, addresses=False) as net,
        OpenVSwitch(net) as ovs,
        Passing(net) as passing,
    ):
        found = []
        for rules, made in zip(sets, corpus, strict=True):
            ovs.flows([*peer_rules.ovs(rules, to="2"), "priority=0,actions=output:2"])
            found.append(passing.passed(frame.data for frame in made))
        return found


Verdicts = Callable[[list[list[Rule]], list[list[Made]]], list[set[int]]]


@pytest.mark.root
@pytest.mark.parametrize(
    ("peer", "excuses"),
    [
        pytest.param(_nftables, NFT_EXCUSES, id="nftables"),
        pytest.param(_open_vswitch, OVS_EXCUSES, id="ovs"),
    ],
)
def test_the_same_verdicts(peer: Verdicts, excuses: list[Excuse]) -> None:
    sets = [Rules(SEED + number).take(RULES) for number in range(SETS)]
    packets = Packets(SEED)
    corpus = [list(packets.take(FRAMES // SETS)) for _ in range(SETS)]
    compared = Comparison()
    for made, ours, theirs in zip(corpus, _ours(sets, corpus), peer(sets, corpus), strict=True):
        compared.add(made, ours, theirs, excuses)
    shown = "\n".join(compared.mismatches[:20])
    assert not compared.mismatches, f"{len(compared.mismatches)} mismatches:\n{shown}"
    assert compared.frames == FRAMES
    assert FRAMES // 10 < compared.passed < FRAMES - FRAMES // 10
    stale = [excuse.why for excuse in excuses if not compared.excused[excuse.why]]
    assert not stale, f"listed as different, and no longer are: {stale}"
