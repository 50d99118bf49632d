"""What `set` and `reject` do to any frame, against scapy: fields, checksums, answers.

Through a whole switch of memory ports, at both stages, with and without VLAN filtering. What is
longer than 2 KB comes in pieces.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from fastpath.native_rules import (
    ACTIONS,
    MATCH_BYTES,
    RULE_NONE,
    SET_DSCP,
    SET_ETH_DST,
    SET_ETH_SRC,
    SET_PCP,
    SET_VLAN,
    PlacedAction,
    PlacedAttach,
    PlacedRule,
    PlacedSet,
    RuleTables,
)
from fastpath.rules import ANY, pack
from tests.support.switch import Attached, Switch
from tests.support.topology import wait_until

VIDS = (1, 2, 3)
STATIONS = tuple(f"02:00:00:00:00:0{n}" for n in range(1, 5))
RST, ACK, SYN, FIN = 4, 16, 2, 1
RESET_BYTES, QUOTED_V4, QUOTED_V6 = 40, 576 - 28, 1280 - 48

MANY = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# --- frames ------------------------------------------------------------------------------------

tcps = st.builds(
    TCP,
    sport=st.integers(1, 65535),
    dport=st.integers(1, 65535),
    seq=st.integers(0, 2**32 - 1),
    ack=st.integers(0, 2**32 - 1),
    flags=st.sampled_from([SYN, ACK, SYN | ACK, FIN | ACK, 0, FIN, RST, RST | ACK]),
    options=st.sampled_from([[], [("MSS", 1460)], [("Timestamp", (1, 2)), ("NOP", None)]]),
)
udps = st.builds(UDP, sport=st.integers(1, 65535), dport=st.integers(1, 65535))
payloads = st.binary(max_size=40) | st.integers(500, 5000).map(
    lambda n: bytes(n % 251 for _ in range(n))
)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    """An IP packet of scapy's, its checksums filled in by it."""
    last = draw(
        tcps | udps | st.sampled_from([ICMP(type=8), ICMP(type=3, code=1), ICMPv6EchoRequest()])
    )
    six = isinstance(last, ICMPv6EchoRequest) or (
        not isinstance(last, ICMP) and draw(st.booleans())
    )
    head: Packet
    if six:
        head = IPv6(src="2001:db8::1", dst="2001:db8::2", tc=draw(st.integers(0, 255)))
        if draw(st.booleans()):
            head /= IPv6ExtHdrHopByHop()
    else:
        options = draw(st.sampled_from([[], [], [IPOption_Router_Alert()]]))
        head = IP(
            src="10.0.0.1",
            dst="10.0.0.2",
            tos=draw(st.integers(0, 255)),
            id=draw(st.integers(0, 65535)),
            options=options,
        )
    packet: Packet = head / last / Raw(draw(payloads))
    return packet


def of_ip(packet: Packet) -> Packet:
    """The IP packet of a frame, whatever tags are before it."""
    found: Packet = packet[IPv6] if IPv6 in packet else packet[IP]
    return found


def framed(packet: Packet, tag: tuple[int, int] | None) -> Packet:
    frame = Ether(src=STATIONS[0], dst=STATIONS[1])
    if tag is not None:
        frame /= Dot1Q(vlan=tag[0], prio=tag[1])
    return Ether(bytes(frame / packet))


def finished(frame: Packet) -> bytes:
    """The frame's bytes with the IP checksum that scapy computes anew."""
    if IP in frame:
        del frame[IP].chksum
    return bytes(frame)


# --- the switch ----------------------------------------------------------------------------------


def act(switch: Switch, at: Attached, action: PlacedAction, *, egress: bool) -> None:
    """One rule for everything at a port."""
    tables = RuleTables(switch.engine)
    matches = pack(ANY)
    assert len(matches) == MATCH_BYTES
    tables.update(0, [], [PlacedRule(0, 1, "only", action, matches)])
    tables.publish(100, [PlacedSet(0, False)], [PlacedAttach(0, RULE_NONE, at.slot, egress, 0)], [])


# --- set ------------------------------------------------------------------------------------------

actions = st.fixed_dictionaries(
    {},
    optional={
        "vid": st.sampled_from([0, *VIDS]),
        "pcp": st.integers(0, 7),
        "dscp": st.integers(0, 63),
        # a frame to its own sender's address would be dropped as same_port
        "eth_src": st.sampled_from(STATIONS[:1] + STATIONS[3:]),
        "eth_dst": st.sampled_from(STATIONS[1:3]),
    },
).filter(bool)
SET_BITS = {
    "vid": SET_VLAN,
    "pcp": SET_PCP,
    "dscp": SET_DSCP,
    "eth_src": SET_ETH_SRC,
    "eth_dst": SET_ETH_DST,
}


def placed(fields: dict[str, Any]) -> PlacedAction:
    values: dict[str, Any] = {
        name: bytes.fromhex(value.replace(":", "")) if name.startswith("eth") else value
        for name, value in fields.items()
    }
    bits = sum(SET_BITS[name] for name in fields)
    return PlacedAction(ACTIONS["set"], set_fields=bits, **values)


def headers_set(frame: Packet, fields: dict[str, Any]) -> Packet:
    """All but the tag."""
    frame = frame.copy()
    frame.src = fields.get("eth_src", frame.src)
    frame.dst = fields.get("eth_dst", frame.dst)
    if "dscp" in fields:
        ip = of_ip(frame)
        name = "tc" if isinstance(ip, IPv6) else "tos"
        setattr(ip, name, fields["dscp"] << 2 | getattr(ip, name) & 3)
    return frame


def tag_of(frame: Packet) -> tuple[int, int] | None:
    return (frame[Dot1Q].vlan, frame[Dot1Q].prio) if Dot1Q in frame else None


def with_tag(frame: Packet, tag: tuple[int, int] | None) -> Packet:
    ether = Ether(src=frame.src, dst=frame.dst)
    if tag is not None:
        ether /= Dot1Q(vlan=tag[0], prio=tag[1])
    return ether / of_ip(frame)


def tag_set(tag: tuple[int, int] | None, fields: dict[str, Any]) -> tuple[int, int] | None:
    """Where no VLANs are filtered: the first tag's, one made where there is none, 0 untags."""
    if fields.get("vid") == 0:
        if tag is not None:
            return None
        return (0, fields["pcp"]) if "pcp" in fields else None
    if tag is None and not fields.keys() & {"vid", "pcp"}:
        return None
    vid, pcp = tag or (0, 0)
    return fields.get("vid", vid), fields.get("pcp", pcp)


@MANY
@given(
    packet=packets(),
    tag=st.none() | st.tuples(st.sampled_from([0, *VIDS]), st.integers(0, 7)),
    fields=actions,
    egress=st.booleans(),
)
def test_set_without_filtering(
    packet: Packet, tag: tuple[int, int] | None, fields: dict[str, Any], egress: bool
) -> None:
    frame = framed(packet, tag)
    with Switch() as switch:
        source = switch.add("p1", "memory")
        target = switch.add("p2", "memory")
        act(switch, target if egress else source, placed(fields), egress=egress)
        switch.send(source, [bytes(frame)])
        (got,) = switch.take(target, 1)
    event(f"{sorted(fields)}")
    want = with_tag(headers_set(frame, fields), tag_set(tag_of(frame), fields))
    assert got == finished(want)


@MANY
@given(
    packet=packets(),
    tag=st.none() | st.tuples(st.sampled_from(VIDS), st.integers(0, 7)),
    fields=actions.filter(lambda fields: fields.get("vid") != 0),
    egress=st.booleans(),
    trunk=st.booleans(),
)
def test_set_with_filtering(
    packet: Packet,
    tag: tuple[int, int] | None,
    fields: dict[str, Any],
    egress: bool,
    trunk: bool,
) -> None:
    """The VLAN that is set is the switch's: where it goes and what tag it leaves with."""
    frame = framed(packet, tag)
    with Switch(vlan_filtering=True) as switch:
        source = switch.add("p1", "memory", vlan_mode="native", pvid=1, tagged=((2, 3),))
        # an access port of each VLAN, or one trunk of all
        targets = {
            vid: switch.add(f"p{vid + 1}", "memory", vlan_mode="access", pvid=vid)
            for vid in (() if trunk else VIDS)
        }
        if trunk:
            trunk_port = switch.add("p9", "memory", vlan_mode="trunk", tagged=((1, 3),))
            targets = dict.fromkeys(VIDS, trunk_port)
        vid = tag[0] if tag else 1
        target = targets[vid if egress else fields.get("vid", vid)]
        act(switch, target if egress else source, placed(fields), egress=egress)
        switch.send(source, [bytes(frame)])
        (got,) = switch.take(target, 1)
    want = headers_set(frame, fields)
    pcp = fields.get("pcp", tag[1] if tag else 0)
    assert got == finished(with_tag(want, (fields.get("vid", vid), pcp) if trunk else None))


# --- reject ---------------------------------------------------------------------------------------


def reset(ip: Packet) -> Packet:
    """RFC 9293, section 3.10.7.1."""
    old = ip[TCP]
    segment = len(bytes(old.payload)) + bool(old.flags & SYN) + bool(old.flags & FIN)
    new = TCP(sport=old.dport, dport=old.sport, window=0, flags=RST)
    if old.flags & ACK:
        new.seq = old.ack
    else:
        new.seq, new.ack, new.flags = 0, (old.seq + segment) % 2**32, RST | ACK
    return new


def answer(frame: Packet) -> bytes | None:
    """What the sender is told; None: nothing."""
    ip = of_ip(frame)
    told = reset(ip) if TCP in ip else None
    if TCP in ip and ip[TCP].flags & RST:
        return None
    if ICMP in ip and ip[ICMP].type == 3:
        return None
    quoted = bytes(ip)
    head: Packet
    if isinstance(ip, IPv6):
        head = IPv6(src=ip.dst, dst=ip.src, hlim=64)
        body = told or ICMPv6DestUnreach(code=1) / Raw(quoted[:QUOTED_V6])
    else:
        tos = 0 if told else 0xC0
        head = IP(src=ip.dst, dst=ip.src, id=0, flags="DF", ttl=64, tos=tos)
        body = told or ICMP(type=3, code=13) / Raw(quoted[:QUOTED_V4])
    back = Ether(src=frame.dst, dst=frame.src)
    if Dot1Q in frame:
        back /= Dot1Q(vlan=frame[Dot1Q].vlan, prio=frame[Dot1Q].prio)
    return bytes(back / head / body)


@MANY
@given(
    packet=packets(),
    tag=st.none() | st.tuples(st.sampled_from(VIDS), st.integers(0, 7)),
    egress=st.booleans(),
    filtering=st.booleans(),
)
def test_reject(packet: Packet, tag: tuple[int, int] | None, egress: bool, filtering: bool) -> None:
    """The answer goes back where the frame came from, with its tag; the frame is gone."""
    frame = framed(packet, tag)
    want = answer(frame)
    with Switch(vlan_filtering=filtering) as switch:
        native: dict[str, Any] = {"vlan_mode": "native", "pvid": 1, "tagged": ((2, 3),)}
        source = switch.add("p1", "memory", **native)
        target = switch.add("p2", "memory", **native)
        act(switch, target if egress else source, PlacedAction(ACTIONS["reject"]), egress=egress)
        switch.send(source, [bytes(frame)])
        got = switch.take(source, 1) if want else []

        def dropped() -> dict[str, int]:
            counters = switch.counters(target if egress else source)
            return dict(counters.tx_drops if egress else counters.rx_drops)

        wait_until(lambda: dropped() == {"rejected": 1}, 10, "the frame is rejected")
        assert switch.engine.memory_take(target.slot) is None
    assert got == ([want] if want else [])
