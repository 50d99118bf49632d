"""Desired objects to what the forwarder is told. Pure.

An object of the wire depends on its own object and on few others: a port on its bridge (which
gives the pvid where the port names none), a static entry on its bridge and its port. ``affected``
names these dependants, so that a change compiles only what it can change.

A `vale` port in a bridge is two ports of the forwarder with a pipe in between: one of its own name
in the bridge, and one of the switch, named as netmap names it ("vale0:p1", which no user's port can
be called). The second one has a key of its own, ``Key("join", port)``. Where the switch is the
kernel's, the one port is a `netmap` port on it; in no bridge it is a local program's own affair. On
a switch of ours a `vale` port in no bridge is a `client`: what netmap programs find under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from fastpath.protocol import WireBridge, WireClients, WireObject, WirePort, WireStatic
from vswitch import vale
from vswitch.kinds import Configuration, Key, switches
from vswitch.kinds.backends import AfPacket, Vale
from vswitch.kinds.port import PortSpec
from vswitch.reconcile import rules

JOIN = "join"
# Of a ring between bridge and switch: 32 slots hold the largest frame. VALE has 1,024.
VALE_SLOTS = "2048"

Device = tuple[str, dict[str, str], str | None]
"""Type and options of a port, and the bridge of ours that it is in."""


def compile_all(
    configuration: Configuration, compiled: Mapping[Key, WireObject] = MappingProxyType({})
) -> Iterator[tuple[Key, WireObject]]:
    """Everything, with what it was made of. ``compiled``: what need not be compiled again."""
    for stored in configuration:
        for key in (stored.key, *_joins(configuration, stored.key)):
            obj = compiled.get(key) or compile_one(configuration, key)
            if obj is not None:
                yield key, obj


def compile_one(configuration: Configuration, key: Key) -> WireObject | None:
    """None: there is no such object, or the forwarder has no part in it."""
    if key.kind == "bridge":
        return _bridge(configuration, key.name)
    if key.kind == "port":
        return _port(configuration, key.name)
    if key.kind == JOIN:
        return _join(configuration, key.name)
    if key.kind == "fdb":
        return _static(configuration, key.parent, key.name)
    if key.kind == "rule":
        return rules.rule(configuration, key.parent, key.name)
    return _NAMED[key.kind](configuration, key.name)


_NAMED: dict[str, Callable[[Configuration, str], WireObject | None]] = {
    "group": rules.group,
    "policer": rules.policer,
    "ruleset": rules.ruleset,
}


def affected(before: Configuration, after: Configuration, touched: Iterable[Key]) -> frozenset[Key]:
    """The touched objects and those whose compiled form looks at them."""
    keys = set(touched)
    for key in touched:
        if key.kind == "bridge" and _vlan_side(before, key.name) != _vlan_side(after, key.name):
            members = [Key("port", name) for name in after.members(key.name)]
            keys.update(members)
            keys.update(join for member in members for join in _joins(after, member))
            keys |= {entry.key for entry in after.fdb.get(key.name, {}).values()}
        elif key.kind == "port":
            keys.update(after.entries_of_port(key.name))
            keys.update(_joins(before, key), _joins(after, key))
    return frozenset(keys)


def _vlan_side(configuration: Configuration, bridge: str) -> tuple[bool, int] | None:
    """What ports and static entries take from their bridge."""
    stored = configuration.bridges.get(bridge)
    return None if stored is None else (stored.spec.vlan_filtering, stored.spec.default_pvid)


def _bridge(configuration: Configuration, name: str) -> WireBridge | None:
    stored = configuration.bridges.get(name)
    if stored is None or vale.is_kernel(stored.spec):
        return None
    spec = stored.spec
    return WireBridge(
        name=name,
        vlan_filtering=spec.vlan_filtering,
        learning=spec.fdb.learning,
        ageing_s=spec.fdb.ageing_s,
        fdb_entries_max=spec.fdb.max_entries,
        flood_unknown_unicast=spec.flood.unknown_unicast,
        flood_multicast=spec.flood.multicast,
        flood_broadcast=spec.flood.broadcast,
        reserved_forward=spec.reserved_macs == "forward",
        mtu=spec.mtu,
        clients=WireClients(spec.clients.mode, spec.clients.uids, spec.clients.gids),
    )


def _default_pvid(configuration: Configuration, bridge: str | None) -> int:
    stored = configuration.bridges.get(bridge) if bridge else None
    return 1 if stored is None else stored.spec.default_pvid


def _joins(configuration: Configuration, key: Key) -> tuple[Key, ...]:
    """The switch's side of a port, where it has one."""
    stored = configuration.ports.get(key.name) if key.kind == "port" else None
    return () if stored is None or switches.joins(stored.spec) is None else (Key(JOIN, key.name),)


def _in_kernel(configuration: Configuration, switch: str | None) -> bool:
    stored = configuration.bridges.get(switch) if switch else None
    return stored is not None and vale.is_kernel(stored.spec)


def _end(backend: Vale, end: str) -> dict[str, str]:
    """An end of the pipe between a switch and what its port joins. VALE never waits."""
    return {"name": backend.full_name, "end": end, "slots": VALE_SLOTS, "block": "0"}


def _vale_device(configuration: Configuration, spec: PortSpec, backend: Vale) -> Device | None:
    """The port that bears the user's name."""
    if _in_kernel(configuration, backend.switch):
        portspec = {"portspec": backend.full_name}
        return None if spec.bridge is None else ("netmap", portspec, spec.bridge)
    if spec.bridge is None:
        rings = str(backend.queues)
        options = {"name": backend.full_name, "tx_rings": rings, "rx_rings": rings}
        return "client", options, backend.switch
    return "pipe", _end(backend, "master"), spec.bridge


def _device(configuration: Configuration, spec: PortSpec) -> Device | None:
    """None: the forwarder has no part in it."""
    backend, bridge = spec.backend, spec.bridge
    if isinstance(backend, Vale):
        return _vale_device(configuration, spec, backend)
    nic = backend.vale_nic()
    if nic and bridge and _in_kernel(configuration, bridge):
        ifname, host = nic
        options = {"switch": bridge, "ifname": ifname, "host": "1" if host else "0"}
        return "vale_nic", options, None
    options = backend.options()
    if isinstance(backend, AfPacket) and backend.version is None:
        options["version"] = "2" if spec.optimize_for == "latency" else "3"
    return backend.type, options, bridge


def _join(configuration: Configuration, name: str) -> WirePort | None:
    stored = configuration.ports.get(name)
    backend = switches.joins(stored.spec) if stored else None
    if stored is None or backend is None or _in_kernel(configuration, backend.switch):
        return None
    return WirePort(
        name=backend.full_name,
        type="pipe",
        options=_end(backend, "slave"),
        bridge=backend.switch,
        admin_up=True,
        learning=True,
        flood=True,
        isolation_group=0,
        vlan_mode="access",
        pvid=_default_pvid(configuration, backend.switch),
        tagged=(),
        offload_policy="carry",
        polling=stored.spec.polling,
        cpus=(),
    )


def _port(configuration: Configuration, name: str) -> WirePort | None:
    stored = configuration.ports.get(name)
    device = _device(configuration, stored.spec) if stored else None
    if stored is None or device is None:
        return None
    spec = stored.spec
    type, options, bridge = device
    return WirePort(
        name=name,
        type=type,
        options=options,
        bridge=bridge,
        admin_up=spec.admin_up,
        learning=spec.learning,
        flood=spec.flood,
        isolation_group=spec.isolation_group,
        vlan_mode=spec.vlan.mode,
        pvid=spec.vlan.pvid or _default_pvid(configuration, bridge),
        tagged=spec.vlan.ranges(),
        offload_policy=spec.offload_policy,
        polling=spec.polling,
        cpus=spec.cpus,
    )


def _static(configuration: Configuration, bridge: str, mac: str) -> WireStatic | None:
    stored = configuration.fdb.get(bridge, {}).get(mac)
    if stored is None:
        return None
    spec = stored.spec
    vid = 0
    port = configuration.ports[spec.port].spec
    name = switches.station(spec.port, port, bridge)
    if configuration.bridges[bridge].spec.vlan_filtering:
        pvid = port.vlan.pvid if name == spec.port else None
        vid = spec.vlan or pvid or _default_pvid(configuration, bridge)
    return WireStatic(bridge=bridge, mac=mac, vid=vid, port=name)
