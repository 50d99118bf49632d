"""Traces and analyses over the control socket of a real engine: names, texts, why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastpath import protocol as wire
from fastpath.regions import make_region
from fastpath.rule_texts import term
from tests.support.fastpath import Client, RefusedError, bridge, port
from tests.support.forwarder import Forwarder
from vswitch.frames import FrameFields, build


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    fd = make_region("test", 1 << 22)
    forwarder = Forwarder(tmp_path / "f.sock", fd)
    try:
        with Client(forwarder.path) as connected:
            ports = [port(f"p{n}", "memory", "br0") for n in range(3)]
            connected.apply([bridge("br0"), *ports])
            yield connected
    finally:
        forwarder.close()


def frame(**fields: Any) -> bytes:
    return build(FrameFields.model_validate(fields))


def exactly(field: str, *values: bytes) -> wire.WireTerm:
    return wire.WireTerm(field, masks=tuple((raw, b"\xff" * len(raw)) for raw in values))


NET_10 = wire.WireTerm("ip_src", masks=((bytes([10, 0, 0, 0]), bytes([255, 0, 0, 0])),))
WEB = wire.WireTerm("l4_dst", ranges=((80, 80), (8000, 8080)))
TCP = exactly("ip_proto", b"\x06")
SYN = wire.WireTerm("tcp_flags", masks=((b"\x02", b"\x12"),))


def rule(id: str, priority: int, action: str, *match: wire.WireTerm, **more: Any) -> wire.WireRule:
    return wire.WireRule("fw", id, priority, match, wire.WireAction(action, **more), False, 0)


def ruleset(*, drop: bool = False, egress: bool = False) -> wire.WireRuleSet:
    return wire.WireRuleSet("fw", drop, (wire.WireAttach("br0", "", egress, 0),))


def trace(client: Client, data: bytes, in_port: str = "p0", state: str = "") -> wire.Traced:
    return client.call(wire.Trace(client.next_id(), in_port, data, state), wire.Traced)


def stage(traced: wire.Traced, name: str) -> wire.TraceStage:
    return next(found for found in traced.stages if found.stage == name)


def analyse(client: Client) -> list[wire.Finding]:
    answer = client.call(wire.Analyse(client.next_id(), "fw", 0), wire.Analysed)
    assert (answer.cursor, answer.skipped) == (0, 0)
    return list(answer.findings)


# --- traces -------------------------------------------------------------------------------------


def test_the_way_of_a_frame(client: Client) -> None:
    traced = trace(client, frame(ip={"src": "10.0.0.1", "dst": "10.0.0.2"}, l4={"dport": 443}))
    assert (traced.verdict, traced.reason, traced.out_ports) == ("forward", "", ("p1", "p2"))
    assert [(s.stage, s.port, s.result) for s in traced.stages] == [
        ("parse", "p0", "sound"),
        ("vlan_in", "p0", "assigned"),
        ("fdb", "", "miss"),
        ("flood", "", "flooded"),
        ("tx", "p1", "sent"),
        ("tx", "p2", "sent"),
    ]
    assert traced.stages[0].detail == "tcp, 10.0.0.1 port 49152 to 10.0.0.2 port 443"
    assert traced.fields["ip_dst"] == "10.0.0.2"
    assert traced.fields["tcp_flags"] == "syn"


def test_why_rules_before_did_not_match(client: Client) -> None:
    """The first field that differs of the alternative that comes closest."""
    client.apply(
        [
            ruleset(),
            rule("a-net", 1, "drop", NET_10),
            rule("b-udp", 2, "drop", exactly("ip_proto", b"\x11")),
            rule("c-web", 3, "drop", WEB),
            rule("d-syn", 4, "drop", wire.WireTerm("tcp_flags", masks=((b"\x12", b"\x12"),))),
            rule("e-arp", 5, "drop", exactly("arp_op", b"\x00\x01")),
            rule("f-v6", 6, "drop", exactly("ip_version", b"\x06")),
            rule("g-port", 7, "drop", wire.WireTerm("in_port", words=("p1", "p2"))),
            rule("h-icmp", 8, "drop", exactly("icmp_type", b"\x08")),
            rule("i-old", 9, "drop", wire.WireTerm("state", words=("established",))),
            rule("j-tag", 10, "drop", exactly("vlan_pcp", b"\x03")),
            rule("k-frag", 11, "drop", wire.WireTerm("fragment", words=("first",))),
            rule("l-none", 12, "drop", wire.WireTerm("ip_dst", group="empty")),
            rule("m-far", 13, "reject", TCP, SYN),
            rule("n-rest", 14, "drop"),
            wire.WireGroup("empty", (), ()),
        ]
    )
    data = frame(ip={"src": "192.0.2.7", "dst": "10.0.0.2"}, l4={"dport": 443})
    traced = trace(client, data)
    found = stage(traced, "rules_ingress")
    assert (traced.verdict, traced.reason, found.result) == ("reject", "rejected", "reject")
    assert {r.rule: (r.field, r.wanted, r.got) for r in found.rules} == {
        "a-net": ("ip_src", "10.0.0.0/8", "192.0.2.7"),
        "b-udp": ("ip_proto", "udp", "tcp"),
        "c-web": ("l4_dst", "80 or 8000-8080", "443"),
        "d-syn": ("tcp_flags", "syn,ack of syn,ack", "syn"),
        "e-arp": ("eth_type", "arp (0x0806)", "ipv4 (0x0800)"),
        "f-v6": ("ip_version", "6", "4"),
        "g-port": ("in_port", "p1 or p2", "p0"),
        "h-icmp": ("ip_proto", "icmp", "tcp"),
        "i-old": ("state", "established", "new"),
        "j-tag": ("vlan_pcp", "3", "none"),
        "k-frag": ("fragment", "first", "none"),
        "l-none": ("group", "an address or port", "an empty group"),
        "m-far": ("", "", ""),
    }
    assert {r.ruleset for r in found.rules} == {"fw"}
    assert [s.port for s in traced.stages if s.result == "answered"] == ["p0"]


def test_rules_beyond_the_listed_ones_are_counted(client: Client) -> None:
    many = [rule(f"r{n:03}", n, "drop", exactly("ip_ttl", bytes([n]))) for n in range(200)]
    client.apply([ruleset(drop=True), *many])
    traced = trace(client, frame(ip={"ttl": 255}))
    found = stage(traced, "rules_ingress")
    assert (len(found.rules), found.rules_left_out) == (100, 100)
    assert (traced.reason, found.result) == ("rule_default", "drop")
    assert found.detail == "no rule of fw decided, and its default is drop"


def test_egress_has_a_stage_for_each_destination(client: Client) -> None:
    client.apply(
        [
            wire.WireRuleSet("fw", False, (wire.WireAttach("", "p2", True, 0),)),
            rule("a", 1, "mirror", port="p1", snaplen=20),
            rule("b", 2, "drop"),
        ]
    )
    traced = trace(client, frame())
    assert (traced.verdict, traced.out_ports) == ("forward", ("p1",))
    ends = [(s.stage, s.port, s.result) for s in traced.stages[4:]]
    assert ends == [
        ("tx", "p1", "sent"),
        ("rules_egress", "p2", "drop"),
        ("tx", "p1", "copied"),
    ]


def test_an_assumed_state(client: Client) -> None:
    established = wire.WireTerm("state", words=("established",))
    client.apply([ruleset(drop=True), rule("a", 1, "allow", established)])
    data = frame(l4={"tcp_flags": "ack"})
    assert trace(client, data).reason == "rule_default"
    assert trace(client, data, state="established").verdict == "forward"


def test_what_cannot_be_traced(client: Client) -> None:
    for in_port, data in (("p9", frame()), ("p0", b""), ("p0", bytes(65_555))):
        with pytest.raises(RefusedError):
            trace(client, data, in_port)
    assert trace(client, b"\x02").reason == "malformed"
    assert trace(client, frame()[:-46] + bytes(65_540)).verdict == "forward"


def test_texts_of_terms() -> None:
    assert term(exactly("eth_dst", bytes.fromhex("020000000001"))) == "02:00:00:00:00:01"
    odd = wire.WireTerm("ip_src", masks=((bytes([10, 0, 0, 1]), bytes([255, 0, 0, 255])),))
    assert term(odd) == "10.0.0.1/255.0.0.255"
    v6 = wire.WireTerm("ip_dst", masks=((b"\x20\x01" + bytes(14), b"\xff" * 2 + bytes(14)),))
    assert term(v6) == "2001::/16"
    assert term(exactly("vlan_vid", b"\x00\x0a", b"\x00\x14")) == "10 or 20"
    assert term(wire.WireTerm("l4_dst", ranges=tuple((n, n) for n in range(0, 20, 2)))) == (
        "0, 2, 4, 6, 8, 10, 12, 14 or 2 more"
    )


# --- analyses -----------------------------------------------------------------------------------


def test_findings_and_their_witnesses(client: Client) -> None:
    client.apply(
        [
            ruleset(),
            rule("a-net", 1, "drop", NET_10),
            rule("b-web", 2, "allow", NET_10, WEB),
            rule("c-web", 3, "drop", NET_10, TCP),
            rule("d-low", 4, "allow", wire.WireTerm("l4_dst", ranges=((20, 100),))),
            rule("e-mid", 4, "drop", wire.WireTerm("l4_dst", ranges=((90, 300),))),
            rule("f-set", 5, "set", exactly("eth_type", b"\x88\xb5"), dscp=1),
            rule("g-all", 6, "allow", exactly("eth_type", b"\x88\xb5")),
        ]
    )
    trace_findings = [item for item in analyse(client) if item.kind != "never_hit"]
    assert {(item.kind, item.rule, item.by) for item in trace_findings} == {
        ("shadowed", "b-web", "a-net"),
        ("redundant", "c-web", "a-net"),
        ("contradictory", "e-mid", "d-low"),
    }
    for item in trace_findings:
        traced = trace(client, item.witness, item.in_port, item.state)
        met = [r.rule for s in traced.stages for r in s.rules if not r.field]
        assert (met, item.in_port) == ([item.by], "p0")


def test_never_hit_is_what_no_frame_has_met(client: Client) -> None:
    client.apply([ruleset(), rule("a", 1, "drop", TCP), rule("b", 2, "drop")])
    idle = [item for item in analyse(client) if item.kind == "never_hit"]
    assert [(item.rule, item.by, item.witness) for item in idle] == [("a", "", b""), ("b", "", b"")]


def test_a_set_that_is_attached_nowhere_is_asked_alone(client: Client) -> None:
    client.apply([wire.WireRuleSet("fw", False, ()), rule("a", 1, "drop"), rule("b", 2, "allow")])
    found = next(item for item in analyse(client) if item.kind == "shadowed")
    assert (found.rule, found.by, found.in_port) == ("b", "a", "")


def test_a_set_of_egress_is_reached_from_a_neighbour(client: Client) -> None:
    client.apply([ruleset(egress=True), rule("a", 1, "drop", TCP), rule("b", 2, "allow", TCP, WEB)])
    found = next(item for item in analyse(client) if item.kind == "shadowed")
    assert (found.rule, found.by, found.in_port) == ("b", "a", "p0")


def test_what_cannot_be_analysed(client: Client) -> None:
    with pytest.raises(RefusedError):
        client.call(wire.Analyse(client.next_id(), "none", 0), wire.Analysed)
    client.apply([ruleset(), rule("a", 1, "drop")])
    beyond = client.call(wire.Analyse(client.next_id(), "fw", 99), wire.Analysed)
    assert (beyond.findings, beyond.cursor) == ((), 0)
