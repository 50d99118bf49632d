"""Which ports the netmap module's VALE switches have, in the keeper's network namespace.

Other programs attach and open ports there too; the module tells nobody, so it is asked.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

DEVICE = "/dev/netmap"
_NIOCCTRL = 0xC0586997
_API = 14
_VALE_LIST = 5
_HEADER = struct.Struct("=HHI64sQQ")  # struct nmreq_header
_LIST = struct.Struct("=HHI")  # struct nmreq_vale_list: switch, pad, port
PORTS_MAX = 8 * 254  # switches of the module times ports of a switch

Switches = dict[str, tuple[str, ...]]


def switches() -> Switches:
    """Port names ("eth1", "p1") by switch ("vale0"); empty where there is no module."""
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        return _grouped(_names(device))
    finally:
        os.close(device)


def _names(device: int) -> list[str]:
    found: list[str] = []
    switch = port = 0
    while len(found) < PORTS_MAX:
        body = bytearray(_LIST.pack(switch, 0, port))
        address = ctypes.addressof(ctypes.c_char.from_buffer(body))
        header = bytearray(_HEADER.pack(_API, _VALE_LIST, 0, b"", 0, address))
        try:
            fcntl.ioctl(device, _NIOCCTRL, header)
        except OSError:
            break  # ENOENT: no further port
        found.append(_HEADER.unpack(header)[3].split(b"\0")[0].decode(errors="replace"))
        switch, _, port = _LIST.unpack(body)
        port += 1
    return found


def _grouped(names: list[str]) -> Switches:
    """ "vale0:eth1" is port eth1 of vale0."""
    grouped: dict[str, list[str]] = {}
    for name in names:
        switch, _, port = name.partition(":")
        grouped.setdefault(switch, []).append(port)
    return {switch: tuple(sorted(ports)) for switch, ports in sorted(grouped.items())}
