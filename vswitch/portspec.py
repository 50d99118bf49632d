"""netmap's portspecs: the grammar, without the module and without any I/O.

The same grammar as fastpath/src/portspec.h, which explains it: the keeper reads a portspec by
that one, the control plane (which may not use the C half) refuses a bad one by this one. A
property test holds them together, sentences included.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

TEXT_MAX = 511
NAME_MAX = 63
INTERFACE_MAX = 15
FILE_MAX = 255
RING_MAX = 4094
U16_MAX = 0xFFFF
U32_MAX = 0xFFFFFFFF

_IDENTIFIER = re.compile(r"[A-Za-z0-9_]*")
_PRINTABLE = re.compile(r"[!-~]*")
_DIGITS = "0123456789"


class PortspecError(ValueError):
    """``character N: what is wrong``."""


class Mode(IntEnum):
    """Which rings (nr_mode of the request)."""

    ALL_NIC = 1
    SW = 2
    NIC_SW = 3
    ONE_NIC = 4
    ONE_SW = 8


class Flag(IntFlag):
    """nr_flags of the request."""

    MONITOR_TX = 0x100
    MONITOR_RX = 0x200
    ZCOPY_MON = 0x400
    EXCLUSIVE = 0x800
    RX_RINGS_ONLY = 0x2000
    TX_RINGS_ONLY = 0x4000


NO_FLAGS = Flag(0)
_ONE_WAY = Flag.RX_RINGS_ONLY | Flag.TX_RINGS_ONLY
_BOTH_WAYS = {Flag.RX_RINGS_ONLY, Flag.TX_RINGS_ONLY}
_FLAGS = {
    "x": Flag.EXCLUSIVE,
    "z": Flag.ZCOPY_MON,
    "t": Flag.MONITOR_TX,
    "r": Flag.MONITOR_RX,
    "R": Flag.RX_RINGS_ONLY,
    "T": Flag.TX_RINGS_ONLY,
}


@dataclass(frozen=True, slots=True)
class PortName:
    """``name`` is netmap's ("eth0{x", "vale0:p1"), ``ifname`` the interface ("" for VALE)."""

    name: str = ""
    ifname: str = ""
    pipe: str = ""


@dataclass(slots=True)
class Portspec:
    """What a portspec says; numbers that it does not say are 0, texts ""."""

    port: PortName = field(default_factory=PortName)
    mode: Mode = Mode.ALL_NIC
    flags: Flag = NO_FLAGS
    ringid: int = 0
    mem_id: int = 0
    share: PortName = field(default_factory=PortName)
    tx_slots: int = 0
    rx_slots: int = 0
    tx_rings: int = 0
    rx_rings: int = 0
    host_tx_rings: int = 0
    host_rx_rings: int = 0
    file: str = ""
    if_num: int = 0
    if_size: int = 0
    ring_num: int = 0
    ring_size: int = 0
    buf_num: int = 0
    buf_size: int = 0
    has_offset: bool = False
    offset_initial: int = 0
    offset_bits: int = 0

    @property
    def interfaces(self) -> tuple[str, ...]:
        """Kernel interfaces it names."""
        return tuple(name for name in (self.port.ifname, self.share.ifname) if name)

    @property
    def monitor(self) -> bool:
        return bool(self.flags & (Flag.MONITOR_TX | Flag.MONITOR_RX | Flag.ZCOPY_MON))

    @property
    def nic(self) -> bool:
        """It takes rings of the interface itself, not only its host's."""
        return self.mode in (Mode.ALL_NIC, Mode.NIC_SW, Mode.ONE_NIC)

    @property
    def host(self) -> bool:
        """It takes rings of the interface's host stack."""
        return self.mode in (Mode.SW, Mode.NIC_SW, Mode.ONE_SW)

    def overlaps(self, other: Portspec) -> bool:
        """Both would own one ring. Monitors own none that is somebody else's."""
        if self.port.name != other.port.name or self.monitor or other.monitor:
            return False
        if {self.flags & _ONE_WAY, other.flags & _ONE_WAY} == _BOTH_WAYS:
            return False  # one receives, the other transmits
        same_ring = self.ringid == other.ringid
        nic = self.nic and other.nic and (same_ring or not self.mode == other.mode == Mode.ONE_NIC)
        host = self.host and other.host
        return nic or (host and (same_ring or not self.mode == other.mode == Mode.ONE_SW))


@dataclass(frozen=True, slots=True)
class _Option:
    """Keys with their highest value and the fields they set; None: the option's text.

    ``first``: the first key has to be there, and is what @word=... gives. Keys that set two
    fields come first: the others overrule them.
    """

    first: bool
    keys: dict[str, tuple[int | None, tuple[str, ...]]]


_OPTIONS = {
    "share": _Option(True, {"port": (None, ())}),
    "conf": _Option(
        False,
        {
            "rings": (U16_MAX, ("tx_rings", "rx_rings")),
            "host-rings": (U16_MAX, ("host_tx_rings", "host_rx_rings")),
            "slots": (U32_MAX, ("tx_slots", "rx_slots")),
            "tx-rings": (U16_MAX, ("tx_rings",)),
            "rx-rings": (U16_MAX, ("rx_rings",)),
            "host-tx-rings": (U16_MAX, ("host_tx_rings",)),
            "host-rx-rings": (U16_MAX, ("host_rx_rings",)),
            "tx-slots": (U32_MAX, ("tx_slots",)),
            "rx-slots": (U32_MAX, ("rx_slots",)),
        },
    ),
    "extmem": _Option(
        True,
        {
            "file": (None, ()),
            "if-num": (U32_MAX, ("if_num",)),
            "if-size": (U32_MAX, ("if_size",)),
            "ring-num": (U32_MAX, ("ring_num",)),
            "ring-size": (U32_MAX, ("ring_size",)),
            "buf-num": (U32_MAX, ("buf_num",)),
            "buf-size": (U32_MAX, ("buf_size",)),
        },
    ),
    "offset": _Option(
        True, {"initial": (U16_MAX, ("offset_initial",)), "bits": (64, ("offset_bits",))}
    ),
}


def parse(text: str) -> Portspec:
    """PortspecError when the text is no portspec."""
    walk = _Walk(text, 0, len(text))
    if len(text) > TEXT_MAX:
        raise _Walk(text, TEXT_MAX, len(text)).refuse(f"a portspec has at most {TEXT_MAX} bytes")
    printable = _PRINTABLE.match(text)
    if printable is not None and printable.end() < len(text):
        walk.at = printable.end()
        raise walk.refuse("a portspec is printable ASCII without spaces")
    out = Portspec()
    out.port = walk.take_name()
    _take_rings(walk, out)
    while sign := walk.peek():
        if sign not in "/@":
            raise walk.refuse("only / and @ may follow here")
        walk.at += 1
        if sign == "/":
            _take_flags(walk, out)
        elif not walk.peek():
            raise walk.refuse("a memory region or an option follows the @")
        elif walk.peek() in _DIGITS:
            _take_region(walk, out)
        else:
            _take_options(walk, out)
    return out


@dataclass(slots=True)
class _Walk:
    """A walk over the text up to ``end``."""

    text: str
    at: int
    end: int

    def refuse(self, what: str) -> PortspecError:
        return PortspecError(f"character {self.at + 1}: {what}")

    def peek(self) -> str:
        return self.text[self.at] if self.at < self.end else ""

    def find(self, characters: str) -> int:
        """The first of these from here on, or the end."""
        at = self.at
        while at < self.end and self.text[at] not in characters:
            at += 1
        return at

    def take_number(self, what: str, highest: int) -> int:
        start, value = self.at, 0
        if not self.peek() or self.peek() not in _DIGITS:
            raise self.refuse(f"{what} is a number")
        while self.peek() and self.peek() in _DIGITS:
            value = value * 10 + int(self.peek())
            self.at += 1
            if value > highest:
                raise _Walk(self.text, start, self.end).refuse(f"{what} is at most {highest}")
        return value

    def take_name(self) -> PortName:
        """What stands between a prefix and the first modifier."""
        rest = self.text[self.at : self.end]
        if rest.startswith("netmap:"):
            self.at += 7
        elif not rest.startswith("vale"):
            raise self.refuse("a portspec begins with netmap: or vale")
        start, end = self.at, self.find("-*^/@")
        sign = min(self.find("{}"), end)
        if end - start > NAME_MAX:
            raise self.refuse("a port's name has at most 63 bytes")
        base = self.text[start:sign]
        vale = base.startswith("vale")
        if vale:
            self._check_vale(base)
        else:
            self._check_interface(base)
        self.at = sign
        pipe = self.text[sign + 1 : end]
        if sign < end and not (pipe and _IDENTIFIER.fullmatch(pipe)):
            raise self.refuse("a pipe's name is letters, digits or _")
        self.at = end
        mark = self.text[sign] if sign < end else ""
        return PortName(self.text[start:end], "" if vale else base, mark)

    def _check_interface(self, name: str) -> None:
        if not name:
            raise self.refuse("a port has a name")
        if len(name) > INTERFACE_MAX:
            raise self.refuse("an interface's name has at most 15 bytes")
        if ":" in name:
            raise self.refuse("an interface's name has no colon")
        if name in (".", ".."):
            raise self.refuse("an interface's name is neither . nor ..")

    def _check_vale(self, name: str) -> None:
        switch, colon, port = name.partition(":")
        if not colon:
            raise self.refuse("a VALE port is named valeSWITCH:PORT")
        if len(switch) > INTERFACE_MAX or not _IDENTIFIER.fullmatch(switch):
            raise self.refuse("a VALE switch is vale and letters, digits or _, 15 in all")
        if not 0 < len(port) <= INTERFACE_MAX or not _IDENTIFIER.fullmatch(port):
            raise self.refuse("a VALE port is 1 to 15 letters, digits or _")


def _take_rings(walk: _Walk, out: Portspec) -> None:
    sign = walk.peek()
    if not sign or sign not in "*-^":
        return
    walk.at += 1
    if sign == "*":
        out.mode = Mode.NIC_SW
    elif sign == "-":
        out.mode = Mode.ONE_NIC
        out.ringid = walk.take_number("a ring", RING_MAX)
    else:
        out.mode = Mode.SW
        if walk.peek() and walk.peek() in _DIGITS:
            out.mode = Mode.ONE_SW
            out.ringid = walk.take_number("a ring", RING_MAX)


def _take_flags(walk: _Walk, out: Portspec) -> None:
    if not walk.peek():
        raise walk.refuse("flags follow the /")
    while (letter := walk.peek()) and letter != "@":
        if letter not in _FLAGS:
            raise walk.refuse("a flag is one of x z t r R T")
        out.flags |= _FLAGS[letter]
        walk.at += 1


def _take_region(walk: _Walk, out: Portspec) -> None:
    if out.mem_id:
        raise walk.refuse("double setting of the memory region")
    start = walk.at
    out.mem_id = walk.take_number("a memory region", U16_MAX)
    if not out.mem_id:
        raise _Walk(walk.text, start, walk.end).refuse("a memory region is at least 1")


def _take_options(walk: _Walk, out: Portspec) -> None:
    while True:
        end = walk.find("@")
        _take_option(_Walk(walk.text, walk.at, end), out)
        walk.at = end
        if end == walk.end:
            return
        walk.at += 1


def _take_option(walk: _Walk, out: Portspec) -> None:
    """One option, without its @; the walk is over this option only."""
    sign = walk.find(":=")
    word = walk.text[walk.at : sign]
    if word not in _OPTIONS:
        raise walk.refuse("an option is one of share, conf, extmem, offset")
    option, walk.at = _OPTIONS[word], sign
    first = next(iter(option.keys))
    values: dict[str, _Walk] = {}
    if sign == walk.end:
        raise walk.refuse(f"= or : follows @{word}")
    walk.at += 1
    if walk.text[sign] == ":":
        values = _take_keys(walk, word, option)
    elif not option.first:
        walk.at = sign
        raise walk.refuse(f"@{word} takes : and keys")
    elif walk.at == walk.end:
        raise walk.refuse(f"a value follows @{word}=")
    else:
        values[first] = walk
    if option.first and first not in values:
        raise walk.refuse(f"@{word} needs {first}=")
    for key, (highest, fields) in option.keys.items():
        if (value := values.get(key)) is None:
            continue
        if highest is None:
            _set_text(value, out, word)
            continue
        number = value.take_number("a value", highest)
        if value.at < value.end:
            raise value.refuse("a value is a number")
        for name in fields:
            setattr(out, name, number)
    out.has_offset = out.has_offset or word == "offset"


def _take_keys(walk: _Walk, word: str, option: _Option) -> dict[str, _Walk]:
    """ "key=value,key=value"; an empty value is as good as none."""
    values: dict[str, _Walk] = {}
    while walk.at < walk.end:
        sign = walk.find("=,")
        key = walk.text[walk.at : sign].replace("_", "-")
        if key not in option.keys:
            raise walk.refuse(f"@{word} has no such key")
        if key in values:
            raise walk.refuse(f"@{word} has this key twice")
        walk.at = sign
        if walk.peek() != "=":
            raise walk.refuse("= and a value follow the key")
        walk.at += 1
        comma = walk.find(",")
        if comma > walk.at:
            values[key] = _Walk(walk.text, walk.at, comma)
        walk.at = comma
        if comma < walk.end:
            walk.at += 1
            if walk.at == walk.end:
                raise walk.refuse("a key follows the comma")
    return values


def _set_text(value: _Walk, out: Portspec, word: str) -> None:
    if word == "share":
        if out.share.name:
            raise value.refuse("double setting of @share")
        out.share = value.take_name()
        return
    if out.file:
        raise value.refuse("double setting of @extmem")
    if value.end - value.at > FILE_MAX:
        raise value.refuse(f"a file's name has at most {FILE_MAX} bytes")
    out.file = value.text[value.at : value.end]
