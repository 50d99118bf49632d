"""Rules to alternatives: what a field compares, what it implies, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from fastpath import rules
from fastpath.native_rules import KEY_FIELDS, MATCH_BYTES, RANGES_OFFSET, STATES, ffi, lib
from fastpath.protocol import WireAction, WireGroup, WireTerm
from fastpath.rules import Compiler, Names, RuleError
from tests.support.fastpath import rule

IP = lib.FLOW_IP
V4 = {"ip_version": 4, "layers": IP}
L4 = lib.FLOW_L4 | IP


def compiled(*terms: WireTerm, names: Names | None = None, most: int = 65536) -> list[Any]:
    """The rule's alternatives as C sees them."""
    raw = Compiler(names or Names(), most).matches(rule("fw", "r", match=terms))
    matches = ffi.from_buffer("struct rule_match[]", raw)
    return [matches[n] for n in range(len(raw) // MATCH_BYTES)]


def key(struct: Any) -> dict[str, Any]:
    """Of a struct flow_key, the fields that are not 0."""
    fields: dict[str, Any] = {}
    for name, (_, size) in KEY_FIELDS.items():
        value = getattr(struct, name)
        found = value if size <= 2 and isinstance(value, int) else bytes(value)
        if found and (isinstance(found, int) or any(found)):
            fields[name] = found
    return fields


def only(*terms: WireTerm) -> tuple[dict[str, Any], dict[str, Any], tuple[int, ...]]:
    """Value, mask and ranges of a rule of one alternative."""
    (match,) = compiled(*terms)
    ranges = (match.l4_src_lo, match.l4_src_hi, match.l4_dst_lo, match.l4_dst_hi)
    return key(match.value), key(match.mask), ranges


def masked(field: str, *masks: tuple[bytes, bytes]) -> WireTerm:
    return WireTerm(field, masks=masks)


def exact(field: str, value: bytes) -> WireTerm:
    return masked(field, (value, b"\xff" * len(value)))


TEN = (b"\x0a\0\0\0", b"\xff\0\0\0")
SIX = (bytes.fromhex("20010db8") + bytes(12), b"\xff" * 4 + bytes(12))


def test_the_layout_is_the_one_that_is_packed() -> None:
    assert RANGES_OFFSET == MATCH_BYTES - 8
    assert ffi.offsetof("struct rule_match", "mask") == ffi.sizeof("struct flow_key")


def test_no_terms_match_everything() -> None:
    assert only() == ({}, {}, (0, 0xFFFF, 0, 0xFFFF))


@pytest.mark.parametrize(
    ("term", "value", "mask"),
    [
        (exact("eth_dst", b"\2\0\0\0\0\1"), {"eth_dst": b"\2\0\0\0\0\1"}, {"eth_dst": b"\xff" * 6}),
        (exact("eth_type", b"\x88\xb5"), {"eth_type": 0x88B5}, {"eth_type": 0xFFFF}),
        (exact("vlan_vid", b"\x01\x02"), {"vid": 0x102}, {"vid": 0xFFFF}),
        (
            exact("vlan_pcp", b"\5"),
            {"vlan_pcp": 5, "layers": lib.FLOW_TAGGED},
            {"vlan_pcp": 0xFF, "layers": lib.FLOW_TAGGED},
        ),
        (exact("vlan_tagged", b"\1"), {"layers": lib.FLOW_TAGGED}, {"layers": lib.FLOW_TAGGED}),
        (exact("vlan_tagged", b"\0"), {}, {"layers": lib.FLOW_TAGGED}),
        (
            masked("ip_src", TEN),
            V4 | {"ip_src": bytes(12) + TEN[0]},
            {"ip_src": bytes(12) + TEN[1], "ip_version": 0xFF, "layers": IP},
        ),
        (
            masked("ip_dst", SIX),
            {"ip_dst": SIX[0], "ip_version": 6, "layers": IP},
            {"ip_dst": SIX[1], "ip_version": 0xFF, "layers": IP},
        ),
        (
            masked("ip_src", (b"\x0a\1\2\3", b"\xff\0\0\xff")),
            V4 | {"ip_src": bytes(12) + b"\x0a\0\0\3"},
            {"ip_src": bytes(12) + b"\xff\0\0\xff", "ip_version": 0xFF, "layers": IP},
        ),
        (
            exact("ip_proto", b"\x11"),
            {"ip_proto": 17, "layers": IP},
            {"ip_proto": 0xFF, "layers": IP},
        ),
        (
            exact("ip_dscp", b"\x2e"),
            {"ip_tos": 0xB8, "layers": IP},
            {"ip_tos": 0xFC, "layers": IP},
        ),
        (exact("ip_ttl", b"\1"), {"ip_ttl": 1, "layers": IP}, {"ip_ttl": 0xFF, "layers": IP}),
        (
            masked("tcp_flags", (b"\x02", b"\x12")),
            {"tcp_flags": 2, "ip_proto": 6, "layers": L4},
            {"tcp_flags": 0x12, "ip_proto": 0xFF, "layers": L4 | lib.FLOW_LATER},
        ),
        (
            exact("arp_op", b"\0\2"),
            {"ip_proto": 2, "eth_type": 0x0806, "layers": lib.FLOW_L3},
            {"ip_proto": 0xFF, "eth_type": 0xFFFF, "layers": lib.FLOW_L3 | IP},
        ),
        (
            masked("arp_tpa", TEN),
            {"ip_dst": bytes(12) + TEN[0], "eth_type": 0x0806, "layers": lib.FLOW_L3},
            {"ip_dst": bytes(12) + TEN[1], "eth_type": 0xFFFF, "layers": lib.FLOW_L3 | IP},
        ),
        (
            exact("arp_sha", b"\2\0\0\0\0\7"),
            {"ip_src": b"\2\0\0\0\0\7" + bytes(10), "eth_type": 0x0806, "layers": lib.FLOW_L3},
            {
                "ip_src": b"\xff" * 6 + bytes(10),
                "eth_type": 0xFFFF,
                "layers": lib.FLOW_L3 | IP,
            },
        ),
        (
            WireTerm("fragment", words=("none",)),
            {"layers": IP},
            {"layers": IP | lib.FLOW_FRAGMENT},
        ),
        (
            WireTerm("fragment", words=("first",)),
            {"layers": IP | lib.FLOW_FRAGMENT},
            {"layers": IP | lib.FLOW_FRAGMENT | lib.FLOW_LATER},
        ),
        (
            WireTerm("fragment", words=("any",)),
            {"layers": IP | lib.FLOW_FRAGMENT},
            {"layers": IP | lib.FLOW_FRAGMENT},
        ),
        (
            WireTerm("state", words=("established",)),
            {"state": lib.FLOW_ESTABLISHED},
            {"state": lib.FLOW_ESTABLISHED},
        ),
    ],
    ids=lambda value: value.field if isinstance(value, WireTerm) else "",
)
def test_a_field_and_what_it_implies(
    term: WireTerm, value: dict[str, Any], mask: dict[str, Any]
) -> None:
    assert only(term) == (value, mask, (0, 0xFFFF, 0, 0xFFFF))


def test_a_port_is_exact_and_a_range_stays_one() -> None:
    value, mask, ranges = only(WireTerm("l4_dst", ranges=((80, 80),)))
    assert (value["l4_dst"], mask["l4_dst"], ranges) == (80, 0xFFFF, (0, 0xFFFF, 80, 80))
    assert value["layers"] == L4 | lib.FLOW_PORTS
    value, mask, ranges = only(WireTerm("l4_src", ranges=((8000, 8080),)))
    assert "l4_src" not in mask
    assert ranges == (8000, 8080, 0, 0xFFFF)


def test_ranges_that_touch_are_one() -> None:
    assert only(WireTerm("l4_dst", ranges=((10, 20), (21, 30), (15, 16))))[2] == (0, 65535, 10, 30)
    assert len(compiled(WireTerm("l4_dst", ranges=((10, 20), (22, 30))))) == 2


def test_type_and_code_of_icmp_lie_where_ports_do() -> None:
    value, mask, ranges = only(exact("icmp_type", b"\x08"), exact("icmp_code", b"\0"))
    assert value == V4 | {"l4_src": 8, "ip_proto": 1, "layers": L4}
    assert (mask["l4_src"], mask["l4_dst"], ranges) == (0xFFFF, 0xFFFF, (8, 8, 0, 0))
    value, _, ranges = only(masked("icmpv6_type", (b"\x80", b"\xfe")))
    assert (value["ip_version"], value["ip_proto"], ranges[:2]) == (6, 58, (128, 129))


def test_several_words_and_masks_are_alternatives() -> None:
    states = compiled(WireTerm("state", words=("new", "related", "new")))
    assert [match.value.state for match in states] == [STATES["new"], STATES["related"]]
    both = compiled(masked("ip_src", TEN, SIX), masked("ip_dst", TEN, SIX))
    assert [match.value.ip_version for match in both] == [4, 6]


@pytest.mark.parametrize(
    "terms",
    [
        (masked("ip_src", TEN), masked("ip_dst", SIX)),
        (exact("icmp_type", b"\x08"), masked("ip_src", SIX)),
        (masked("arp_spa", TEN), exact("ip_proto", b"\x06")),
        (exact("ip_proto", b"\x11"), masked("tcp_flags", (b"\2", b"\2"))),
        (WireTerm("fragment", words=("later",)), WireTerm("l4_dst", ranges=((1, 2),))),
        (WireTerm("l4_dst", ranges=((1, 2),)), WireTerm("l4_dst", ranges=((3, 4),))),
        (exact("icmp_type", b"\x08"), WireTerm("l4_dst", ranges=((0, 65535),))),
        (exact("arp_op", b"\1\1"),),
        (WireTerm("ip_src", group="empty"),),
    ],
)
def test_what_contradicts_itself_matches_nothing(terms: tuple[WireTerm, ...]) -> None:
    assert compiled(*terms, names=Names(groups={"empty": WireGroup("empty", (), ())})) == []


def test_groups_are_their_members_where_they_are_named() -> None:
    group = WireGroup("g", (TEN, SIX), ())
    ports = WireGroup("p", (), ((80, 80), (8000, 8080)))
    names = Names(groups={"g": group, "p": ports}, ports={"p1": 7})
    found = compiled(
        WireTerm("ip_src", group="g"),
        WireTerm("l4_dst", group="p"),
        WireTerm("in_port", words=("p1",)),
        names=names,
    )
    assert len(found) == 4
    assert {match.value.in_port for match in found} == {7}
    assert [match.l4_dst_hi for match in found] == [80, 8080, 80, 8080]
    compiler = Compiler(names)
    small = rule("fw", "r", match=(WireTerm("ip_src", group="g"),))
    assert len(compiler.matches(small)) == 2 * MATCH_BYTES
    names.groups["g"] = WireGroup("g", (TEN,), ())
    assert len(compiler.matches(small)) == MATCH_BYTES


@pytest.mark.parametrize(
    ("terms", "code", "field"),
    [
        ((WireTerm("ip_src", group="g"),), "REFERENCE_NOT_FOUND", "match.ip_src"),
        ((WireTerm("in_port", words=("p9",)),), "REFERENCE_NOT_FOUND", "match.in_port"),
        ((WireTerm("sideways"),), "INVALID", "match"),
        ((exact("eth_src", b"\1\2"),), "INVALID", "match.eth_src"),
        ((exact("ip_src", b"\1\2"),), "INVALID", "match.ip_src"),
        ((masked("ip_ttl", (b"\1", b"")),), "INVALID", "match.ip_ttl"),
        ((WireTerm("l4_src", ranges=((9, 1),)),), "INVALID", "match.l4_src"),
        ((WireTerm("state", words=("odd",)),), "INVALID", "match.state"),
        ((WireTerm("fragment", group="there"),), "INVALID", "match.fragment"),
        ((WireTerm("eth_src", group="there"),), "INVALID", "match.eth_src"),
    ],
)
def test_what_is_wrong_is_named(terms: tuple[WireTerm, ...], code: str, field: str) -> None:
    with pytest.raises(RuleError) as refused:
        compiled(*terms, names=Names(groups={"there": WireGroup("there", (TEN,), ())}))
    assert (refused.value.code, refused.value.field) == (code, field)


def test_too_many_alternatives_are_refused_before_they_are_made() -> None:
    ten = WireGroup("ten", tuple((bytes([n, 0, 0, 0]), b"\xff\0\0\0") for n in range(1, 11)), ())
    names = Names(groups={"ten": ten})
    terms = (WireTerm("ip_src", group="ten"), WireTerm("ip_dst", group="ten"))
    assert len(compiled(*terms, names=names, most=100)) == 100
    with pytest.raises(RuleError) as refused:
        compiled(*terms, names=names, most=99)
    assert (refused.value.code, refused.value.field) == ("RULE_LIMIT", "match.ip_dst")
    # Also where nearly all of them contradict each other.
    many = WireGroup("many", tuple((bytes([n] * 6), b"\xff" * 6) for n in range(200)), ())
    names.groups["many"] = many
    terms = (WireTerm("eth_src", group="many"),) * 3
    with pytest.raises(RuleError):
        compiled(*terms, names=names, most=1000)


def test_actions_and_their_references() -> None:
    names = Names(ports={"p1": 3}, policers={"slow": 4}, sets={"more": 5})
    compiler = Compiler(names)

    def of(**action: Any) -> Any:
        return compiler.action(rule("fw", "r", action=WireAction(**action), log=True))

    assert of(type="drop").log
    assert (of(type="redirect", port="p1").port, of(type="mirror", port="p1").port) == (3, 3)
    assert of(type="mirror", port="p1", snaplen=64).snaplen == 64
    assert of(type="police", policer="slow").policer == 4
    assert of(type="jump", ruleset="more").set == 5
    edit = of(type="set", vlan=0, dscp=46, eth_dst="02:00:00:00:00:09")
    assert edit.set_fields == lib.RULE_SET_VLAN | lib.RULE_SET_DSCP | lib.RULE_SET_ETH_DST
    assert (edit.vid, edit.dscp, edit.eth_dst) == (0, 46, b"\2\0\0\0\0\x09")
    for action, code in (
        ({"type": "redirect", "port": "p9"}, "REFERENCE_NOT_FOUND"),
        ({"type": "police", "policer": "x"}, "REFERENCE_NOT_FOUND"),
        ({"type": "jump", "ruleset": "x"}, "REFERENCE_NOT_FOUND"),
        ({"type": "explode"}, "INVALID"),
        ({"type": "set", "pcp": 8}, "INVALID"),
        ({"type": "set", "eth_src": "x"}, "INVALID"),
        ({"type": "mirror", "port": "p1", "snaplen": -1}, "INVALID"),
    ):
        with pytest.raises(RuleError) as refused:
            of(**action)
        assert refused.value.code == code


def test_a_rule_names_what_it_uses() -> None:
    found = rule(
        "fw",
        "r",
        match=(WireTerm("in_port", words=("p1", "p2")), WireTerm("ip_src", group="g")),
        action=WireAction("jump", ruleset="more"),
    )
    assert rules.uses(found) == ("group/g", "port/p1", "port/p2", "ruleset/more")


@pytest.mark.parametrize("changes", [{"id": ""}, {"id": "x" * 32}, {"priority": 1 << 31}])
def test_values_of_a_rule_are_bounded(changes: dict[str, Any]) -> None:
    values = {"id": "r"} | changes
    with pytest.raises(RuleError):
        rules.problem(rule("fw", **values))
