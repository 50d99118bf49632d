"""What netmap ports need of this host, and what stands in their way. Reads only.

The module's memory comes in regions of a fixed number of objects: all hardware ports share one,
whose size is set by the module's parameters before the first of them is opened (ring_num rings,
buf_num buffers of buf_size bytes, if_num openings).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vswitch.kinds import Configuration
from vswitch.kinds.backends import Netmap
from vswitch.kinds.port import PortSpec
from vswitch.portspec import Mode, Portspec
from vswitch.services.interfaces import Interface

_PARAMETERS = Path("/sys/module/netmap/parameters")
ETHERNET_BYTES = 14 + 4  # header and a tag: what a frame has beside the MTU
SLOTS = 1024  # of a ring whose interface does not say how many it has


@dataclass(frozen=True, slots=True)
class Hurdle:
    code: str
    severity: str
    message: str
    fix: str | None = None


def idle_host_rings(port: PortSpec, configuration: Configuration) -> str | None:
    """The interface whose host rings the port has while nothing comes from them; None: no such.

    netmap takes what the host sends only where a ring of the interface itself is in netmap mode.
    """
    if not isinstance(port.backend, Netmap):
        return None
    spec = port.backend.parsed
    if spec.mode not in (Mode.SW, Mode.ONE_SW):
        return None
    for other in configuration.ports.values():
        theirs = other.spec.backend
        if isinstance(theirs, Netmap) and _opens_nic(theirs.parsed, spec.port.ifname):
            return None
    return spec.port.ifname


def _opens_nic(spec: Portspec, ifname: str) -> bool:
    return spec.nic and spec.port.name == ifname and not spec.monitor


def interface_hurdles(spec: Portspec, interface: Interface) -> Iterator[Hurdle]:
    """What an interface does that netmap, or who reads its rings, cannot undo."""
    name = interface.name
    if on := [*interface.unfinished(), *interface.merged()]:
        switches = " ".join(f"{word} off" for word in on)
        yield Hurdle(
            "OFFLOADS_ENABLED",
            "warning",
            f"{name} leaves work to the device or merges frames ({', '.join(on)}); netmap's rings "
            "carry frames as they are on the wire, so the host's are dropped or unfinished.",
            f"ethtool -K {name} {switches}",
        )
    if interface.strips_vlan:
        yield Hurdle(
            "RXVLAN_ENABLED",
            "warning",
            f"{name} takes VLAN tags out of received frames (rxvlan), and a ring has no other "
            "place for them.",
            f"ethtool -K {name} rxvlan off",
        )
    if spec.nic and interface.is_veth:
        yield Hurdle(
            "VETH_BOTH_ENDS",
            "info",
            f"Where the module has its own driver for veth, {name} reaches the other end of the "
            "pair only while that is in netmap mode too.",
        )
    elif spec.nic:
        yield Hurdle(
            "LINK_FLAP", "info", f"Most drivers take {name} down for a moment to open its rings."
        )


def memory_hurdles(configuration: Configuration) -> Iterator[Hurdle]:
    """What the hardware ports need of the region they share, and what it has."""
    wanted: dict[str, Netmap] = {}
    for name, stored in configuration.ports.items():
        backend = stored.spec.backend
        if isinstance(backend, Netmap) and backend.parsed.port.ifname:
            wanted[name] = backend
    if not wanted or not _PARAMETERS.is_dir():
        return
    interfaces = {backend.parsed.port.ifname for backend in wanted.values()}
    rings = buffers = mtu = 0
    for interface in sorted(map(Interface, interfaces), key=lambda interface: interface.name):
        queues = sum(interface.queues()) + 2  # and the host's
        rings += queues
        buffers += queues * (interface.slots() or SLOTS)
        mtu = max(mtu, interface.mtu)
    openings = sum(_openings(backend.parsed) for backend in wanted.values())
    for parameter, need, what in (
        ("if_num", openings, "openings"),
        ("ring_num", rings, "rings"),
        ("buf_num", buffers, "buffers"),
    ):
        yield from _short(parameter, need, what, "error")
    yield from _short("buf_size", mtu + ETHERNET_BYTES, "bytes a frame", "warning")


def _openings(spec: Portspec) -> int:
    """Fds that a port has: one a ring pair."""
    interface = Interface(spec.port.ifname)
    return max(*interface.queues(), 1) + 1 if spec.mode in (Mode.ALL_NIC, Mode.NIC_SW) else 1


def _short(parameter: str, need: int, what: str, severity: str) -> Iterator[Hurdle]:
    path = _PARAMETERS / parameter
    have = 0
    with contextlib.suppress(OSError, ValueError):
        have = int(path.read_text())
    if 0 < have < need:
        yield Hurdle(
            f"NETMAP_MEMORY({parameter})",
            severity,
            f"The netmap ports need {need} {what}, and the module's {parameter} is {have}. It is "
            "read when no port of an interface is open.",
            f"echo {need} > {path}",
        )
