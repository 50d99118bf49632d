"""What stands in the way of the configuration on this host. Reads only, no privilege needed."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastpath.protocol import PortState
from vswitch.kinds import Configuration
from vswitch.kinds.backends import (
    TYPES,
    AfPacket,
    AfXdp,
    Monitor,
    Netmap,
    Pcap,
    Pipe,
    Tap,
    Tun,
    Veth,
)
from vswitch.kinds.port import PortSpec
from vswitch.services.interfaces import Interface
from vswitch.services.netmap import interface_hurdles, memory_hurdles
from vswitch.services.tunnels import narrow
from vswitch.values import parse_endpoint
from vswitch.view import View

_BPF_HINT = "systemd: AmbientCapabilities=CAP_BPF; container: --cap-add BPF"
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
        ours = list(_port(name, configuration.ports[name].spec, view))
        known = {finding.code for finding in ours}
        found += ours
        spec = configuration.ports[name].spec
        found += [word for word in _forwarders_word(name, spec, view) if word.code not in known]
        found += _tunnel(name, configuration, view)
    found += _lone_ends(configuration)
    found += _closed_to_programs(configuration, run_dir)
    return found


def _closed_to_programs(configuration: Configuration, run_dir: Path) -> Iterator[Finding]:
    """Bridges that let other users' programs in, behind a directory that does not."""
    closed = next(
        (path for path in (run_dir, *run_dir.parents) if not path.stat().st_mode & stat.S_IXOTH),
        None,
    )
    if closed is None:
        return
    for name, stored in sorted(configuration.bridges.items()):
        if stored.spec.clients.uids or stored.spec.clients.gids:
            yield Finding(
                "CLIENTS_SHUT_OUT",
                "warning",
                f"bridges/{name}",
                f"{closed} is closed to others: only those whom it lets pass reach "
                f"{run_dir}/netmap.sock, whatever `clients` says.",
                f"chmod o+x {closed}",
            )


def _lone_ends(configuration: Configuration) -> Iterator[Finding]:
    """Pipes of which only one end is a port."""
    pipes = {
        (backend.name, backend.end): (name, backend)
        for name, stored in sorted(configuration.ports.items())
        if isinstance(backend := stored.spec.backend, Pipe)
    }
    for (pipe, end), (name, backend) in pipes.items():
        other = "slave" if end == "master" else "master"
        if (pipe, other) not in pipes:
            queues = f" -b queues={backend.queues}" if backend.queues > 1 else ""
            yield Finding(
                "PIPE_LONE",
                "warning",
                f"ports/{name}",
                f"No port is the {other} end of pipe {pipe}: what {name} sends fills the pipe.",
                f"vswitch port create {name}-{other} --type pipe -b name={pipe} -b end={other}"
                f"{queues} --bridge BRIDGE",
            )


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
            "memory, monitor, null, pcap, udp and vxlan ports only.",
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
    for hurdle in memory_hurdles(configuration):
        yield Finding(hurdle.code, hurdle.severity, "host", hurdle.message, hurdle.fix)
    if view.welcome is not None:
        used = {backend.type for backend in backends}
        for name, missing in sorted(view.welcome.port_types.items()):
            if missing and name in TYPES:
                severity = "error" if name in used else "info"
                yield Finding("PORT_TYPE_UNAVAILABLE", severity, "host", f"{name}: {missing}")


def _fix(spec: PortSpec, code: str) -> str | None:
    """What to do about an outcome, where it is always the same."""
    if code == "ADDRESS_NOT_LOCAL":
        return _address_command(spec)
    if code == "PRIVILEGE" and isinstance(spec.backend, AfPacket) and spec.backend.fanout == "ebpf":
        return _BPF_HINT
    return None


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
            _fix(spec, state.outcome.code),
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


def _port(name: str, spec: PortSpec, view: View) -> Iterator[Finding]:
    backend, where = spec.backend, f"ports/{name}"
    if isinstance(backend, AfPacket | AfXdp):
        interface = Interface(backend.ifname)
        if not interface.exists():
            yield _no_interface(where, backend.ifname)
            return
        yield from _interface(where, interface, spec, view.ports.get(name))
    elif isinstance(backend, Veth):
        netns, interface = backend.peer.netns, Interface(backend.name)
        if netns is not None and not Path("/run/netns", netns).exists():
            yield Finding(
                "NETNS_NOT_FOUND",
                "error",
                where,
                f"There is no network namespace {netns} in /run/netns.",
                f"ip netns add {netns}",
            )
        elif interface.exists():
            yield from _interface(where, interface, spec, view.ports.get(name))
    elif isinstance(backend, Netmap) and (ifname := backend.parsed.port.ifname):
        yield from _netmap(where, Interface(ifname), backend, view.ports.get(name))
    elif isinstance(backend, Monitor) and spec.bridge is None:
        yield Finding(
            "MONITOR_WITHOUT_BRIDGE",
            "warning",
            where,
            f"The copies of {backend.port}'s frames are dropped: a monitor needs a bridge of its "
            "own, with a port that takes them.",
        )
    elif isinstance(backend, Pcap) and backend.in_ is None and backend.rate is not None:
        yield Finding("RATE_UNUSED", "info", where, "`rate` has no meaning without `in`.")


def _netmap(
    where: str, interface: Interface, backend: Netmap, state: PortState | None
) -> Iterator[Finding]:
    spec = backend.parsed
    if spec.port.pipe:
        return  # a pipe is beside an interface, and needs none
    if not interface.exists():
        yield _no_interface(where, interface.name)
        return
    if state is not None and state.outcome.ok and spec.nic and not spec.monitor:
        yield _promiscuity(where, interface)
    for hurdle in interface_hurdles(spec, interface):
        yield Finding(hurdle.code, hurdle.severity, where, hurdle.message, hurdle.fix)


def _no_interface(where: str, ifname: str) -> Finding:
    return Finding(
        "IFACE_NOT_FOUND",
        "error",
        where,
        f"There is no interface {ifname} on this host.",
        "ip link show",
    )


def _interface(
    where: str, interface: Interface, spec: PortSpec, state: PortState | None
) -> Iterator[Finding]:
    name = interface.name
    if not interface.up:
        yield Finding("IFACE_DOWN", "error", where, f"{name} is down.", f"ip link set {name} up")
    elif not interface.carrier:
        yield _no_carrier(where, interface, spec)
    if (master := interface.master) is not None:
        yield Finding(
            "IFACE_ENSLAVED",
            "warning",
            where,
            f"{name} is a port of {master}, which forwards its frames as well.",
            f"ip link set {name} nomaster",
        )
    if state is not None and state.outcome.ok:
        yield _promiscuity(where, interface)
    yield from _features(where, interface, spec)


def _no_carrier(where: str, interface: Interface, spec: PortSpec) -> Finding:
    name, backend, peer = interface.name, spec.backend, interface.peer()
    if not interface.is_veth:
        return Finding("NO_CARRIER", "error", where, f"{name} has no link: is the cable in?")
    if peer is not None:
        other, fix = peer.name, f"ip link set {peer.name} up"
    elif isinstance(backend, Veth):
        other, netns = backend.peer.name, backend.peer.netns
        fix = f"ip -n {netns} link set {other} up"
    else:
        other = f"number {interface.peer_index} of another network namespace"
        fix = f"ip -n NETNS link set if{interface.peer_index} up"
    return Finding(
        "NO_CARRIER",
        "error",
        where,
        f"{name} has no link: the other end of the pair, {other}, is down.",
        fix,
    )


def _promiscuity(where: str, interface: Interface) -> Finding:
    """A switch needs the frames for other stations; the port asks for them while it lasts."""
    if interface.promiscuous:
        return Finding(
            "PROMISCUOUS",
            "info",
            where,
            f"{interface.name} is promiscuous, as it has to be while it is a port.",
        )
    return Finding(
        "NOT_PROMISCUOUS",
        "warning",
        where,
        f"{interface.name} is not promiscuous: frames for other stations do not get here.",
        f"ip link set {interface.name} promisc on",
    )


def _features(where: str, interface: Interface, spec: PortSpec) -> Iterator[Finding]:
    name, backend = interface.name, spec.backend
    if interface.merges:
        yield Finding(
            "LRO_ENABLED",
            "error",
            where,
            f"{name} merges received frames (LRO) in a way that cannot be undone.",
            f"ethtool -K {name} lro off",
        )
    if isinstance(backend, AfPacket) and backend.version == 1:
        yield Finding(
            "VLAN_UNSUPPORTED",
            "warning",
            where,
            "The kernel takes the VLAN tag out of received frames, whatever rxvlan says, and "
            "TPACKET version 1 does not say what it was: tagged frames are dropped as "
            "vlan_unsupported.",
            f"vswitch port set {where.removeprefix('ports/')} -b version=2",
        )
    if spec.offload_policy == "refuse":
        yield from _unfinished(where, interface)


def _unfinished(where: str, interface: Interface) -> Iterator[Finding]:
    """What arrives at one end of a pair was left unfinished by the stack at the other."""
    sender = interface.peer() if interface.is_veth else interface
    if sender is None:
        yield Finding(
            "VETH_PEER_HIDDEN",
            "info",
            where,
            f"The other end of {interface.name} is in another network namespace. What the sender "
            "there leaves to the device, offload_policy refuse drops.",
            "ip netns exec NETNS ethtool -K PEER tx off tso off gso off",
        )
        return
    if on := list(sender.unfinished()):
        switches = " ".join(f"{word} off" for word in on)
        yield Finding(
            "OFFLOADS_ENABLED",
            "warning",
            where,
            f"The sender at {sender.name} leaves work to the device ({', '.join(on)}), and "
            "offload_policy refuse drops such frames.",
            f"ethtool -K {sender.name} {switches}",
        )
