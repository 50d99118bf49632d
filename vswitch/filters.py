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
import re

SNAPLEN = 262_144
INSTRUCTIONS_MAX = 512
TEXT_MAX = 1024
_DLT_EN10MB = 1
_ERROR_BYTES = 256

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LITERAL = re.compile(  # MAC and IPv6 addresses, hexadecimal numbers
    r"(?<![\w:.])(?:0[xX][0-9A-Fa-f]+|(?:[0-9A-Fa-f]{0,4}[:]){2,7}[0-9A-Fa-f.]{0,15}|"
    r"(?:[0-9A-Fa-f]{1,2}[-.]){5}[0-9A-Fa-f]{1,2})(?![\w:])"
)
_WORDS = """
    src dst host net mask port portrange gateway less greater proto protochain and or not
    broadcast multicast ether link ip ip6 arp rarp tcp udp icmp icmp6 sctp igmp igrp pim vrrp carp
    ah esp inbound outbound vlan mpls pppoed pppoes geneve len ra ta addr1 addr2 addr3 addr4
    aarp atalk decnet iso esis es-is isis is-is clnp stp ipx netbeui lat mopdl moprc
    tcpflags tcp-fin tcp-syn tcp-rst tcp-push tcp-ack tcp-urg tcp-ece tcp-cwr
    icmptype icmpcode icmp-echoreply icmp-unreach icmp-sourcequench icmp-redirect icmp-echo
    icmp-routeradvert icmp-routersolicit icmp-timxceed icmp-paramprob icmp-tstamp
    icmp-tstampreply icmp-ireq icmp-ireqreply icmp-maskreq icmp-maskreply
    icmp6type icmp6code icmp6-destinationrunreach icmp6-packettoobig icmp6-timeexceeded
    icmp6-parameterproblem icmp6-echo icmp6-echoreply icmp6-routersolicit icmp6-routeradvert
    icmp6-neighborsolicit icmp6-neighboradvert icmp6-redirect
"""
_KEYWORDS = frozenset(_WORDS.split())


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
    for word in _WORD.findall(_LITERAL.sub(" ", expression)):
        if word not in _KEYWORDS:
            raise FilterError(f"{word!r} is no keyword of pcap-filter(7); names are not looked up")
