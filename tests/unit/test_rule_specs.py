"""Matches, actions, groups: what is taken, how it is spelled, and where the fault is said to be."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from vswitch.kinds import GROUP, POLICER, RULE, RULESET, terms
from vswitch.kinds.group import GroupSpec
from vswitch.kinds.match import Match
from vswitch.kinds.policer import PolicerSpec
from vswitch.kinds.rule import RuleSpec
from vswitch.services.changes import invalid


def fault(model: Any, body: Any) -> tuple[str, str]:
    """Pointer and sentence of the first fault."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    first = invalid(caught.value).errors[0]
    return first.pointer, first.message


@pytest.mark.parametrize(
    ("match", "pointer"),
    [
        ({"ip": {"proto": "icmp"}, "l4": {"dport": ["80"]}}, "/l4"),
        ({"ip": {"proto": ["tcp", "gre"]}, "l4": {"dport": ["80"]}}, "/l4"),
        ({"ip": {"proto": "udp"}, "l4": {"tcp_flags": "syn"}}, "/l4/tcp_flags"),
        ({"ip": {"src": "10.0.0.0/8", "dst": "::1"}}, "/ip/dst"),
        ({"ip": {"version": 6, "src": "10.0.0.0/8"}}, "/ip/src"),
        ({"ip": {"version": 6, "proto": "icmp"}}, "/ip/proto"),
        ({"ip": {"src": "10.0.0.1", "proto": "icmpv6"}}, "/ip/proto"),
        ({"ip": {"frag": "later"}, "l4": {"sport": ["1"]}}, "/ip/frag"),
        ({"ip": {"proto": "tcp"}, "icmp": {"type": 8}}, "/icmp"),
        ({"l4": {"sport": ["1"]}, "icmp": {"type": 8}}, "/icmp"),
        ({"arp": {"op": "request"}, "ip": {"version": 4}}, "/arp"),
        ({"arp": {"op": "request"}, "state": ["new"]}, "/arp"),
        ({"eth": {"type": "arp"}, "ip": {"version": 4}}, "/eth/type"),
        ({"eth": {"type": "ipv6"}, "ip": {"src": "10.0.0.1"}}, "/eth/type"),
        ({"eth": {"type": "ipv4"}, "arp": {"op": "reply"}}, "/eth/type"),
        ({"vlan": {"tagged": False, "pcp": 3}}, "/vlan/pcp"),
        ({"state": ["new", "new"]}, "/state"),
        ({"l4": {"dport": ["80", "group:web"]}}, "/l4/dport/1"),
        ({"ip": {}}, "/ip"),
        ({"ip": {"src": "10.0.0.256"}}, "/ip/src"),
        ({"ip": {"src": "10.0.0.0/33"}}, "/ip/src"),
        ({"ip": {"src": "10.0.0.0/ffff::"}}, "/ip/src"),
        ({"ip": {"src": "group:1"}}, "/ip/src"),
        ({"ip": {"proto": "quic"}}, "/ip/proto"),
        ({"ip": {"proto": 256}}, "/ip/proto"),
        ({"ip": {"proto": True}}, "/ip/proto"),
        ({"ip": {"proto": ["9-5"]}}, "/ip/proto"),
        ({"ip": {"proto": []}}, "/ip/proto"),
        ({"ip": {"dscp": 64}}, "/ip/dscp"),
        ({"ip": {"version": 5}}, "/ip/version"),
        ({"ip": {"frag": "second"}}, "/ip/frag"),
        ({"l4": {"dport": ["70000"]}}, "/l4/dport/0"),
        ({"l4": {"dport": ["90-80"]}}, "/l4/dport/0"),
        ({"l4": {"dport": []}}, "/l4/dport"),
        ({"l4": {"tcp_flags": "syn,xyz"}}, "/l4/tcp_flags"),
        ({"l4": {"tcp_flags": "syn,!syn"}}, "/l4/tcp_flags"),
        ({"l4": {"tcp_flags": "0x12/0x02"}}, "/l4/tcp_flags"),
        ({"eth": {"src": "02:00:00:00:00"}}, "/eth/src"),
        ({"eth": {"type": "ipv5"}}, "/eth/type"),
        ({"eth": {"typ": "ipv4"}}, "/eth/typ"),
        ({"arp": {"spa": "::1"}}, "/arp/spa"),
        ({"arp": {"op": "256"}}, "/arp/op"),
        ({"vlan": {"vid": 4095}}, "/vlan/vid"),
        ({"vlan": {"vid": ["20-10"]}}, "/vlan/vid"),
        ({"vlan": {"vid": [10]}}, "/vlan/vid"),
        ({"icmp": {"type": 256}}, "/icmp/type"),
        ({"in_port": "no port"}, "/in_port"),
        ({"state": ["old"]}, "/state/0"),
        ({"nothing": 1}, "/nothing"),
    ],
)
def test_matches_that_make_no_sense(match: dict[str, Any], pointer: str) -> None:
    place, sentence = fault(Match, match)
    assert place == pointer, sentence
    assert sentence


@pytest.mark.parametrize(
    ("action", "pointer"),
    [
        ({"type": "teleport"}, "/spec/action"),
        ({}, "/spec/action"),
        ({"type": "redirect"}, "/spec/action/port"),
        ({"type": "mirror", "port": "p1", "snaplen": 65536}, "/spec/action/snaplen"),
        ({"type": "police", "policer": "a b"}, "/spec/action/policer"),
        ({"type": "set"}, "/spec/action"),
        ({"type": "set", "vlan": 4095}, "/spec/action/vlan"),
        ({"type": "set", "eth_src": "01:00:00:00:00:01"}, "/spec/action/eth_src"),
        ({"type": "drop", "port": "p1"}, "/spec/action/port"),
    ],
)
def test_actions_that_make_no_sense(action: dict[str, Any], pointer: str) -> None:
    assert fault(RULE.write, {"spec": {"action": action}})[0] == pointer


@pytest.mark.parametrize(
    ("kind", "spec", "pointer"),
    [
        (GROUP, {"type": "ip", "members": ["10.0.0.0/8", "fish"]}, "/spec/members/1"),
        (GROUP, {"type": "mac", "members": ["10.0.0.0/8"]}, "/spec/members/0"),
        (GROUP, {"type": "port", "members": ["80", "90-80"]}, "/spec/members/1"),
        (GROUP, {"type": "port", "members": ["80-"]}, "/spec/members/0"),
        (GROUP, {"type": "name"}, "/spec/type"),
        (POLICER, {"rate": 0}, "/spec/rate"),
        (POLICER, {"rate": 1, "unit": "bytes_per_s"}, "/spec/unit"),
        (RULESET, {"attach": [{"direction": "ingress"}]}, "/spec/attach/0"),
        (
            RULESET,
            {"attach": [{"bridge": "b", "port": "p", "direction": "ingress"}]},
            "/spec/attach/0",
        ),
        (RULESET, {"attach": [{"bridge": "b", "direction": "egress"}] * 2}, "/spec/attach/1"),
        (RULESET, {"attach": [{"bridge": "b"}]}, "/spec/attach/0/direction"),
        (RULESET, {"default": "maybe"}, "/spec/default"),
        (RULESET, {"rules": [{"id": "a", "action": {"type": "drop"}}] * 2}, "/spec/rules/1/id"),
        (RULESET, {"rules": [{"id": "-", "action": {"type": "drop"}}]}, "/spec/rules/0/id"),
        (RULESET, {"rules": [{"id": "a", "action": {"type": "x"}}]}, "/spec/rules/0/action"),
        (
            RULE,
            {"action": {"type": "drop"}, "expires_at": "tomorrow"},
            "/spec/expires_at",
        ),
        (
            RULE,
            {"action": {"type": "drop"}, "expires_at": "2030-01-01T00:00:00"},
            "/spec/expires_at",
        ),
        (RULE, {"action": {"type": "drop"}, "priority": 2**31}, "/spec/priority"),
    ],
)
def test_specs_that_make_no_sense(kind: Any, spec: dict[str, Any], pointer: str) -> None:
    assert fault(kind.write, {"spec": spec})[0] == pointer


@pytest.mark.parametrize(
    ("given_", "spelled"),
    [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.0.0.1/255.255.255.255", "10.0.0.1"),
        ("10.0.0.1/255.0.255.255", "10.0.0.1/255.0.255.255"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::1/32", "2001:db8::/32"),
        ("2001:db8::1/ffff::ffff", "2001::1/ffff::ffff"),
        ("group:servers", "group:servers"),
    ],
)
def test_one_spelling_of_addresses(given_: str, spelled: str) -> None:
    assert TypeAdapter(terms.IpTerm).validate_python(given_) == spelled
    assert TypeAdapter(terms.IpTerm).validate_python(spelled) == spelled


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_prefixes_hold_a_range_and_nothing_else(one: int, other: int) -> None:
    first, last = sorted((one, other))
    found = list(terms.prefixes(first, last, 16))
    assert len(found) <= 30
    covered = 0
    for value, mask in found:
        size = 0x10000 - mask
        assert value & mask == value
        assert first <= value <= value + size - 1 <= last
        covered += size
    assert covered == last - first + 1


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4))
def test_masks_are_read_as_they_are_spelled(value: bytes, mask: bytes) -> None:
    text = f"{'.'.join(map(str, value))}/{'.'.join(map(str, mask))}"
    parsed = terms.ip_mask(text)
    assert parsed == (bytes(v & m for v, m in zip(value, mask, strict=True)), mask)
    assert terms.ip_mask(terms.ip_text(parsed)) == parsed


octets = st.one_of(st.integers(0, 300).map(str), st.sampled_from(("", "00", "01", "0x1", "1a")))


@given(st.lists(octets, min_size=3, max_size=5).map(".".join))
def test_an_ipv4_address_is_what_the_standard_library_says(text: str) -> None:
    try:
        expected = ip_address(text)
    except ValueError:
        with pytest.raises(ValueError, match="no IP address"):
            terms.ip_mask(text)
    else:
        value, mask = terms.ip_mask(text)
        assert (value, mask) == (expected.packed, b"\xff" * 4)
        assert terms.ip_text((value, mask)) == str(expected)


def test_flags() -> None:
    assert terms.tcp_flags("syn,!ack") == (0x02, 0x12)
    assert terms.tcp_flags("0x02/0x17") == (0x02, 0x17)


def test_groups_keep_one_spelling_of_each_member() -> None:
    spec = GroupSpec(type="ip", members=("10.0.0.1/8", "10.0.0.0/8", "::1"))
    assert spec.members == ("10.0.0.0/8", "::1")
    ports = GroupSpec(type="port", members=("80", "81-90", "443"))
    assert ports.ranges() == ((80, 90), (443, 443))


def test_a_burst_that_nobody_gave() -> None:
    assert PolicerSpec(rate=10**9).effective_burst == 12_500_000
    assert PolicerSpec(rate=1000).effective_burst == 65_536
    assert PolicerSpec(rate=1000, unit="frames_per_s").effective_burst == 100
    assert PolicerSpec(rate=1000, unit="frames_per_s", burst=1).effective_burst == 1


def test_times_have_one_zone() -> None:
    spec = RuleSpec.model_validate(
        {"action": {"type": "drop"}, "expires_at": "2030-01-01T02:00:00+02:00"}
    )
    assert spec.expires_at == "2030-01-01T00:00:00Z"
    assert spec.expires == 1_893_456_000
