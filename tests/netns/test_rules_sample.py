"""The packet filter of netmap's sample firewall: its rules imported, its verdicts here.

    host 0 ══ nic [ this switch ] stack ══ host 1

The sample stands between an interface and the host's stack; `dir` 0 is what comes from the
interface.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.support import filterrule
from tests.support.appliance import Appliance
from tests.support.filterrule import BUFFER_BYTES, IN, OUT, SAMPLE, FilterRule
from tests.support.packets import Made, Packets, checksum
from tests.support.topology import Topology
from tests.support.verdicts import Passing

FRAMES = 20_000
SEED = 20261121

# What else its struct can say: no protocol, with and without ports, masks with holes, bits of an
# address outside of its mask, both directions.
FURTHER = (
    FilterRule(IN, -1, 0x0A000001, 0xFF0000FF, 0, 0, -1, 443),
    FilterRule(IN, 17, 0, 0, 0xC6336407, 0xFFFFFFFF, 53, -1),
    FilterRule(OUT, 6, 0, 0, 0x0A0102FF, 0xFFFFFF00, 8080, 22),
    FilterRule(OUT, -1, 0x0B000000, 0xFF000000, 0, 0, -1, -1),
    FilterRule(OUT, 47, 0xC0000200, 0xFFFFFF00, 0, 0, 7, 7),
)

# Kinds of frames of which the sample reads bytes that are not what it takes them for.
MISREAD = {
    "disguised": "not IPv4, although the 15th byte looks like it",
    "other": "too short to be IPv4, the rest is what lay in the buffer",
    "broken": "a header that cannot be, or of which a part is missing",
    "cut": "ends inside its TCP or UDP header",
    "later": "a later fragment: payload is taken for ports",
    "tagged": "a VLAN tag is taken for the beginning of an IP header",
    "priority": "a VLAN tag is taken for the beginning of an IP header",
    "qinq": "a VLAN tag is taken for the beginning of an IP header",
}


def _verdicts(rules: Sequence[FilterRule], corpus: Sequence[Made]) -> tuple[list[set[int]], int]:
    """Numbers that pass from the interface and from the host, and how many rules dropped."""
    with (
        Topology(2, mtu=2000, addresses=False) as net,
        Appliance(net, net.switch) as switch,
        Passing(net) as passing,
    ):
        nic, _ = switch.bridge("br0", *net.switch_ifs)
        table = [rule.json() for rule in rules]
        body = {"format": "filterrule", "rules": table, "attach": [{"port": nic}]}
        switch.call("POST", "/rulesets/sample/import", body)
        passed = [passing.passed((made.data for made in corpus), source) for source in (0, 1)]
        switch.check_ledger()
        return passed, switch.drops("rule")


@pytest.mark.root
@pytest.mark.parametrize(
    "rules",
    [pytest.param(SAMPLE, id="its-own-two-rules"), pytest.param(FURTHER, id="further-ones")],
)
def test_N7_the_sample_firewall(rules: Sequence[FilterRule]) -> None:
    corpus = list(Packets(SEED).take(FRAMES))
    passed, dropped = _verdicts(rules, corpus)
    stale = random.Random(SEED).randbytes(BUFFER_BYTES)
    misread: Counter[str] = Counter()
    for direction in (IN, OUT):
        blocked = 0
        for made in corpus:
            want = filterrule.sound(rules, direction, made.data)
            got = made.number not in passed[direction]
            assert got == want, f"dir {direction}, {sorted(made.kind)}: {made.data.hex()}"
            blocked += want
            if filterrule.verdict(rules, direction, made.data, stale) != want:
                assert made.kind & MISREAD.keys(), f"{sorted(made.kind)}: {made.data.hex()}"
                misread.update(made.kind & MISREAD.keys())
        assert 100 < blocked < FRAMES // 2
    assert misread["later"]
    assert misread["disguised"]
    assert dropped == sum(FRAMES - len(numbers) for numbers in passed)


def test_the_model_agrees_with_the_sample_on_whole_packets() -> None:
    """IPv4 as it should be: neither stale bytes nor lengths change the sample's verdict."""
    for made in Packets(SEED).take(2_000):
        if made.version == 4 and not made.kind & MISREAD.keys():
            assert checksum(made.data[14 : 14 + 4 * (made.data[14] & 15)]) == 0
            for direction in (IN, OUT):
                for fill in (b"\0", b"\xff"):
                    literal = filterrule.verdict(SAMPLE, direction, made.data, fill * BUFFER_BYTES)
                    assert literal == filterrule.sound(SAMPLE, direction, made.data)
