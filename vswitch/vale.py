"""What can be asked of a VALE switch of the netmap kernel module, and what cannot.

A bridge whose engine is `vale` is the kernel's switch of the bridge's name. Its ports are network
interfaces; the kernel forwards between them, and this appliance sees none of their frames. So
whatever needs a look at frames is refused here instead of being accepted and not done.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vswitch.kinds.bridge import VALE_FDB, BridgeFlood, BridgeSpec
from vswitch.kinds.port import PortSpec, PortVlan
from vswitch.problems import Detail

SWITCHES_MAX = 8
PORTS_MAX = 254
_NAME = re.compile(r"vale[A-Za-z0-9_]{0,11}")


def is_kernel(spec: BridgeSpec | None) -> bool:
    return spec is not None and spec.engine == "vale"


def bridge_faults(name: str, spec: BridgeSpec, switches: int) -> Iterator[Detail]:
    """``switches``: how many there are with this one."""
    if not _NAME.fullmatch(name):
        text = "A VALE switch is named vale and up to 11 letters, digits or _; this is its name."
        yield Detail("/spec/engine", "INVALID", text)
    if switches > SWITCHES_MAX:
        yield Detail("/spec/engine", "VALE_LIMIT", f"The module has {SWITCHES_MAX} switches.")
    wanted = {
        "/spec/vlan_filtering": (spec.vlan_filtering, False, "VLANs"),
        "/spec/fdb/learning": (spec.fdb.learning, True, "a switch that does not learn"),
        "/spec/fdb/ageing_s": (spec.fdb.ageing_s, VALE_FDB["ageing_s"], "ageing"),
        "/spec/fdb/max_entries": (
            spec.fdb.max_entries,
            VALE_FDB["max_entries"],
            "a table of another size",
        ),
        "/spec/flood": (spec.flood, BridgeFlood(), "switches for flooding"),
        "/spec/reserved_macs": (spec.reserved_macs, "forward", "a filter for reserved addresses"),
        "/spec/mtu": (spec.mtu, 0, "a limit of its own for lengths"),
    }
    yield from _refused(wanted)


def port_faults(spec: PortSpec) -> Iterator[Detail]:
    """A port in a VALE switch of the kernel."""
    if spec.backend.vale_nic() is None:
        text = (
            "A port of a VALE switch of the kernel is a netmap port on an interface, "
            "netmap:IF or netmap:IF* (with its host)."
        )
        yield Detail("/spec/backend", "VALE_LIMIT", text)
    wanted = {
        "/spec/admin_up": (spec.admin_up, True, "ports that are down"),
        "/spec/vlan": (spec.vlan, PortVlan(), "VLANs"),
        "/spec/learning": (spec.learning, True, "ports that do not learn"),
        "/spec/flood": (spec.flood, True, "ports that get no flooded frames"),
        "/spec/isolation_group": (spec.isolation_group, 0, "isolation"),
        "/spec/cpus": (spec.cpus, (), "threads of its own to pin"),
    }
    yield from _refused(wanted)


def _refused(wanted: dict[str, tuple[object, object, str]]) -> Iterator[Detail]:
    for pointer, (value, only, what) in wanted.items():
        if value != only:
            text = f"A VALE switch of the kernel does not have {what}."
            yield Detail(pointer, "VALE_LIMIT", text)
