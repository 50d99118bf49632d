"""netmap programs on a switch: where they may be, and what direct mode cannot be together with.

In direct mode a frame goes from program to program without the forwarder. What has to see every
frame, or to decide about it, is refused on such a switch, and direct mode where there is any.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from vswitch import vale
from vswitch.kinds import Configuration, Key, switches
from vswitch.kinds.bridge import BridgeClients, BridgeSpec
from vswitch.problems import Detail
from vswitch.values import VALE_SWITCH_PATTERN

_MODE = "/spec/clients/mode"
_RELAY = "Set clients.mode of bridge {} to relay: then every frame passes the forwarder."


def faults(
    before: Configuration, after: Configuration, touched: Iterable[Key], places: Mapping[Key, str]
) -> Iterator[Detail]:
    """``places``: where in the request an object's spec is, where it is not /spec."""
    for key in touched:
        if after.get(key) is None:
            continue
        if key.kind == "bridge":
            yield from _bridge(before, after, key.name)
        elif key.kind == "port":
            yield from _port(after, key.name)
        elif key.kind == "ruleset":
            yield from _ruleset(after, key.name, places.get(key, "/spec"))


def _bridge(before: Configuration, after: Configuration, name: str) -> Iterator[Detail]:
    spec = after.bridges[name].spec
    if spec.clients == BridgeClients():
        return
    if vale.is_kernel(spec):
        text = "The module alone decides who may open ports of a VALE switch of the kernel."
        yield Detail("/spec/clients", "VALE_LIMIT", text, "Set engine to software.")
    elif not re.fullmatch(VALE_SWITCH_PATTERN, name):
        text = f"netmap programs cannot name {name}: a switch is vale and up to 11 characters."
        hint = "Make a bridge valeNAME, and join the two by a port: backend vale, bridge " + name
        yield Detail("/spec/clients", "INVALID", text, f"{hint}.")
    if spec.clients.mode == "direct":
        old = before.bridges.get(name)
        yield from _own(spec, None if old is None else old.spec, name)
        yield from _watchers(after, name)


def _own(spec: BridgeSpec, old: BridgeSpec | None, name: str) -> Iterator[Detail]:
    """What of the bridge itself has to look at frames. The fault is what is new."""
    was = old is not None and old.clients.mode == "direct"
    for member, wanted, what in (
        ("vlan_filtering", spec.vlan_filtering, "keep VLANs apart"),
        ("mtu", spec.mtu != 0, "drop what is longer than mtu"),
    ):
        if wanted:
            text = f"{name} cannot {what} where programs exchange frames directly."
            where = f"/spec/{member}" if was else _MODE
            yield Detail(where, "CONFLICT", text, _RELAY.format(name))


def _watchers(after: Configuration, name: str) -> Iterator[Detail]:
    """Who else stands in the way of the bridge's direct mode."""
    ports = [port for port in after.members(name) if name in _stations(after, port)]
    for target in (Key("bridge", name), *(Key("port", port) for port in ports)):
        for ruleset in after.attached_to(target):
            text = f"{ruleset.path} is asked at {target.path}; direct frames would pass it by."
            hint = f"Take {target.path} out of attach of {ruleset.path}, or stay with relay."
            yield Detail(_MODE, "CONFLICT", text, hint)
    for port in ports:
        for monitor in after.monitors_of_port(port):
            text = f"{monitor.path} watches {port} and would not see direct frames."
            yield Detail(_MODE, "CONFLICT", text, f"Delete {monitor.path}, or stay with relay.")
        if after.ports[port].spec.isolation_group:
            text = f"{port} is in an isolation group, which direct frames would pass by."
            hint = f"Set isolation_group of ports/{port} to 0, or stay with relay."
            yield Detail(_MODE, "CONFLICT", text, hint)


def _stations(after: Configuration, port: str) -> tuple[str, ...]:
    """Bridges in which the port itself is, not the other side of a joint."""
    spec = after.ports[port].spec
    return tuple(name for name in spec.bridges if switches.station(port, spec, name) == port)


def _direct(after: Configuration, target: Key) -> str | None:
    """The bridge in direct mode that it is or is in."""
    names: tuple[str, ...] = ()
    if target.kind == "bridge":
        names = (target.name,)
    elif target.name in after.ports:
        names = _stations(after, target.name)
    for name in names:
        stored = after.bridges.get(name)
        if stored is not None and stored.spec.clients.mode == "direct":
            return name
    return None


def _port(after: Configuration, name: str) -> Iterator[Detail]:
    spec = after.ports[name].spec
    watched = spec.backend.monitored()
    if watched is not None and (bridge := _direct(after, Key("port", watched))) is not None:
        text = f"{watched} is in {bridge}, whose programs exchange frames directly: unseen ones."
        yield Detail("/spec/backend/port", "CONFLICT", text, _RELAY.format(bridge))
    bridge = _direct(after, Key("port", name))
    if bridge is None:
        return
    where = "/spec/bridge" if bridge == spec.bridge else "/spec/backend/switch"
    users = after.attached_to(Key("port", name)) + after.monitors_of_port(name)
    for user in users:
        text = f"{user.path} has to see this port's frames; those of {bridge} go directly."
        yield Detail(where, "CONFLICT", text, _RELAY.format(bridge))
    if spec.isolation_group:
        text = f"Nothing keeps frames apart that the programs of {bridge} exchange directly."
        yield Detail("/spec/isolation_group", "CONFLICT", text, _RELAY.format(bridge))


def _ruleset(after: Configuration, name: str, base: str) -> Iterator[Detail]:
    for index, attach in enumerate(after.rulesets[name].spec.attach):
        bridge = _direct(after, attach.target)
        if bridge is not None:
            text = f"The programs of {bridge} exchange frames directly: no rule would see them."
            where = f"{base}/attach/{index}/{attach.target.kind}"
            yield Detail(where, "CONFLICT", text, _RELAY.format(bridge))
