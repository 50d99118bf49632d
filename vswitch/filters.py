"""Filter expressions (pcap-filter(7)) to classic BPF, by libpcap.

This is the one place that compiles them: a process without capabilities. The program travels as
text, in the form of ``tcpdump -ddd`` with commas for line ends: "2,40 0 0 12,6 0 0 65535". Drivers
give it to the kernel or run it themselves (fastpath/src/cbpf.h), both check it first.

Only numbers: a host or service name would mean another filter on another day, and a lookup that
the API waits for.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import ipaddress
import re

SNAPLEN = 262_144
INSTRUCTIONS_MAX = 512
TEXT_MAX = 1024
_DLT_EN10MB = 1
_ERROR_BYTES = 256

# As libpcap's own scanner cuts: what it would take for a name is one token here.
_TOKEN = re.compile(
    r"(?P<mac>(?:[0-9A-Fa-f]{1,2}([:.-]))(?:[0-9A-Fa-f]{1,2}\2){4}[0-9A-Fa-f]{1,2}(?![\w:.-])"
    r"|(?:[0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}(?![\w:.-])|[0-9A-Fa-f]{12}(?![\w:.-]))"
    r"|(?P<ipv6>[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)"
    r"|(?P<escape>\\[-\w.]*)"
    r"|(?P<word>[A-Za-z_][-\w.]*)"
    r"|(?P<number>[0-9][-\w.]*)"
)
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]+|[0-9]+(?:\.[0-9]+){0,3}")
_RANGE = re.compile(r"[0-9]+-[0-9]+")
_WORDS = """
    src dst host net mask port portrange gateway less greater proto and or not
    broadcast multicast ether link fddi tr wlan ip ip6 arp rarp tcp udp icmp icmp6 sctp
    igmp igrp pim vrrp carp ah esp vlan mpls pppoed pppoes geneve len length llc
    aarp atalk decnet sca iso esis es-is isis is-is l1 l2 iih lsp snp csnp psnp clnp stp ipx
    netbeui lat mopdl moprc
    tcpflags tcp-fin tcp-syn tcp-rst tcp-push tcp-ack tcp-urg tcp-ece tcp-cwr
    icmptype icmpcode icmp-echoreply icmp-unreach icmp-sourcequench icmp-redirect icmp-echo
    icmp-routeradvert icmp-routersolicit icmp-timxceed icmp-paramprob icmp-tstamp
    icmp-tstampreply icmp-ireq icmp-ireqreply icmp-maskreq icmp-maskreply
    icmp6type icmp6code icmp6-destinationunreach icmp6-packettoobig icmp6-timeexceeded
    icmp6-parameterproblem icmp6-echo icmp6-echoreply icmp6-multicastlistenerquery
    icmp6-multicastlistenerreportv1 icmp6-multicastlistenerreportv2 icmp6-multicastlistenerdone
    icmp6-routersolicit icmp6-routeradvert icmp6-neighborsolicit icmp6-neighboradvert
    icmp6-redirect icmp6-routerrenum icmp6-nodeinformationquery icmp6-nodeinformationresponse
    icmp6-ineighbordiscoverysolicit icmp6-ineighbordiscoveryadvert
    icmp6-homeagentdiscoveryrequest icmp6-homeagentdiscoveryreply icmp6-mobileprefixsolicit
    icmp6-mobileprefixadvert icmp6-certpathsolicit icmp6-certpathadvert
    icmp6-multicastrouteradvert icmp6-multicastroutersolicit icmp6-multicastrouterterm
"""
KEYWORDS = frozenset(_WORDS.split())
_QUALIFIERS = frozenset(("host", "net", "mask", "port", "portrange", "gateway", "proto", "llc"))
_LLC_WORDS = "i s u rr rnr rej ui ua disc dm sabme test xid frmr"
_LLC = frozenset(_LLC_WORDS.split())
# They ask the kernel for what is not in the frame, and nobody answers where we run the program.
_KERNEL = frozenset(("inbound", "outbound", "ifindex"))
_LOOP = "protochain"


class FilterError(ValueError):
    """The expression is none; the message is for the user."""


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_uint), ("code", ctypes.POINTER(_Instruction)))


@functools.cache
def _library() -> ctypes.CDLL:
    pcap = ctypes.CDLL(ctypes.util.find_library("pcap") or "libpcap.so.0.8")
    pcap.pcap_open_dead.restype = ctypes.c_void_p
    pcap.pcap_geterr.restype = ctypes.c_char_p
    pcap.pcap_geterr.argtypes = (ctypes.c_void_p,)
    pcap.pcap_close.argtypes = (ctypes.c_void_p,)
    pcap.pcap_compile.argtypes = (
        ctypes.c_void_p,
        ctypes.POINTER(_Program),
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint32,
    )
    pcap.pcap_freecode.argtypes = (ctypes.POINTER(_Program),)
    return pcap


@functools.lru_cache(maxsize=1024)
def compile_filter(expression: str) -> str:
    """The program of an expression over Ethernet frames; "" takes everything.

    FilterError when it does not compile, names something, or becomes too long.
    """
    if not expression.strip():
        return ""
    _refuse_names(expression)
    pcap = _library()
    handle = pcap.pcap_open_dead(_DLT_EN10MB, SNAPLEN)
    if not handle:
        raise MemoryError
    program = _Program()
    try:
        if pcap.pcap_compile(handle, program, expression.encode(), 1, 0xFFFFFFFF) != 0:
            raise FilterError(pcap.pcap_geterr(handle).decode(errors="replace"))
        lines = [
            f"{at.code} {at.jt} {at.jf} {at.k}"
            for at in (program.code[i] for i in range(program.count))
        ]
        pcap.pcap_freecode(program)
    finally:
        pcap.pcap_close(handle)
    if len(lines) > INSTRUCTIONS_MAX:
        raise FilterError(f"{len(lines)} instructions, at most {INSTRUCTIONS_MAX} are allowed")
    return ",".join([str(len(lines)), *lines])


def _refuse_names(expression: str) -> None:
    if len(expression) > TEXT_MAX:
        raise FilterError(f"longer than {TEXT_MAX} characters")
    if not expression.isascii() or not expression.isprintable():
        raise FilterError("only printable ASCII characters")
    qualifier = ""
    for match in _TOKEN.finditer(expression):
        token = match.group()
        if match.lastgroup == "word" and not (qualifier == "llc" and token in _LLC):
            _refuse_word(token)
        elif match.lastgroup == "escape" and not (qualifier == "proto" and token[1:] in KEYWORDS):
            raise FilterError(f"{token!r}: only the name of a protocol, behind proto, begins so")
        elif match.lastgroup == "number" and not _is_number(token, qualifier):
            raise FilterError(f"{token!r} is no number; names are not looked up")
        elif match.lastgroup == "ipv6" and not _is_ipv6(token):
            raise FilterError(f"{token!r} is no address")
        if token in _QUALIFIERS:
            qualifier = token


def _refuse_word(word: str) -> None:
    if word in _KERNEL:
        raise FilterError(f"{word!r} is not to be seen in a frame")
    if word == _LOOP:
        raise FilterError(f"{word!r} makes a program with a loop, and those are not run")
    if word not in KEYWORDS:
        raise FilterError(f"{word!r} is no keyword of pcap-filter(7); names are not looked up")


def _is_number(token: str, qualifier: str) -> bool:
    if qualifier == "portrange" and _RANGE.fullmatch(token):
        return True
    return _NUMBER.fullmatch(token) is not None


def _is_ipv6(token: str) -> bool:
    try:
        ipaddress.IPv6Address(token)
    except ValueError:
        return False
    return True
