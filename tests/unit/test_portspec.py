"""netmap's portspecs: what is taken and what is refused, by both readers of the grammar.

Verdicts are netmap_user.h's and libnetmap's; where portspec.h says that it refuses more, the table
says so too.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from fastpath import native
from vswitch.portspec import Flag, Mode, PortspecError, parse

M = Mode
F = Flag


def both(text: str) -> dict[str, Any]:
    """The control plane's reading, which is the keeper's too."""
    read = asdict(parse(text))
    assert native.portspec(text) == read
    return read


def refused(text: str) -> str:
    with pytest.raises(PortspecError) as ours:
        parse(text)
    with pytest.raises(native.NativeError) as theirs:
        native.portspec(text)
    assert theirs.value.message == str(ours.value)
    assert theirs.value.name == "EINVAL"
    return str(ours.value)


RINGS = [
    # text, name of the request, interface, mode, ring, flags, region
    ("netmap:eth0", "eth0", "eth0", M.ALL_NIC, 0, F(0), 0),
    ("netmap:eth0^", "eth0", "eth0", M.SW, 0, F(0), 0),
    ("netmap:eth0^0", "eth0", "eth0", M.ONE_SW, 0, F(0), 0),
    ("netmap:eth0^3", "eth0", "eth0", M.ONE_SW, 3, F(0), 0),
    ("netmap:eth0*", "eth0", "eth0", M.NIC_SW, 0, F(0), 0),
    ("netmap:eth0-0", "eth0", "eth0", M.ONE_NIC, 0, F(0), 0),
    ("netmap:eth0-4094", "eth0", "eth0", M.ONE_NIC, 4094, F(0), 0),
    ("netmap:eth0-007", "eth0", "eth0", M.ONE_NIC, 7, F(0), 0),
    ("netmap:eth0.100-2/x", "eth0.100", "eth0.100", M.ONE_NIC, 2, F.EXCLUSIVE, 0),
    ("netmap:eth0/x", "eth0", "eth0", M.ALL_NIC, 0, F.EXCLUSIVE, 0),
    ("netmap:eth0/t", "eth0", "eth0", M.ALL_NIC, 0, F.MONITOR_TX, 0),
    ("netmap:eth0/r", "eth0", "eth0", M.ALL_NIC, 0, F.MONITOR_RX, 0),
    ("netmap:eth0/zrt", "eth0", "eth0", M.ALL_NIC, 0, F(0x700), 0),
    ("netmap:eth0/R", "eth0", "eth0", M.ALL_NIC, 0, F.RX_RINGS_ONLY, 0),
    ("netmap:eth0^/T", "eth0", "eth0", M.SW, 0, F.TX_RINGS_ONLY, 0),
    ("netmap:eth0/xx", "eth0", "eth0", M.ALL_NIC, 0, F.EXCLUSIVE, 0),
    ("netmap:eth0@1", "eth0", "eth0", M.ALL_NIC, 0, F(0), 1),
    ("netmap:eth0-1@65535", "eth0", "eth0", M.ONE_NIC, 1, F(0), 65535),
    ("netmap:eth0/x@2", "eth0", "eth0", M.ALL_NIC, 0, F.EXCLUSIVE, 2),
    ("netmap:eth0/@2", "eth0", "eth0", M.ALL_NIC, 0, F(0), 2),
    ("netmap:eth0@2/x", "eth0", "eth0", M.ALL_NIC, 0, F.EXCLUSIVE, 2),
    ("netmap:x{1", "x{1", "x", M.ALL_NIC, 0, F(0), 0),
    ("netmap:x}a_B9", "x}a_B9", "x", M.ALL_NIC, 0, F(0), 0),
    ("netmap:x{1-0/xT@7", "x{1", "x", M.ONE_NIC, 0, F.EXCLUSIVE | F.TX_RINGS_ONLY, 7),
    ("vale0:p1", "vale0:p1", "", M.ALL_NIC, 0, F(0), 0),
    ("vale:p1", "vale:p1", "", M.ALL_NIC, 0, F(0), 0),
    ("vale0:p1{2", "vale0:p1{2", "", M.ALL_NIC, 0, F(0), 0),
    ("vale0:p1-3/x", "vale0:p1", "", M.ONE_NIC, 3, F.EXCLUSIVE, 0),
    ("netmap:vale0:p1", "vale0:p1", "", M.ALL_NIC, 0, F(0), 0),
    ("netmap:123456789012345", "123456789012345", "123456789012345", M.ALL_NIC, 0, F(0), 0),
]


@pytest.mark.parametrize("row", RINGS, ids=lambda row: row[0])
def test_N1_names_rings_flags_and_regions(row: tuple[Any, ...]) -> None:
    text, name, ifname, mode, ring, flags, region = row
    read = both(text)
    assert read["port"]["name"] == name
    assert read["port"]["ifname"] == ifname
    assert read["port"]["pipe"] == ("{" if "{" in name else "}" if "}" in name else "")
    assert (read["mode"], read["ringid"], read["flags"], read["mem_id"]) == (
        mode,
        ring,
        flags,
        region,
    )


REFUSED = [
    # text, character, a word of the sentence
    ("", 1, "netmap: or vale"),
    ("eth0", 1, "netmap: or vale"),
    ("netmap", 1, "netmap: or vale"),
    ("netmapx:eth0", 1, "netmap: or vale"),
    ("netmap:", 8, "has a name"),
    ("netmap:-1", 8, "has a name"),
    ("netmap:{1", 8, "has a name"),
    ("netmap:1234567890123456", 8, "15 bytes"),
    ("netmap:a:b", 8, "colon"),
    ("netmap:..", 8, "neither"),
    ("netmap:e th", 9, "printable"),
    ("netmap:eth\N{LATIN SMALL LETTER E WITH ACUTE}", 11, "printable"),
    ("netmap:x" + "{" + "y" * 62, 8, "63 bytes"),
    ("netmap:x{", 9, "pipe"),
    ("netmap:x{-1", 9, "pipe"),
    ("netmap:x{a.b", 9, "pipe"),
    ("netmap:x{a}b", 9, "pipe"),
    ("netmap:eth0-", 13, "a ring is a number"),
    ("netmap:eth0-/x", 13, "a ring is a number"),
    ("netmap:eth0--1", 13, "a ring is a number"),
    ("netmap:eth0-4095", 13, "at most 4094"),
    ("netmap:eth0^4095", 13, "at most 4094"),
    ("netmap:eth0-99999999999999999999", 13, "at most 4094"),
    ("netmap:eth0-1x", 14, "only / and @"),
    ("netmap:eth0^*", 13, "only / and @"),
    ("netmap:eth0*1", 13, "only / and @"),
    ("netmap:eth0*-1", 13, "only / and @"),
    ("netmap:eth0/", 13, "flags follow"),
    ("netmap:eth0/q", 13, "one of x z t r R T"),
    ("netmap:eth0/x-1", 14, "one of x z t r R T"),
    ("netmap:eth0@2/x/", 16, "one of x z t r R T"),
    ("netmap:eth0@", 13, "follows the @"),
    ("netmap:eth0@0", 13, "at least 1"),
    ("netmap:eth0@65536", 13, "at most 65535"),
    ("netmap:eth0@1@2", 15, "double setting of the memory region"),
    ("netmap:eth0@1@1", 15, "double setting of the memory region"),
    ("netmap:eth0@1x", 14, "only / and @"),
    ("vale0", 1, "valeSWITCH:PORT"),
    ("vale0-1:p", 1, "valeSWITCH:PORT"),
    ("netmap:vale0", 8, "valeSWITCH:PORT"),
    ("vale.0:p", 1, "VALE switch"),
    ("vale890123456789:p", 1, "VALE switch"),
    ("vale0:", 1, "VALE port"),
    ("vale0:1234567890123456", 1, "VALE port"),
    ("vale0:a.b", 1, "VALE port"),
    ("vale0:a:b", 1, "VALE port"),
    ("netmap:eth0@nothing", 13, "an option is one of"),
    ("netmap:eth0@@1", 13, "an option is one of"),
    ("netmap:eth0@conf:rings=1@5", 26, "an option is one of"),
    ("netmap:eth0@conf:rings=1@", 26, "an option is one of"),
    ("netmap:eth0@conf", 17, "= or :"),
    ("netmap:eth0@conf=2", 17, "takes : and keys"),
    ("netmap:eth0@conf:ring=2", 18, "no such key"),
    ("netmap:eth0@conf:=2", 18, "no such key"),
    ("netmap:eth0@conf:rings", 23, "= and a value"),
    ("netmap:eth0@conf:rings,slots=1", 23, "= and a value"),
    ("netmap:eth0@conf:rings=x", 24, "a value is a number"),
    ("netmap:eth0@conf:rings=2x", 25, "a value is a number"),
    ("netmap:eth0@conf:rings=-1", 24, "a value is a number"),
    ("netmap:eth0@conf:rings=65536", 24, "at most 65535"),
    ("netmap:eth0@conf:slots=4294967296", 24, "at most 4294967295"),
    ("netmap:eth0@conf:rings=1,rings=2", 26, "this key twice"),
    ("netmap:eth0@conf:rings=1,", 26, "a key follows"),
    ("netmap:eth0@share", 18, "= or :"),
    ("netmap:eth0@share=", 19, "a value follows"),
    ("netmap:eth0@share:", 19, "needs port="),
    ("netmap:eth0@share:port=", 24, "needs port="),
    ("netmap:eth0@share:netmap:eth1", 19, "no such key"),
    ("netmap:eth0@share=eth1", 19, "netmap: or vale"),
    ("netmap:eth0@share=netmap:a@share=netmap:b", 34, "double setting of @share"),
    ("netmap:eth0@extmem:buf-num=5", 29, "needs file="),
    ("netmap:eth0@extmem=/a@extmem=/b", 30, "double setting of @extmem"),
    ("netmap:eth0@extmem=" + "f" * 256, 20, "255 bytes"),
    ("netmap:eth0@offset:bits=16", 27, "needs initial="),
    ("netmap:eth0@offset:initial=0,bits=65", 35, "at most 64"),
    ("netmap:eth0@offset=65536", 20, "at most 65535"),
    ("netmap:eth0" + "@conf:rings=1" * 40, 512, "511 bytes"),
]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row[0][:40])
def test_N1_refusals_name_the_place(row: tuple[str, int, str]) -> None:
    text, place, word = row
    said = refused(text)
    assert said.startswith(f"character {place}: ")
    assert word in said


def test_N1_options() -> None:
    read = both(
        "netmap:eth0-1/x@3@share=vale0:p1@conf:slots=512,rx-rings=4,tx_slots=64,rings=2,"
        "host-rings=3,host-tx-rings=1@extmem:buf-num=9,file=/dev/hugepages/a,if-size=1"
        "@offset:bits=16,initial=64"
    )
    assert read["mem_id"] == 3
    assert read["share"] == {"name": "vale0:p1", "ifname": "", "pipe": ""}
    conf = ("tx_rings", "rx_rings", "tx_slots", "rx_slots", "host_tx_rings", "host_rx_rings")
    assert tuple(read[name] for name in conf) == (2, 4, 64, 512, 1, 3)
    assert (read["file"], read["buf_num"], read["if_size"]) == ("/dev/hugepages/a", 9, 1)
    assert (read["has_offset"], read["offset_initial"], read["offset_bits"]) == (True, 64, 16)


def test_N1_short_forms_of_options() -> None:
    read = both("vale0:p@share=netmap:eth1-3/x")
    assert read["share"] == {"name": "eth1", "ifname": "eth1", "pipe": ""}
    assert both("netmap:e@share:port=netmap:p{1")["share"]["pipe"] == "{"
    assert both("netmap:e@extmem=/dev/shm/x,y")["file"] == "/dev/shm/x,y"
    assert both("netmap:e@offset=0")["has_offset"] is True
    assert both("netmap:e@conf:")["tx_rings"] == 0
    assert both("netmap:e@conf:rings=,slots=8")["tx_slots"] == 8
    assert both("netmap:e@conf:rings=2@conf:tx-rings=1")["rx_rings"] == 2


def test_the_interfaces_that_a_portspec_touches() -> None:
    assert parse("netmap:eth0^@share=netmap:p{1").interfaces == ("eth0", "p")
    assert parse("vale0:p1").interfaces == ()
    assert parse("netmap:eth0/z").monitor
    assert not parse("netmap:eth0/xRT").monitor
