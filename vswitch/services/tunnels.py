"""Does what a bridge carries fit through a tunnel port without outer fragments?"""

from __future__ import annotations

from dataclasses import dataclass

from vswitch.kinds import Configuration
from vswitch.kinds.backends import Udp, Vxlan
from vswitch.kinds.port import PortSpec
from vswitch.view import View


@dataclass(frozen=True, slots=True)
class Narrow:
    """The largest frames of a bridge are too large for the underlay of one of its ports."""

    message: str
    fix: str


def narrow(name: str, spec: PortSpec, configuration: Configuration, view: View) -> Narrow | None:
    """None: everything fits, as far as is known, or the port is no tunnel."""
    backend, state = spec.backend, view.ports.get(name)
    if not isinstance(backend, Vxlan | Udp) or state is None or not state.mtu:
        return None
    wanted = _largest(name, spec, configuration, view)
    if wanted <= state.mtu:
        return None
    outer = wanted + backend.OVERHEAD + (20 if "." not in backend.local else 0)
    fix = f"ip link set {state.device} mtu {outer}" if state.device else ""
    return Narrow(
        f"Bridge {spec.bridge} carries up to {wanted} bytes of payload a frame and {state.mtu} "
        f"fit the underlay's packets: larger frames travel as fragments. Give the underlay an "
        f"MTU of {outer}, or the bridge an mtu of {state.mtu} to drop them.",
        fix,
    )


def _largest(name: str, spec: PortSpec, configuration: Configuration, view: View) -> int:
    """Bytes of payload that may come; 0: unknown."""
    if spec.bridge is None or spec.bridge not in configuration.bridges:
        return 0
    limit = configuration.bridges[spec.bridge].spec.mtu
    others = (
        view.ports[other].mtu
        for other in configuration.members(spec.bridge)
        if other != name
        and other in view.ports
        and not isinstance(configuration.ports[other].spec.backend, Vxlan | Udp)
    )
    largest = max(others, default=0)
    return min(limit, largest) if limit and largest else largest
