"""Traces as the wire tells them: the engine's steps with names for its numbers, and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastpath import rule_texts
from fastpath.apply import Applier
from fastpath.native_rules import STATES
from fastpath.native_trace import Tracer, TraceReading, TraceStep
from fastpath.native_trace import TraceRule as RuleReading
from fastpath.protocol import Trace, Traced, TraceRule, TraceStage, WireRule, WireTerm
from fastpath.rule_objects import RuleSet

# Which names of WireTerm a field of the key may have; the rule's own terms say which it is.
TERMS: Mapping[str, tuple[str, ...]] = {
    "in_port": ("in_port",),
    "eth_dst": ("eth_dst",),
    "eth_src": ("eth_src",),
    "eth_type": ("eth_type", "ip_version"),
    "tagged": ("vlan_tagged", "vlan_vid", "vlan_pcp"),
    "vid": ("vlan_vid",),
    "pcp": ("vlan_pcp",),
    "ip_version": ("ip_version",),
    "soundness": ("ip_version",),
    "fragment": ("fragment",),
    "ip_proto": ("ip_proto", "arp_op"),
    "ip_src": ("ip_src", "arp_spa", "arp_sha"),
    "ip_dst": ("ip_dst", "arp_tpa", "arp_tha"),
    "ip_dscp": ("ip_dscp",),
    "ip_ttl": ("ip_ttl",),
    "l4": ("l4_dst", "l4_src", "tcp_flags", "icmp_type", "icmp_code", "icmpv6_type", "icmpv6_code"),
    "l4_src": ("l4_src", "icmp_type", "icmpv6_type"),
    "l4_dst": ("l4_dst", "icmp_code", "icmpv6_code"),
    "tcp_flags": ("tcp_flags",),
    "state": ("state",),
}
DROPS = {
    "malformed": "the frame ends inside its own header",
    "port_down": "the receiving port is down",
    "no_bridge": "the receiving port is in no bridge",
    "source_invalid": "its source is a group's address or zero",
    "reserved_mac": "its destination is reserved for bridges, 01:80:c2:00:00:00 to 0f",
    "vlan_ingress": "the receiving port takes no such frame: see its VLAN mode and VLANs",
    "same_port": "its destination is behind the port it came from",
    "isolated": "isolated from the port it came from",
    "flood_off": "flooding is switched off",
    "no_destination": "not in its VLAN",
    "destination_down": "the port is down, in another bridge or not in the frame's VLAN",
    "receive_only": "a monitor only receives",
    "rule": "a rule says so",
    "rule_default": "the default of the set says so",
    "rejected": "a rule says so",
    "policed": "the policer's rate is used up at this moment",
    "connection_limit": "there is no room for another connection",
}
EDITS = {"none": "as it is", "push": "with a tag put in", "pop": "with its first tag taken off"} | {
    "set": "with the VLAN id written into its tag"
}


@dataclass(frozen=True, slots=True)
class Names:
    """What numbers of the engine stand for."""

    ports: Mapping[int, str]
    sets: Mapping[int, RuleSet]

    def port(self, slot: int | None) -> str:
        return "" if slot is None else self.ports.get(slot, "")

    def set(self, slot: int) -> str:
        return self.sets[slot].name if slot in self.sets else ""

    def rule(self, reading: RuleReading) -> WireRule | None:
        """As it is in force."""
        owner = self.sets.get(reading.set)
        live = owner.live.get(reading.id) if owner is not None else None
        return live.rule if live is not None else None


def names_of(applier: Applier) -> Names:
    ports = {slot: name for name, slot in applier.port_slots.items()}
    sets = {owner.slot: owner for owner in applier.rules.sets.values() if owner.slot is not None}
    return Names(ports, sets)


def trace(applier: Applier, request: Trace) -> Traced:
    """KeyError: the port is not in force. NativeError: no frame has that length."""
    if request.in_port not in applier.attached:
        raise KeyError(request.in_port)
    state = STATES.get(request.state, 0)
    reading = Tracer(applier.engine).trace(
        applier.port_slots[request.in_port], request.frame, state
    )
    return told(request.id, reading, names_of(applier))


def told(id: int, reading: TraceReading, names: Names) -> Traced:
    """The trace in words."""
    fields = rule_texts.fields(reading.key, names.ports)
    out_ports = tuple(names.port(step.port) for step in reading.steps if step.result == "sent")
    verdict, reason = _verdict(reading, bool(out_ports))
    return Traced(
        id=id,
        generation=reading.generation,
        verdict=verdict,
        reason=reason,
        out_ports=out_ports,
        fields=fields,
        stages=tuple(_stage(step, fields, names) for step in reading.steps),
    )


def _verdict(reading: TraceReading, forwarded: bool) -> tuple[str, str]:
    """Of a frame with several destinations the best; of several refusals the first."""
    if forwarded:
        return "forward", ""
    ends = [step for step in reading.steps if step.result in ("drop", "reject")]
    return (ends[0].result, ends[0].reason) if ends else ("drop", "")


def _stage(step: TraceStep, fields: Mapping[str, str], names: Names) -> TraceStage:
    return TraceStage(
        stage=step.stage,
        port=names.port(step.port),
        result=step.result,
        detail=_detail(step, fields, names),
        rules=tuple(_rule(rule, fields, names) for rule in step.rules),
        rules_left_out=step.left_out,
    )


def _detail(step: TraceStep, fields: Mapping[str, str], names: Names) -> str:
    """One sentence without its full stop."""
    if step.default_of is not None:
        word = "allow" if step.result == "allow" else "drop"
        return f"no rule of {names.set(step.default_of)} decided, and its default is {word}"
    if step.reason == "too_big":
        return f"{step.bytes} bytes; {step.limit} behind the Ethernet header are the limit"
    if step.reason:
        return f"{step.reason}: {DROPS.get(step.reason, 'dropped')}"
    details = {
        "sound": _packet(fields),
        "bad": "its headers contradict themselves or break off: rules see what came before",
        "assigned": f"VLAN {step.vid}" if step.vid else "the bridge filters no VLANs",
        "allow": "it goes on",
        "redirect": f"to {names.port(step.to)}, whatever the FDB says",
        "found": f"{fields['eth_dst']} is behind {names.port(step.to)}",
        "miss": _missed(fields),
        "flooded": f"to {step.bytes} ports",
        "sent": f"{EDITS[step.edit]}, {step.bytes} bytes",
        "copied": f"a mirror's copy, {step.bytes} bytes",
        "answered": f"what the sender is told, {step.bytes} bytes",
    }
    return details.get(step.result, "")


def _packet(fields: Mapping[str, str]) -> str:
    if "arp_op" in fields:
        return f"ARP operation {fields['arp_op']}, {fields['arp_spa']} to {fields['arp_tpa']}"
    if "ip_src" not in fields:
        return f"{fields['eth_type']}, {fields['eth_src']} to {fields['eth_dst']}"
    ends = [fields["ip_src"], fields["ip_dst"]]
    if "l4_src" in fields:
        ends = [f"{ends[0]} port {fields['l4_src']}", f"{ends[1]} port {fields['l4_dst']}"]
    return f"{fields['ip_proto']}, {ends[0]} to {ends[1]}"


def _missed(fields: Mapping[str, str]) -> str:
    group = int(fields["eth_dst"][:2], 16) & 1
    return f"{fields['eth_dst']} is {'the address of a group' if group else 'not known'}"


def _rule(reading: RuleReading, fields: Mapping[str, str], names: Names) -> TraceRule:
    field, wanted, got = "", "", ""
    if reading.field == "nothing":
        field, wanted, got = "group", "an address or port", "an empty group"
    elif reading.field != "matched":
        field, wanted = _wanted(reading, names)
        got = fields.get(field, rule_texts.NOTHING)
    return TraceRule(
        ruleset=names.set(reading.set),
        rule=reading.id,
        action=reading.action,
        field=field,
        wanted=wanted,
        got=got,
    )


def _wanted(reading: RuleReading, names: Names) -> tuple[str, str]:
    """The field that differs, by its name in the rule, and what the rule wants there."""
    candidates = TERMS[reading.field]
    rule = names.rule(reading)
    terms: dict[str, WireTerm] = {term.field: term for term in rule.match} if rule else {}
    for name in candidates:
        if name in terms:
            return name, rule_texts.term(terms[name])
    return candidates[0], _implied(reading)


def _implied(reading: RuleReading) -> str:
    """What no term says but several together mean: a rule about ports wants TCP or UDP."""
    value, mask = reading.value, reading.mask
    if reading.field in ("ip_version", "soundness"):
        return str(value["ip_version"] or "4 or 6")
    if reading.field == "eth_type":
        return rule_texts.eth_type(int(value["eth_type"]))
    if reading.field == "ip_proto":
        return rule_texts.proto(int(value["ip_proto"]))
    if reading.field == "fragment":
        return "none"
    member = {"vid": "vid", "pcp": "vlan_pcp", "ip_dscp": "ip_tos"}.get(reading.field)
    at = member or reading.field
    return f"{value.get(at, '')}/{mask.get(at, '')}" if at in value else reading.field
