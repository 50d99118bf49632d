"""Which netmap programs may give each other frames without the forwarder: those on a bridge in
direct mode, where nothing has to see the frames. Pure.

Who is left out goes by the forwarder with all of its frames, in both directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from fastpath.client_ports import CLIENT
from fastpath.protocol import WireAttach, WireBridge, WirePort
from fastpath.rule_sets import RuleSets

DIRECT = "direct"


def attaches(rules: RuleSets) -> Iterator[WireAttach]:
    """Where sets are asked, and where they are to be."""
    for owner in rules.sets.values():
        for spec in (owner.spec, owner.in_force):
            if spec is not None:
                yield from spec.attach


def groups(
    bridges: Mapping[str, WireBridge], ports: Iterable[WirePort], rules: RuleSets
) -> dict[str, list[WirePort]]:
    """Ports by bridge, for every bridge in direct mode that may be.

    What excludes a bridge: VLAN filtering, an MTU, no learning, a rule set attached to it. What
    excludes a port: a monitor of it, a rule set attached to it, a rule that sends it copies or
    frames, being down, not learning, isolation.
    """
    wanted = list(ports)
    placed = list(attaches(rules))
    ruled = {attach.bridge for attach in placed}
    excluded = {attach.port for attach in placed}
    excluded |= {port.options.get("port", "") for port in wanted if port.type == "monitor"}
    found: dict[str, list[WirePort]] = {
        name: []
        for name, bridge in bridges.items()
        if bridge.clients.mode == DIRECT
        and bridge.learning
        and not bridge.vlan_filtering
        and not bridge.mtu
        and name not in ruled
    }
    for port in wanted:
        if (
            port.type == CLIENT
            and port.bridge in found
            and port.name not in excluded
            and port.admin_up
            and port.learning
            and not port.isolation_group
            and not rules.refers(port.key)
        ):
            found[port.bridge].append(port)
    return found
