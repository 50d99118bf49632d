"""What the kernel says of a network interface of this namespace. Reads only, no privilege needed.

Features come through the SIOCETHTOOL ioctl (linux/ethtool.h, the ETHTOOL_G* reads are open to
everyone), the rest from /sys/class/net.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SYS_NET = Path("/sys/class/net")
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 0x03
_ETHTOOL_GRINGPARAM = 0x10
_ETHTOOL_GTXCSUM = 0x16
_ETHTOOL_GTSO = 0x1E
_ETHTOOL_GGSO = 0x23
_ETHTOOL_GFLAGS = 0x25
_ETHTOOL_GGRO = 0x2B
_FLAG_RXVLAN = 1 << 8
_FLAG_LRO = 1 << 15
_IFF_UP = 1
_IFF_PROMISC = 0x100
_DRVINFO_BYTES = 196


@dataclass(frozen=True, slots=True)
class Interface:
    name: str

    def exists(self) -> bool:
        return (_SYS_NET / self.name).exists()

    @property
    def up(self) -> bool:
        return bool((self._number("flags") or 0) & _IFF_UP)

    @property
    def promiscuous(self) -> bool:
        return bool((self._number("flags") or 0) & _IFF_PROMISC)

    @property
    def carrier(self) -> bool:
        """The other end is there and up; an interface that is down does not know."""
        return self._number("carrier") == 1

    @property
    def master(self) -> str | None:
        """The bridge or bond whose port it is."""
        path = _SYS_NET / self.name / "master"
        return os.path.basename(os.path.realpath(path)) if path.exists() else None

    @property
    def is_veth(self) -> bool:
        info = ctypes.create_string_buffer(struct.pack("=I", _ETHTOOL_GDRVINFO), _DRVINFO_BYTES)
        return _ioctl(self.name, ctypes.addressof(info)) and info.raw[4:36].startswith(b"veth\0")

    @property
    def peer_index(self) -> int:
        """Of the other end of a veth pair, in whatever namespace that is."""
        return self._number("iflink") or 0

    def peer(self) -> Interface | None:
        """The other end of a veth pair, where it is in this namespace."""
        if not self.is_veth:
            return None
        for path in _SYS_NET.iterdir():
            other = Interface(path.name)
            if (
                other._number("ifindex") == self.peer_index
                and other.peer_index == self._number("ifindex")
                and other.is_veth
            ):
                return other
        return None

    @property
    def merges(self) -> bool:
        """LRO: received segments are put together in a way that cannot be undone."""
        return bool(self._feature(_ETHTOOL_GFLAGS) & _FLAG_LRO)

    @property
    def strips_vlan(self) -> bool:
        """rxvlan: the tag of a received frame is not in its bytes."""
        return bool(self._feature(_ETHTOOL_GFLAGS) & _FLAG_RXVLAN)

    def unfinished(self) -> Iterator[str]:
        """What a stack that sends through it leaves to the device, in ethtool's words."""
        for word, command in (
            ("tx", _ETHTOOL_GTXCSUM),
            ("tso", _ETHTOOL_GTSO),
            ("gso", _ETHTOOL_GGSO),
        ):
            if self._feature(command):
                yield word

    def merged(self) -> Iterator[str]:
        """What is put together of several received frames, in ethtool's words."""
        if self.merges:
            yield "lro"
        if self._feature(_ETHTOOL_GGRO):
            yield "gro"

    @property
    def mtu(self) -> int:
        return self._number("mtu") or 0

    def queues(self) -> tuple[int, int]:
        """Receive and transmit queues; 0, 0 where there is no such interface."""
        with contextlib.suppress(OSError):
            names = [path.name for path in (_SYS_NET / self.name / "queues").iterdir()]
            rx = sum(name.startswith("rx-") for name in names)
            return rx, len(names) - rx
        return 0, 0

    def slots(self) -> int:
        """Of its longest ring (struct ethtool_ringparam); 0 where the device does not say."""
        value = (ctypes.c_uint32 * 9)(_ETHTOOL_GRINGPARAM)
        if not _ioctl(self.name, ctypes.addressof(value)):
            return 0
        return max(int(value[5]), int(value[8]))

    def _number(self, attribute: str) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int((_SYS_NET / self.name / attribute).read_text(), 0)
        return None

    def _feature(self, command: int) -> int:
        """struct ethtool_value; 0 where the device does not say."""
        value = (ctypes.c_uint32 * 2)(command, 0)
        return int(value[1]) if _ioctl(self.name, ctypes.addressof(value)) else 0


def _ioctl(ifname: str, address: int) -> bool:
    request = struct.pack("16sP16x", ifname.encode(), address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            fcntl.ioctl(probe, _SIOCETHTOOL, request)
        except OSError:
            return False
    return True
