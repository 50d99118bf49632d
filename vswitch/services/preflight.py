"""What stands in the way of the configuration on this host. Reads only, no privilege needed.

Offload settings come through the SIOCETHTOOL ioctl (linux/ethtool.h, the ETHTOOL_G* reads are
open to everyone), the rest from /sys and /proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vswitch.kinds import Configuration
from vswitch.kinds.backends import AfPacket, Pcap, Tap, Tun, Veth
from vswitch.kinds.port import PortSpec
from vswitch.services.tunnels import narrow
from vswitch.values import parse_endpoint
from vswitch.view import View

_SYS_NET = Path("/sys/class/net")
_SIOCETHTOOL = 0x8946
_ETHTOOL_GTXCSUM = 0x16
_ETHTOOL_GTSO = 0x1E
_ETHTOOL_GGSO = 0x23
_ETHTOOL_GFLAGS = 0x25
_FLAG_LRO = 1 << 15
_IFF_UP = 1
_COMMAND = re.compile(r"ethtool -K \S+(?: [a-z-]+ off)+")
_CAPABILITIES = {"NET_ADMIN": 12, "NET_RAW": 13}
_NET_ADMIN_HINT = (
    "systemd: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW; container: --cap-add NET_ADMIN,NET_RAW"
)


@dataclass(frozen=True, slots=True)
class Finding:
    code: str
    severity: str
    object: str
    message: str
    fix: str | None = None


def findings(configuration: Configuration, view: View, run_dir: Path) -> list[Finding]:
    found = [*_forwarder(view), *_keeper(run_dir), *_host(configuration, view)]
    for name in sorted(configuration.ports):
        ours = list(_port(name, configuration.ports[name].spec))
        known = {finding.code for finding in ours}
        found += ours
        spec = configuration.ports[name].spec
        found += [word for word in _forwarders_word(name, spec, view) if word.code not in known]
        found += _tunnel(name, configuration, view)
    return found


def fixing_commands(text: str) -> str | None:
    """The ethtool commands that a sentence of the forwarder names, as one line."""
    return " && ".join(_COMMAND.findall(text)) or None


def _forwarder(view: View) -> Iterator[Finding]:
    if not view.connected:
        yield Finding("FASTPATH_DOWN", "error", "forwarder", view.why)
    elif view.status is not None and not view.status.keeper_connected:
        yield Finding(
            "KEEPER_DOWN",
            "warning",
            "keeper",
            "Frames are forwarded, but no port can be opened until the keeper is back.",
        )


def _keeper(run_dir: Path) -> Iterator[Finding]:
    """The keeper's capabilities, from its /proc entry."""
    try:
        pid = int((run_dir / "keeper.pid").read_text())
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (OSError, ValueError):
        return
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        yield Finding(
            "PRIVILEGES",
            "error",
            "keeper",
            f"The keeper lacks {' and '.join('CAP_' + name for name in missing)}: it can open "
            "memory, null, pcap, udp and vxlan ports only.",
            _NET_ADMIN_HINT,
        )


def _host(configuration: Configuration, view: View) -> Iterator[Finding]:
    """Kernel features that the configured ports need."""
    backends = [stored.spec.backend for stored in configuration.ports.values()]
    if any(isinstance(backend, Tap | Tun) for backend in backends) and not os.path.exists(
        "/dev/net/tun"
    ):
        yield Finding(
            "TUN_ABSENT",
            "error",
            "host",
            "/dev/net/tun is missing: no TAP or TUN can be made.",
            "modprobe tun; container: --device /dev/net/tun",
        )
    if view.welcome is not None:
        used = {backend.type for backend in backends}
        for name, missing in sorted(view.welcome.port_types.items()):
            if missing:
                severity = "error" if name in used else "info"
                yield Finding("PORT_TYPE_UNAVAILABLE", severity, "host", f"{name}: {missing}")


def _address_command(spec: PortSpec) -> str | None:
    """Which interface the address of a tunnel belongs on is the administrator's to say."""
    for endpoint in spec.backend.sockets():
        address, _ = parse_endpoint(endpoint)
        return f"ip address add {address}/{128 if ':' in address else 32} dev lo"
    return None


def _forwarders_word(name: str, spec: PortSpec, view: View) -> Iterator[Finding]:
    """What the forwarder found when it opened the port."""
    state = view.ports.get(name)
    if state is None:
        return
    if not state.outcome.ok:
        yield Finding(
            state.outcome.code,
            "error",
            f"ports/{name}",
            ": ".join(part for part in (state.outcome.message, state.outcome.hint) if part),
            _address_command(spec) if state.outcome.code == "ADDRESS_NOT_LOCAL" else None,
        )
    if not state.offloads_ok:
        message = state.offloads_message
        fix = fixing_commands(message)
        yield Finding("OFFLOADS_ENABLED", "warning", f"ports/{name}", message, fix)


def _tunnel(name: str, configuration: Configuration, view: View) -> Iterator[Finding]:
    found = narrow(name, configuration.ports[name].spec, configuration, view)
    if found is not None:
        where = f"ports/{name}"
        yield Finding("OUTER_FRAGMENTS", "warning", where, found.message, found.fix or None)


def _port(name: str, spec: PortSpec) -> Iterator[Finding]:
    backend, where = spec.backend, f"ports/{name}"
    if isinstance(backend, AfPacket):
        if not (_SYS_NET / backend.ifname).exists():
            yield Finding(
                "IFACE_NOT_FOUND",
                "error",
                where,
                f"There is no interface {backend.ifname} on this host.",
                "ip link show",
            )
            return
        yield from _interface(where, backend.ifname, spec)
    elif isinstance(backend, Veth) and (netns := backend.peer.netns) is not None:
        if not Path("/run/netns", netns).exists():
            yield Finding(
                "NETNS_NOT_FOUND",
                "error",
                where,
                f"There is no network namespace {netns} in /run/netns.",
                f"ip netns add {netns}",
            )
    elif isinstance(backend, Pcap) and backend.in_ is None and backend.rate is not None:
        yield Finding("RATE_UNUSED", "info", where, "`rate` has no meaning without `in`.")


def _interface(where: str, ifname: str, spec: PortSpec) -> Iterator[Finding]:
    flags = _flags(ifname)
    if flags is not None and not flags & _IFF_UP:
        yield Finding(
            "IFACE_DOWN", "error", where, f"{ifname} is down.", f"ip link set {ifname} up"
        )
    master = _SYS_NET / ifname / "master"
    if master.exists():
        owner = os.path.basename(os.path.realpath(master))
        yield Finding(
            "IFACE_ENSLAVED",
            "warning",
            where,
            f"{ifname} is a port of {owner}, which forwards its frames as well.",
            f"ip link set {ifname} nomaster",
        )
    yield from _offloads(where, ifname, spec)


def _offloads(where: str, ifname: str, spec: PortSpec) -> Iterator[Finding]:
    if (_ethtool(ifname, _ETHTOOL_GFLAGS) or 0) & _FLAG_LRO:
        yield Finding(
            "LRO_ENABLED",
            "error",
            where,
            f"{ifname} merges received frames (LRO) in a way that cannot be undone.",
            f"ethtool -K {ifname} lro off",
        )
    if spec.offload_policy == "refuse":
        on = [
            name
            for name, command in (
                ("tx", _ETHTOOL_GTXCSUM),
                ("tso", _ETHTOOL_GTSO),
                ("gso", _ETHTOOL_GGSO),
            )
            if _ethtool(ifname, command)
        ]
        if on:
            switches = " ".join(f"{name} off" for name in on)
            yield Finding(
                "OFFLOADS_ENABLED",
                "warning",
                where,
                f"The sender behind {ifname} leaves work to the device ({', '.join(on)}), and "
                "offload_policy refuse drops such frames.",
                f"ethtool -K {ifname} {switches}",
            )


def _flags(ifname: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int((_SYS_NET / ifname / "flags").read_text(), 16)
    return None


def _ethtool(ifname: str, command: int) -> int | None:
    """struct ethtool_value by SIOCETHTOOL; None: the device does not say."""
    value = (ctypes.c_uint32 * 2)(command, 0)
    request = struct.pack("16sP16x", ifname.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            fcntl.ioctl(probe, _SIOCETHTOOL, request)
        except OSError:
            return None
    return int(value[1])
