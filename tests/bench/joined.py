"""Subjects of two switches in a row: two bridges joined by a pipe, two switches by a tunnel.

    host 0 ══ switch ══ underlay ══ far switch ══ host 1

The kernel's part is played by Linux bridges, joined by a veth pair or by its vxlan devices.
"""

from __future__ import annotations

import contextlib
from typing import Any

from tests.bench.subjects import Ours, Subject
from tests.support.appliance import Appliance
from tests.support.topology import Topology, linux_bridge_over, run

VNI = 10
VXLAN_PORT = 4789
UDP_PORT = 6081
UNDERLAY = ("192.0.2.1", "192.0.2.2")
UNDERLAY_MTU = 1600  # a frame of 1514 bytes and its outer headers


class TwoSwitches(Topology):
    """Side 0 is the switch's namespace, side 1 another one; a veth pair with addresses between
    them, and on each the switch end of one host."""

    def __init__(self) -> None:
        super().__init__(hosts=3)  # the third one becomes the far switch
        self.sides = (self.switch, self.hosts[2])
        self.underlay_ifs = (self.switch_ifs[2], self.host_ifs[2])

    def _build(self) -> None:
        super()._build()
        near, far = self.sides
        self.bridge_nf_off(far)
        run("ip", "-n", near, "link", "set", self.switch_ifs[1], "netns", far)
        run("ip", "-n", far, "link", "set", self.switch_ifs[1], "up")
        run("ip", "-n", far, "address", "flush", "dev", self.underlay_ifs[1])
        for netns, ifname, address in zip(self.sides, self.underlay_ifs, UNDERLAY, strict=True):
            run("ip", "-n", netns, "link", "set", ifname, "mtu", str(UNDERLAY_MTU))
            run("ip", "-n", netns, "address", "add", f"{address}/24", "dev", ifname)


class OursTunnel(Ours):
    """An appliance on each side, joined by ports of type `kind`."""

    def __init__(self, kind: str) -> None:
        self._sides = TwoSwitches()
        super().__init__(self._sides)
        self.name = f"vswitch {kind}"
        self._kind = kind

    def join(self, stack: contextlib.ExitStack) -> None:
        for side, netns in enumerate(self._sides.sides):
            switch = self.start(stack, netns)
            switch.bridge("br0", self.net.switch_ifs[side])
            switch.put_port("t0", "br0", self._backend(side))
        for switch in self.appliances:
            switch.wait_ready("t0")

    def _backend(self, side: int) -> dict[str, Any]:
        local, remote = UNDERLAY[side], UNDERLAY[1 - side]
        if self._kind == "vxlan":
            return {"type": "vxlan", "vni": VNI, "local": local, "remotes": [remote]}
        ends = {"local": f"{local}:{UDP_PORT}", "peers": [f"{remote}:{UDP_PORT}"]}
        return {"type": "udp", "vni": VNI, **ends}


class KernelTunnel(Subject):
    """A Linux bridge on each side with a vxlan device of the kernel in it."""

    name = "linux-bridge vxlan"

    def __init__(self) -> None:
        self._sides = TwoSwitches()
        super().__init__(self._sides)

    def join(self, stack: contextlib.ExitStack) -> None:
        for side, netns in enumerate(self._sides.sides):
            run(
                *("ip", "-n", netns, "link", "add", "vx0", "mtu", str(self.net.mtu)),
                *("type", "vxlan", "id", str(VNI), "dstport", str(VXLAN_PORT)),
                *("local", UNDERLAY[side], "remote", UNDERLAY[1 - side]),
            )
            run("ip", "-n", netns, "link", "set", "vx0", "up")
            ports = (self.net.switch_ifs[side], "vx0")
            stack.enter_context(linux_bridge_over(netns, ports, self.net.mtu))


class OursPipe(Ours):
    """Two bridges of one appliance, joined by the two ends of a pipe."""

    name = "vswitch pipe"

    def join(self, stack: contextlib.ExitStack) -> None:
        switch = self.start(stack, self.net.switch)
        for side, end in enumerate(("master", "slave")):
            self._half(switch, side, end)
        switch.wait_ports("p0", "p1", "x0", "x1")

    def _half(self, switch: Appliance, side: int, end: str) -> None:
        bridge = f"br{side}"
        ifname = self.net.switch_ifs[side]
        switch.put_bridge(bridge)
        switch.put_port(f"p{side}", bridge, {"type": "af_packet", "ifname": ifname})
        switch.put_port(f"x{side}", bridge, {"type": "pipe", "name": "x", "end": end})


class BridgePair(Subject):
    """Two Linux bridges joined by a veth pair."""

    name = "two linux-bridges"

    def join(self, stack: contextlib.ExitStack) -> None:
        netns, ends = self.net.switch, ("x0", "x1")
        pair = ("type", "veth", "peer", "name", ends[1])
        run("ip", "-n", netns, "link", "add", ends[0], *pair)
        for side, end in enumerate(ends):
            run("ip", "-n", netns, "link", "set", end, "up")
            ports = (self.net.switch_ifs[side], end)
            stack.enter_context(linux_bridge_over(netns, ports, self.net.mtu, f"lbr{side}"))
