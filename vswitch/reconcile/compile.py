"""Desired objects to what the forwarder is told. Pure.

An object of the wire depends on its own object and on few others: a port on its bridge (which
gives the pvid where the port names none), a static entry on its bridge and its port. ``affected``
names these dependants, so that a change compiles only what it can change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastpath.protocol import WireBridge, WireObject, WirePort, WireStatic
from vswitch import vale
from vswitch.kinds import Configuration, Key
from vswitch.kinds.backends import AfPacket
from vswitch.kinds.port import PortSpec


def compile_all(configuration: Configuration) -> Iterator[WireObject]:
    for stored in configuration:
        obj = compile_one(configuration, stored.key)
        if obj is not None:
            yield obj


def compile_one(configuration: Configuration, key: Key) -> WireObject | None:
    """None: there is no such object, or the forwarder has no part in it."""
    if key.kind == "bridge":
        return _bridge(configuration, key.name)
    if key.kind == "port":
        return _port(configuration, key.name)
    return _static(configuration, key.bridge, key.name)


def affected(before: Configuration, after: Configuration, touched: Iterable[Key]) -> frozenset[Key]:
    """The touched objects and those whose compiled form looks at them."""
    keys = set(touched)
    for key in touched:
        if key.kind == "bridge" and _vlan_side(before, key.name) != _vlan_side(after, key.name):
            keys |= {Key("port", name) for name in after.members(key.name)}
            keys |= {entry.key for entry in after.fdb.get(key.name, {}).values()}
        elif key.kind == "port":
            keys.update(after.entries_of_port(key.name))
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
    )


def _pvid(configuration: Configuration, spec: PortSpec) -> int:
    if spec.vlan.pvid is not None:
        return spec.vlan.pvid
    bridge = configuration.bridges.get(spec.bridge) if spec.bridge else None
    return 1 if bridge is None else bridge.spec.default_pvid


def _port(configuration: Configuration, name: str) -> WirePort | None:
    stored = configuration.ports.get(name)
    if stored is None:
        return None
    spec = stored.spec
    options = spec.backend.options()
    if isinstance(spec.backend, AfPacket) and spec.backend.version is None:
        options["version"] = "2" if spec.optimize_for == "latency" else "3"
    type: str = spec.backend.type
    bridge = spec.bridge
    switch = configuration.bridges.get(bridge) if bridge else None
    nic = spec.backend.vale_nic()
    if nic and bridge and switch and vale.is_kernel(switch.spec):
        ifname, host = nic
        type, bridge = "vale_nic", None
        options = {"switch": switch.key.name, "ifname": ifname, "host": "1" if host else "0"}
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
        pvid=_pvid(configuration, spec),
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
    if configuration.bridges[bridge].spec.vlan_filtering:
        vid = spec.vlan or _pvid(configuration, configuration.ports[spec.port].spec)
    return WireStatic(bridge=bridge, mac=mac, vid=vid, port=spec.port)
