"""The import of `filterrule` tables: the rules block exactly what the table's own program does."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vswitch.kinds import terms
from vswitch.kinds.rule import RuleEntry
from vswitch.services.changes import invalid
from vswitch.services.filterrules import (
    DIRECTIONS,
    FilterRule,
    ImportRequest,
    entries,
    names_of,
    places,
)

TCP, UDP = 6, 17


@dataclass(frozen=True)
class Packet:
    """Of IPv4, whole. ``ports`` None: neither TCP nor UDP."""

    src: IPv4Address
    dst: IPv4Address
    proto: int
    ports: tuple[int, int] | None


def blocks(rule: FilterRule, packet: Packet) -> bool:
    """The filter's loop, line by line."""
    if rule.proto not in (-1, packet.proto):
        return False
    for address, mask, seen in (
        (rule.srcaddr, rule.srcmask, packet.src),
        (rule.dstaddr, rule.dstmask, packet.dst),
    ):
        bits = int(IPv4Address(mask))
        if int(IPv4Address(address)) & bits != int(seen) & bits:
            return False
    if packet.ports is None:
        return True
    return rule.srcport in (-1, packet.ports[0]) and rule.dstport in (-1, packet.ports[1])


def matches(entry: RuleEntry, packet: Packet) -> bool:
    """What the rule says, of the parts that an import makes."""
    ip, l4 = entry.match.ip, entry.match.l4
    assert ip is not None
    assert ip.version == 4
    if ip.proto is not None and not any(
        first <= packet.proto <= last for first, last in terms.protocols(ip.proto)
    ):
        return False
    for text, seen in ((ip.src, packet.src), (ip.dst, packet.dst)):
        if text is not None:
            value, mask = terms.ip_mask(text)
            if bytes(a & b for a, b in zip(seen.packed, mask, strict=True)) != value:
                return False
    if l4 is None:
        return True
    return packet.ports is not None and all(
        wanted is None or (str(seen),) == wanted
        for wanted, seen in zip((l4.sport, l4.dport), packet.ports, strict=True)
    )


addresses = st.sampled_from(["0.0.0.0", "10.0.0.1", "10.0.1.1", "192.0.2.1", "255.255.255.255"])
masks = st.sampled_from(
    ["0.0.0.0", "255.0.0.0", "255.255.255.0", "255.0.255.255", "255.255.255.255"]
)
ports = st.sampled_from([-1, 0, 80, 443])
protocols = st.sampled_from([-1, 0, 1, TCP, UDP, 47, 255])
rules = st.builds(
    FilterRule,
    dir=st.integers(0, 1),
    proto=protocols,
    srcaddr=addresses,
    srcmask=masks,
    dstaddr=addresses,
    dstmask=masks,
    srcport=ports,
    dstport=ports,
)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    proto = draw(st.sampled_from([0, 1, TCP, UDP, 47, 255]))
    port = st.sampled_from([0, 80, 443, 65535])
    both = (draw(port), draw(port)) if proto in (TCP, UDP) else None
    source, target = (IPv4Address(draw(addresses)) for _ in range(2))
    return Packet(source, target, proto, both)


@given(st.lists(rules, max_size=6), packets())
def test_N7_imported_rules_block_what_the_table_blocks(
    table: list[FilterRule], packet: Packet
) -> None:
    for number, direction in enumerate(DIRECTIONS):
        mine = entries(tuple(table), direction)
        wanted = [index for index, r in enumerate(table) if r.dir == number and blocks(r, packet)]
        found = [index for index, entry in mine if matches(entry, packet)]
        assert found == wanted, "the same elements match, in the same order"
        assert all(entry.action.type == "drop" for _, entry in mine)
        assert [entry.priority for _, entry in mine] == [index for index, _ in mine]
        assert len({entry.id for _, entry in mine}) == len(mine)


def test_one_set_or_two() -> None:
    coming, going = FilterRule(dir=0), FilterRule(dir=1)
    assert names_of("fw", ()) == {"in": "fw"}
    assert names_of("fw", (coming,)) == {"in": "fw"}
    assert names_of("fw", (going,)) == {"out": "fw"}
    assert names_of("fw", (going, coming)) == {"in": "fw-in", "out": "fw-out"}
    with pytest.raises(ValueError, match="too long"):
        names_of("n" * 28, (going, coming))
    request = ImportRequest.model_validate(
        {"format": "filterrule", "rules": [], "attach": [{"port": "p1", "order": 5}]}
    )
    (attach,) = places(request, "out") or ()
    assert (attach.port, attach.direction, attach.order) == ("p1", "egress", 5)


@pytest.mark.parametrize(
    ("element", "pointer"),
    [
        ({}, "/rules/0/dir"),
        ({"dir": 2}, "/rules/0/dir"),
        ({"dir": 0, "proto": 256}, "/rules/0/proto"),
        ({"dir": 0, "srcport": 65536}, "/rules/0/srcport"),
        ({"dir": 0, "srcaddr": "10.0.0.1"}, "/rules/0/srcmask"),
        ({"dir": 0, "dstaddr": "10.0.0", "dstmask": "255.0.0.0"}, "/rules/0/dstaddr"),
        ({"dir": 0, "direction": "in"}, "/rules/0/direction"),
    ],
)
def test_elements_that_make_no_sense(element: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ImportRequest.model_validate({"format": "filterrule", "rules": [element]})
    assert invalid(caught.value).errors[0].pointer == pointer
