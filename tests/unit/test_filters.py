"""Filter expressions: which compile, what they mean, and that no name is ever looked up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.support.cbpf import run
from vswitch.filters import INSTRUCTIONS_MAX, KEYWORDS, TEXT_MAX, FilterError, compile_filter

A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
ETHER = Ether(src=A, dst=B)
V4 = IP(src="192.0.2.1", dst="192.0.2.2")
V6 = IPv6(src="2001:db8::1", dst="fe80::2")
PACKETS: dict[str, Packet] = {
    "syn": ETHER / V4 / TCP(sport=1025, dport=80, flags="S"),
    "ack": ETHER / V4 / TCP(sport=80, dport=1025, flags="A") / Raw(b"GET /" + bytes(500)),
    "dns": ETHER / V4 / UDP(sport=5353, dport=53) / Raw(b"q"),
    "echo": ETHER / V4 / ICMP(type=8),
    "tcp6": ETHER / V6 / TCP(sport=443, dport=2000, flags="SA"),
    "solicit": Ether(src=A, dst="33:33:00:00:00:01") / V6 / ICMPv6ND_NS(),
    "tagged": ETHER / Dot1Q(vlan=100) / V4 / UDP(dport=53),
    "arp": Ether(src=A, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, psrc="192.0.2.1", pdst="192.0.2.9"),
    "lldp": Ether(src=B, dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(bytes(50)),
}
V4_ALL = {"syn", "ack", "dns", "echo"}
MEANS: dict[str, set[str]] = {
    "": set(PACKETS),
    "ip": V4_ALL,
    "tcp": {"syn", "ack", "tcp6"},
    "tcp[13] & 2 != 0": {"syn"},
    "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-ack": {"ack"},
    "ip[2:2] > 100": {"ack"},
    "ip[8] * 2 + 1 = 129": V4_ALL,
    "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420": {"ack"},
    "tcp port 80": {"syn", "ack"},
    "src port 80": {"ack"},
    "tcp portrange 1024-1030": {"syn", "ack"},
    "udp and (port 53 or port 67)": {"dns"},
    "host 192.0.2.1": {*V4_ALL, "arp"},
    "host 192.0.2.9": {"arp"},
    "net 192.0.2.0/24 and not arp": V4_ALL,
    "net 192.0.2.0 mask 255.255.255.0 && !tcp && ! arp": {"dns", "echo"},
    "src net 198.51": set(),
    "host 2001:db8::1": {"tcp6", "solicit"},
    "src net 2001:db8::/32 and tcp": {"tcp6"},
    "ip6[6] == 58": {"solicit"},
    "icmp6[icmp6type] == icmp6-neighborsolicit": {"solicit"},
    "icmp[icmptype] == icmp-echo": {"echo"},
    f"ether src {A}": set(PACKETS) - {"lldp"},
    "ether src 02-00-00-00-00-0B": {"lldp"},
    "ether src 02.00.00.00.00.0b": {"lldp"},
    "ether src 0200.0000.000b": {"lldp"},
    "ether src 02000000000b": {"lldp"},
    "ether src 2:0:0:0:0:b": {"lldp"},
    "ether proto 0x88cc": {"lldp"},
    r"ether proto \arp": {"arp"},
    r"ip proto \icmp": {"echo"},
    "ether broadcast": {"arp"},
    "ether multicast": {"arp", "solicit", "lldp"},
    "ether[0] & 1 = 0 and ip[16] >= 224": set(),
    "vlan": {"tagged"},
    "vlan 100 and udp port 53": {"tagged"},
    "vlan 101": set(),
    "len - 14 > 500": {"ack"},
    "less 42": {"echo", "arp"},
    "arp[6:2] = 1": {"arp"},
    "llc": set(),
}


@pytest.mark.parametrize("expression", MEANS)
def test_what_expressions_mean(expression: str) -> None:
    program = compile_filter(expression)
    taken = {name for name, packet in PACKETS.items() if run(program, bytes(packet))}
    assert taken == MEANS[expression]


@pytest.mark.parametrize(
    "expression",
    r"""
    pppoes 0x1234; geneve 10 and tcp; mpls 1000; stp; lat
    llc i; llc rr; iso; isis; csnp; es-is; ipx; netbeui; decnet src 10.1; atalk; aarp; moprc
    carp; vrrp; ah; esp; sctp port 5060; igmp; pim; ip multicast; ip6 multicast; rarp
    src host ::ffff:192.0.2.1; net ::/0; host ::; host fe80::1; net 10; net 10.1; port 0x50
    greater 1000; length <= 1514; link[0] = 2; fddi proto 1; udp[8:2] ^ 0xff == 3; (tcp); 1 = 1
    tcp&&udp||icmp; portrange 1-2 or portrange 5-6; vlan 100 && vlan 200; ip proto 47; icmp6
    """.replace("\n", ";").split(";"),
)
def test_expressions_that_compile(expression: str) -> None:
    compile_filter(expression.strip())


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("host example.net", "'example.net' is no keyword"),
        ("host localhost", "names are not looked up"),
        ("port http", "'http' is no keyword"),
        ("host 3com", "'3com' is no number"),
        ("host 1-2", "'1-2' is no number"),
        ("host 1.2.3.4.5", "'1.2.3.4.5' is no number"),
        ("host ab:cd:ef", "'ab:cd:ef' is no address"),
        ("host 2001:db8::1::2", "is no address"),
        (r"host \tcp", "behind proto"),
        (r"ip proto \nosuch", "behind proto"),
        ("host test", "'test' is no keyword"),
        ("llc and host test", "'test' is no keyword"),
        ("host ipv6", "'ipv6' is no keyword"),
        ("inbound", "not to be seen in a frame"),
        ("ifindex 1", "not to be seen in a frame"),
        ("ip6 protochain 58", "a loop"),
        ("tcp and", "syntax error"),
        ("tcp)", "syntax error"),
        ("192.0.2.1", "syntax error"),
        ("tcp port 65536", "65536"),
        ("net 192.0.2.1/33", "mask length"),
        ("vlan 4096", "4096"),
        ("1 = 0", "rejects all packets"),
        ("tcp[99999999999]", ""),
        ("tcp\n", "printable"),
        ("tcp\0udp", "printable"),
        ("hóst", "ASCII"),
        ("tcp or " * 200 + "tcp", f"longer than {TEXT_MAX}"),
    ],
)
def test_expressions_that_are_refused(expression: str, words: str) -> None:
    with pytest.raises(FilterError) as caught:
        compile_filter(expression)
    assert words in str(caught.value)


def refusal(expression: str) -> str:
    """What the expression is refused with; "" when it compiles."""
    try:
        compile_filter(expression)
    except FilterError as error:
        return str(error) or "refused without a word"
    return ""


@pytest.mark.parametrize("qualifier", ["host", "net", "port", "portrange", "src", "ether host"])
def test_no_keyword_is_looked_up_as_a_name(qualifier: str) -> None:
    """libpcap says "unknown" of what its resolver did not find; keywords never get there."""
    said = {keyword: refusal(f"{qualifier} {keyword}") for keyword in KEYWORDS}
    assert {keyword for keyword, words in said.items() if "unknown" in words} == set()


def test_a_program_has_a_bounded_length() -> None:
    program = compile_filter(" or ".join(f"net {n}" for n in range(1, 30)))
    assert 60 < int(program.split(",")[0]) <= INSTRUCTIONS_MAX
    long = " or ".join(f"portrange {n}1-{n}5" for n in range(45))
    assert len(long) <= TEXT_MAX
    with pytest.raises(FilterError, match="instructions, at most"):
        compile_filter(long)


@given(st.text(max_size=60) | st.lists(st.sampled_from(sorted(KEYWORDS))).map(" ".join))
def test_anything_is_compiled_or_refused(expression: str) -> None:
    words = refusal(expression)
    assert words != "refused without a word"
    if not words:
        run(compile_filter(expression), bytes(64))
