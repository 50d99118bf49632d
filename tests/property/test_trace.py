"""What a trace says is what happens: any switch, any frame, traced first and then really sent."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from fastpath.native_rules import (
    RULE_NONE,
    PlacedAttach,
    PlacedPolicer,
    PlacedRule,
    PlacedSet,
    RuleTables,
)
from fastpath.native_trace import Tracer, TraceReading
from fastpath.protocol import WireAction, WireRule, WireTerm
from fastpath.readings import Counters
from fastpath.rules import Compiler, Names
from tests.support.switch import Attached, Switch
from vswitch.frames import FrameFields, build

Drops = Counter[tuple[str, str, str]]  # port, direction, reason

VIDS = (1, 2, 3)
STATIONS = tuple(bytes([2, 0, 0, 0, 0, number]) for number in range(1, 6))
GROUPS = (b"\xff" * 6, b"\x01\x00\x5e\x00\x00\x01", b"\x01\x80\xc2\x00\x00\x0e")
INWARD = {"parse", "vlan_in", "rules_ingress", "fdb", "flood"}


# --- switches and frames -------------------------------------------------------------------------

ports = st.fixed_dictionaries(
    {
        "bridge": st.sampled_from(["br0"] * 6 + ["br1", None]),
        "admin_up": st.sampled_from([True] * 7 + [False]),
        "learning": st.sampled_from([True, True, True, False]),
        "flood": st.sampled_from([True, True, True, False]),
        "isolation_group": st.sampled_from([0, 0, 0, 1, 2]),
        "vlan_mode": st.sampled_from(["access", "trunk", "native", "tunnel"]),
        "pvid": st.sampled_from(VIDS),
        "tagged": st.sampled_from([(), ((1, 2),), ((2, 3),), ((1, 4094),)]),
    }
)
bridges = st.fixed_dictionaries(
    {
        "vlan_filtering": st.booleans(),
        "learning": st.sampled_from([True, True, False]),
        "flood_unknown_unicast": st.sampled_from([True, True, False]),
        "flood_multicast": st.sampled_from([True, True, False]),
        "flood_broadcast": st.sampled_from([True, True, False]),
        "reserved_forward": st.booleans(),
        "mtu": st.sampled_from([0, 0, 60]),
    }
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Of few stations and VLANs, so that they meet; some cut off, some changed in a byte."""
    fields: dict[str, Any] = draw(
        st.sampled_from(
            [
                {},
                {"arp": {}},
                {"ip": {"src": "10.0.0.1", "dst": "10.0.0.2"}, "l4": {"dport": 80}},
                {"ip": {"src": "2001:db8::9", "proto": "udp"}, "payload_bytes": 30},
                {"icmp": {}},
            ]
        )
    )
    frame = build(FrameFields.model_validate(fields))
    dst = draw(st.sampled_from([*STATIONS, *STATIONS, *GROUPS]))
    src = draw(st.sampled_from([*STATIONS] * 4 + [bytes(6), GROUPS[1]]))
    tags = b"".join(
        tpid + (draw(st.integers(0, 7)) << 13 | vid).to_bytes(2, "big")
        for tpid, vid in draw(
            st.lists(
                st.tuples(
                    st.sampled_from([b"\x81\x00", b"\x81\x00", b"\x88\xa8"]),
                    st.sampled_from([0, *VIDS, 4095]),
                ),
                max_size=3,
            )
        )
    )
    frame = dst + src + tags + frame[12:]
    if draw(st.integers(0, 9)) == 0:
        frame = frame[: draw(st.integers(1, len(frame)))]
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(frame) - 1))
        frame = frame[:at] + bytes([draw(st.integers(0, 255))]) + frame[at + 1 :]
    return frame


# --- rules ---------------------------------------------------------------------------------------

SETS = ("fw", "port", "inner", "innermost")  # the last two are jumped to
JUMPS = {"fw": "inner", "port": "inner", "inner": "innermost"}
POLICER = PlacedPolicer(0, frames=True, rate=1, burst=3)


def exactly(field: str, raw: bytes) -> WireTerm:
    return WireTerm(field, masks=((raw, b"\xff" * len(raw)),))


terms = st.one_of(
    st.sampled_from(
        [
            exactly("ip_proto", b"\x06"),
            exactly("ip_proto", b"\x11"),
            exactly("ip_proto", b"\x01"),
            WireTerm("ip_src", masks=((bytes([10, 0, 0, 0]), bytes([255, 0, 0, 0])),)),
            WireTerm("ip_dst", masks=((bytes(16), bytes(16)),)),
            WireTerm("l4_dst", ranges=((80, 80), (443, 500))),
            WireTerm("l4_src", ranges=((49_000, 50_000),)),
            WireTerm("tcp_flags", masks=((b"\x02", b"\x12"),)),
            exactly("icmp_type", b"\x08"),
            exactly("arp_op", b"\x00\x01"),
            exactly("eth_type", b"\x88\xb5"),
            exactly("vlan_tagged", b"\x01"),
            exactly("vlan_tagged", b"\x00"),
            exactly("vlan_pcp", b"\x03"),
            WireTerm("fragment", words=("none",)),
            WireTerm("state", words=("new",)),
            WireTerm("state", words=("invalid", "established")),
            WireTerm("in_port", words=("p0", "p1")),
        ]
    ),
    st.sampled_from(STATIONS).map(lambda mac: exactly("eth_dst", mac)),
    st.sampled_from(STATIONS).map(lambda mac: exactly("eth_src", mac)),
    st.sampled_from(VIDS).map(lambda vid: exactly("vlan_vid", vid.to_bytes(2, "big"))),
)
actions = st.one_of(
    st.sampled_from(["allow", "allow", "drop", "drop", "reject", "log", "jump"]).map(WireAction),
    st.builds(WireAction, st.just("redirect"), st.sampled_from(["p0", "p1"])),
    st.builds(
        WireAction, st.just("mirror"), st.sampled_from(["p0", "p1"]), st.sampled_from([0, 14, 40])
    ),
    st.just(WireAction("police", policer="meter")),
    st.builds(
        WireAction,
        st.just("set"),
        vlan=st.sampled_from([None, 1, 2, 3]),
        pcp=st.sampled_from([None, 0, 5]),
        dscp=st.sampled_from([None, 46]),
        eth_src=st.sampled_from(["", STATIONS[0].hex(":")]),
        eth_dst=st.sampled_from(["", STATIONS[1].hex(":"), "ff:ff:ff:ff:ff:ff"]),
    ).filter(lambda action: action != WireAction("set")),
)


@st.composite
def rules(draw: st.DrawFn) -> WireRule:
    name = draw(st.sampled_from(SETS))
    action = draw(actions)
    if action.type == "jump":
        action = WireAction("jump", ruleset=JUMPS[name]) if name in JUMPS else WireAction("log")
    match = draw(st.lists(terms, max_size=2, unique_by=lambda term: term.field))
    return WireRule(
        ruleset=name,
        id=draw(st.text("abcdef", min_size=1, max_size=4)),
        priority=draw(st.integers(-2, 2)),
        match=tuple(match),
        action=action,
        log=draw(st.booleans()),
        expires_at=0,
    )


attaches = st.lists(
    st.builds(
        PlacedAttach,
        st.sampled_from([0, 0, 1]),
        st.sampled_from([0, RULE_NONE]),
        st.sampled_from([0, 1]),
        st.booleans(),
        st.integers(0, 2),
    ).map(lambda a: a if a.bridge == RULE_NONE else PlacedAttach(a.set, 0, RULE_NONE, a.egress, 0)),
    min_size=1,
    max_size=4,
    unique_by=lambda a: (a.set, a.bridge, a.port, a.egress),
)


def install(
    switch: Switch,
    wanted: list[WireRule],
    defaults: list[bool],
    attached: list[PlacedAttach],
) -> None:
    """All rules in force at once; of those with one id in one set the last."""
    slots = {name: number for number, name in enumerate(SETS)}
    ports = {port.spec.name: slot for slot, port in switch.ports.items()}
    compiler = Compiler(Names(ports=ports, policers={"meter": 0}, sets=slots))
    tables = RuleTables(switch.engine)
    by_key = {rule.key: rule for rule in wanted}
    for name, number in slots.items():
        placed = [
            PlacedRule(at, rule.priority, rule.id, compiler.action(rule), compiler.matches(rule))
            for at, rule in enumerate(by_key.values())
            if rule.ruleset == name
        ]
        tables.update(number, [], placed)
    sets = [PlacedSet(number, drop) for number, drop in enumerate(defaults)]
    tables.publish(2, sets, sorted(attached, key=lambda a: (a.order, a.port)), [POLICER])


# --- what was said, what happened ----------------------------------------------------------------


def said(reading: TraceReading, in_port: str, names: dict[int, str]) -> tuple[Any, Drops]:
    """Lengths of the frames that each port sends, and the drops, as the trace has them."""
    sent: Counter[tuple[str, int]] = Counter()
    drops: Drops = Counter()
    for step in reading.steps:
        port = names.get(step.port if step.port is not None else -1, "")
        if step.result in ("sent", "copied", "answered"):
            sent[port, step.bytes] += 1
        elif step.result in ("drop", "reject"):
            inward = step.stage in INWARD
            drops[in_port if inward else port, "rx" if inward else "tx", step.reason] += 1
    return sent, drops


def drops_of(counters: dict[str, Counters]) -> Drops:
    found: Drops = Counter()
    for name, sums in counters.items():
        for direction, drops in (("rx", sums.rx_drops), ("tx", sums.tx_drops)):
            for reason, frames in drops.items():
                found[name, direction, reason] += frames
    return found


def happened(switch: Switch, attached: Attached, frame: bytes) -> tuple[Any, Drops]:
    """The same from the frame really sent."""

    def counters() -> dict[str, Counters]:
        return {port.spec.name: switch.counters(port) for port in switch.ports.values()}

    before = counters()
    switch.send(attached, [frame])
    wanted = before[attached.spec.name].rx_frames + 1
    while switch.counters(attached).rx_frames < wanted:
        switch.engine.quiesce()
    switch.engine.quiesce()
    sent: Counter[tuple[str, int]] = Counter()
    for port in switch.ports.values():
        while (got := switch.engine.memory_take(port.slot)) is not None:
            sent[port.spec.name, len(got)] += 1
    return sent, drops_of(counters()) - drops_of(before)


def same(switch: Switch, tracer: Tracer, attached: Attached, frame: bytes) -> TraceReading:
    """Traces and sends one frame; the two have to agree."""
    names = {slot: port.spec.name for slot, port in switch.ports.items()}
    fdb = switch.engine.fdb_count(0)
    reading = tracer.trace(attached.slot, frame)
    assert switch.engine.fdb_count(0) == fdb, "a trace has learned"
    assert said(reading, attached.spec.name, names) == happened(switch, attached, frame)
    return reading


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(
    bridges,
    st.lists(ports, min_size=2, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), frames()), min_size=12, max_size=24),
)
def test_a_trace_is_what_happens(
    bridge: dict[str, Any], specs: list[dict[str, Any]], sent: list[tuple[int, bytes]]
) -> None:
    with Switch(**bridge) as switch:
        switch.add_bridge("br1")
        attached = [switch.add(f"p{n}", "memory", **spec) for n, spec in enumerate(specs)]
        tracer = Tracer(switch.engine)
        for number, frame in sent:
            reading = same(switch, tracer, attached[number % len(attached)], frame)
            last = reading.steps[-1]
            event(f"{last.stage} {last.result} {last.reason}")


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(
    bridges,
    st.lists(ports, min_size=2, max_size=4),
    st.lists(rules(), min_size=1, max_size=10),
    st.lists(st.booleans(), min_size=len(SETS), max_size=len(SETS)),
    attaches,
    st.lists(st.tuples(st.integers(0, 4), frames()), min_size=12, max_size=24),
)
def test_a_trace_is_what_happens_under_rules(
    bridge: dict[str, Any],
    specs: list[dict[str, Any]],
    wanted: list[WireRule],
    defaults: list[bool],
    attached: list[PlacedAttach],
    sent: list[tuple[int, bytes]],
) -> None:
    with Switch(**bridge) as switch:
        switch.add_bridge("br1")
        members = [switch.add(f"p{n}", "memory", **spec) for n, spec in enumerate(specs)]
        install(switch, wanted, defaults, attached)
        tracer = Tracer(switch.engine)
        for number, frame in sent:
            reading = same(switch, tracer, members[number % len(members)], frame)
            for step in reading.steps:
                if step.stage.startswith("rules_"):
                    event(f"{step.stage} {step.result} {step.reason}")
