"""VALE switches in the configuration: when they come and go, and which ports they mean.

A port whose backend is `vale` is a port of the switch. In a bridge it joins the two: bridge and
switch each have a port, with a pipe in between (``joins``). In none it is the switch's port itself.
Where the kernel has netmap a new switch is the kernel's (engine vale), else ours. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vswitch.kinds.backends import Vale
from vswitch.kinds.bridge import BridgeFdb, BridgeSpec
from vswitch.kinds.configuration import Configuration
from vswitch.kinds.port import PortSpec
from vswitch.kinds.resource import Key, Stored
from vswitch.values import now, uuid7

# What VALE does: it never forgets a station, and forwards what bridges keep for themselves.
OURS = BridgeSpec(origin="vale", fdb=BridgeFdb(ageing_s=0), reserved_macs="forward")
KERNEL = BridgeSpec(origin="vale", engine="vale")


def joins(spec: PortSpec) -> Vale | None:
    """The backend of a port that joins its bridge and a switch."""
    return spec.backend if isinstance(spec.backend, Vale) and spec.bridge is not None else None


def station(name: str, spec: PortSpec, bridge: str) -> str:
    """What the forwarder calls the port of ``bridge`` that the port ``name`` is."""
    vale = joins(spec)
    return vale.full_name if vale is not None and bridge == vale.switch else name


def follow(
    before: Configuration, after: Configuration, touched: Iterable[Key], *, kernel: bool = False
) -> dict[Key, Stored[Any] | None]:
    """Switches that come with their first port or go with their last, after this change.

    ``kernel``: the kernel has VALE.
    """
    changes: dict[Key, Stored[Any] | None] = {}
    for name in _switches(before, after, touched):
        key = Key("bridge", name)
        there = after.bridges.get(name)
        ports = [after.ports[port].spec.backend.vale_switch() for port in after.members(name)]
        if there is None and name in ports:
            changes[key] = _made(key, after.revision, KERNEL if kernel else OURS)
        elif there is not None and there.spec.origin == "vale" and not ports:
            changes[key] = None
            changes |= {entry.key: None for entry in after.fdb.get(name, {}).values()}
    return changes


def _switches(before: Configuration, after: Configuration, touched: Iterable[Key]) -> set[str]:
    """Bridges that a port of this change is or was in."""
    return {
        name
        for key in touched
        if key.kind == "port"
        for configuration in (before, after)
        if (stored := configuration.ports.get(key.name)) is not None
        for name in stored.spec.bridges
        if name == stored.spec.backend.vale_switch() or _ours(configuration, name)
    }


def _ours(configuration: Configuration, bridge: str) -> bool:
    stored = configuration.bridges.get(bridge)
    return stored is not None and stored.spec.origin == "vale"


def _made(key: Key, revision: int, spec: BridgeSpec) -> Stored[Any]:
    at = now()
    return Stored(
        key=key,
        uid=uuid7(),
        labels={},
        description="",
        generation=1,
        revision=revision,
        spec=spec,
        created_at=at,
        updated_at=at,
    )
