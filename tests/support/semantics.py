"""The founding semantics: what this switch keeps of the systems it grew out of (netmap and VALE,
TUN/TAP and the UDP overlay, PACKET_MMAP), one item each.

A test that shows an item bears its id: ``test_P9_fanout_hash``, ``test_P14_P15_...`` for two. So
do functions of C tests; others are named here. Every run says at its end how the items
fared, a run of everything also which have no test.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ITEMS = {
    "N1": "netmap port names, their grammar and its errors",
    "N2": "hexdump: a capture shows the bytes that came",
    "N3": "host role: the host's own stack through the switch",
    "N4": "zero copy: buffers change hands between slots",
    "N5": "ports of one memory region share it",
    "N6": "NIC to NIC: promiscuous while it lasts",
    "N7": "the sample firewall's rules and their verdicts",
    "N8": "a thread for each queue",
    "N9": "VALE: learning switch, its limits and its control",
    "N10": "pipes: same memory, back-pressure, nothing lost",
    "N11": "monitors: what passes a port, and never slower for it",
    "N12": "offloads, VLAN stripping, veth ends: found before they hurt",
    "T1": "TAP: Ethernet frames, multi-queue, virtio-net header",
    "T2": "TUN: IP packets without Ethernet, ARP and ND by the port",
    "T3": "names by the kernel, persistent devices",
    "T4": "UDP overlay: encapsulation between peers",
    "P1": "packet rings: receive, send, both, versions 1 to 3",
    "P2": "ring geometry and its rules",
    "P3": "what the three ring versions differ in",
    "P4": "who owns a slot, and when",
    "P5": "truncated frames and whole copies of them",
    "P6": "losses: the flag and the counters that reset",
    "P7": "checksums that are not ready, or known to be right",
    "P8": "the states of a slot that is sent",
    "P9": "fanout: every mode and its flags",
    "P10": "sending past the queueing discipline",
    "P11": "timestamps and where they come from",
    "P12": "VLAN tags that the kernel took out are put back",
    "P13": "own frames do not come back",
    "P14": "promiscuous mode and filters before the socket is bound",
    "P15": "nothing from another interface before the socket is bound",
}

# C tests, run by meson and not counted here: those whose functions bear no id.
C_TESTS: dict[str, tuple[str, ...]] = {
    "P1": ("af_packet_ring",),
    "P4": ("af_packet_ring",),
    "P6": ("af_packet",),
    "P8": ("af_packet_ring", "af_packet_life"),
    "P9": ("af_packet_fanout",),
    "P11": ("af_packet_ring",),
    "P12": ("af_packet",),
    "P13": ("af_packet",),
    "P15": ("af_packet",),
}

_NAME = re.compile(r"\btest_((?:[NTP][0-9]+_)+)")


def items_of(test: str) -> list[str]:
    """The items whose ids a test's name bears."""
    found = _NAME.search(test)
    return [] if found is None else [item for item in found[1].split("_") if item]


@functools.cache
def c_tests() -> dict[str, list[str]]:
    """The C tests that show an item, by the names of their functions or by the table."""
    found: dict[str, set[str]] = {item: set(names) for item, names in C_TESTS.items()}
    for path in Path(__file__).parent.parent.glob("c/test_*.c"):
        for ids in _NAME.findall(path.read_text()):
            for item in ids.rstrip("_").split("_"):
                found.setdefault(item, set()).add(path.stem.removeprefix("test_"))
    return {item: sorted(names) for item, names in found.items()}


def lines(outcomes: Iterable[tuple[str, str]], *, whole: bool) -> Iterator[str]:
    """One line an item. ``outcomes``: (test, "passed", "failed" or "skipped")."""
    counts: dict[str, dict[str, int]] = {item: {} for item in ITEMS}
    for test, outcome in outcomes:
        for item in items_of(test):
            counts[item][outcome] = counts[item].get(outcome, 0) + 1
    for item, words in ITEMS.items():
        if not counts[item] and not whole:
            continue
        said = [f"{number} {outcome}" for outcome, number in sorted(counts[item].items())]
        said += [f"C test {name}" for name in c_tests().get(item, ())]
        yield f"{item:4}{words}: {', '.join(said) or 'no test'}"
