"""Rule sets, rules, groups and policers to what the forwarder is told. Pure.

A rule's compiled form looks at the rule alone: ports, groups, policers and sets travel as names,
and the forwarder puts them together. So one rule that changes is one object on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fastpath.protocol import (
    WireAction,
    WireAttach,
    WireGroup,
    WirePolicer,
    WireRule,
    WireRuleSet,
    WireTerm,
)
from vswitch.kinds import Configuration, terms
from vswitch.kinds.action import (
    Action,
    JumpAction,
    MirrorAction,
    PoliceAction,
    RedirectAction,
    SetAction,
)
from vswitch.kinds.match import ArpMatch, EthMatch, IpMatch, L4Match, Match, VlanMatch


def group(configuration: Configuration, name: str) -> WireGroup | None:
    stored = configuration.groups.get(name)
    if stored is None:
        return None
    return WireGroup(name=name, masks=stored.spec.masks(), ranges=stored.spec.ranges())


def policer(configuration: Configuration, name: str) -> WirePolicer | None:
    stored = configuration.policers.get(name)
    if stored is None:
        return None
    spec = stored.spec
    unit = "frames" if spec.frames else "bits"
    return WirePolicer(name=name, unit=unit, rate=spec.rate, burst=spec.effective_burst)


def ruleset(configuration: Configuration, name: str) -> WireRuleSet | None:
    stored = configuration.rulesets.get(name)
    if stored is None:
        return None
    attach = tuple(
        WireAttach(
            bridge=one.bridge or "",
            port=one.port or "",
            egress=one.direction == "egress",
            order=one.order,
        )
        for one in stored.spec.attach
    )
    return WireRuleSet(name=name, default_drop=stored.spec.default == "drop", attach=attach)


def rule(configuration: Configuration, ruleset: str, id: str) -> WireRule | None:
    """None also where the rule is not enabled."""
    stored = configuration.rules_of(ruleset).get(id)
    if stored is None or not stored.spec.enabled:
        return None
    spec = stored.spec
    return WireRule(
        ruleset=ruleset,
        id=id,
        priority=spec.priority,
        match=tuple(_terms(spec.match)),
        action=_action(spec.action),
        log=spec.log,
        expires_at=spec.expires,
    )


def _action(action: Action) -> WireAction:
    if isinstance(action, RedirectAction):
        return WireAction(action.type, port=action.port)
    if isinstance(action, MirrorAction):
        return WireAction(action.type, port=action.port, snaplen=action.snaplen)
    if isinstance(action, PoliceAction):
        return WireAction(action.type, policer=action.policer)
    if isinstance(action, JumpAction):
        return WireAction(action.type, ruleset=action.ruleset)
    if isinstance(action, SetAction):
        return WireAction(
            action.type,
            vlan=action.vlan,
            pcp=action.pcp,
            dscp=action.dscp,
            eth_src=action.eth_src or "",
            eth_dst=action.eth_dst or "",
        )
    return WireAction(action.type)


# --- matches ------------------------------------------------------------------------------------


def _terms(match: Match) -> Iterator[WireTerm]:
    if match.in_port is not None:
        yield WireTerm("in_port", words=(match.in_port,))
    if match.eth is not None:
        yield from _eth(match.eth)
    if match.vlan is not None:
        yield from _vlan(match.vlan)
    if match.arp is not None:
        yield from _arp(match.arp)
    if match.ip is not None:
        yield from _ip(match.ip)
    if match.l4 is not None:
        yield from _l4(match.l4)
    if match.icmp is not None:
        name = "icmp" if match.icmp_version == 4 else "icmpv6"
        yield from _number(f"{name}_type", match.icmp.type)
        yield from _number(f"{name}_code", match.icmp.code)
    if match.state is not None:
        yield WireTerm("state", words=tuple(sorted(match.state)))


def _number(field: str, value: int | None, size: int = 1) -> Iterator[WireTerm]:
    if value is not None:
        yield WireTerm(field, masks=((value.to_bytes(size, "big"), b"\xff" * size),))


def _numbers(field: str, ranges: Iterable[terms.Range], size: int) -> WireTerm:
    masks = tuple(
        (value.to_bytes(size, "big"), mask.to_bytes(size, "big"))
        for first, last in ranges
        for value, mask in terms.prefixes(first, last, 8 * size)
    )
    return WireTerm(field, masks=masks)


def _mac(field: str, text: str | None) -> Iterator[WireTerm]:
    if text is not None:
        name = terms.group_of(text)
        yield (
            WireTerm(field, group=name) if name else WireTerm(field, masks=(terms.mac_mask(text),))
        )


def _address(field: str, text: str | None) -> Iterator[WireTerm]:
    if text is not None:
        name = terms.group_of(text)
        yield WireTerm(field, group=name) if name else WireTerm(field, masks=(terms.ip_mask(text),))


def _eth(eth: EthMatch) -> Iterator[WireTerm]:
    yield from _mac("eth_dst", eth.dst)
    yield from _mac("eth_src", eth.src)
    yield from _number("eth_type", terms.eth_type(eth.type) if eth.type else None, 2)


def _vlan(vlan: VlanMatch) -> Iterator[WireTerm]:
    if vlan.tagged is not None:
        yield from _number("vlan_tagged", int(vlan.tagged))
    if vlan.vid is not None:
        yield _numbers("vlan_vid", terms.vlan_ids(vlan.vid), 2)
    yield from _number("vlan_pcp", vlan.pcp)


def _arp(arp: ArpMatch) -> Iterator[WireTerm]:
    yield from _number("arp_op", terms.arp_op(arp.op) if arp.op else None, 2)
    yield from _address("arp_spa", arp.spa)
    yield from _address("arp_tpa", arp.tpa)
    yield from _mac("arp_sha", arp.sha)
    yield from _mac("arp_tha", arp.tha)


def _ip(ip: IpMatch) -> Iterator[WireTerm]:
    yield from _number("ip_version", ip.version)
    yield from _address("ip_src", ip.src)
    yield from _address("ip_dst", ip.dst)
    if ip.proto is not None:
        yield _numbers("ip_proto", terms.protocols(ip.proto), 1)
    yield from _number("ip_dscp", ip.dscp)
    yield from _number("ip_ttl", ip.ttl)
    if ip.frag is not None:
        yield WireTerm("fragment", words=(ip.frag,))


def _l4(l4: L4Match) -> Iterator[WireTerm]:
    yield from _ports("l4_src", l4.sport)
    yield from _ports("l4_dst", l4.dport)
    if l4.tcp_flags is not None:
        value, mask = terms.tcp_flags(l4.tcp_flags)
        yield WireTerm("tcp_flags", masks=((bytes([value]), bytes([mask])),))


def _ports(field: str, texts: Sequence[str] | None) -> Iterator[WireTerm]:
    if texts is None:
        return
    names = [name for text in texts if (name := terms.group_of(text))]
    if names:
        yield WireTerm(field, group=names[0])
    else:
        yield WireTerm(field, ranges=terms.merge(terms.port_range(text) for text in texts))
