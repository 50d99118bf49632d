"""Other people's switches, from Debian's packages, as subjects of a measurement: each between the
same two hosts as ours (tests.bench.subjects.Subject).

``PEERS`` names them; a module for each project starts it, gives it directories of its own and ends
it again. Packages that are not installed are told by ``missing``; `.ci/setup peers` installs them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.peers import dpdk, ovs, vde
from tests.bench.subjects import Subject


@dataclass(frozen=True)
class Peer:
    """``packages``: by Debian package the program or file of it that is started; a package that
    tests need anyway is not named."""

    make: Callable[[], Subject]
    packages: Mapping[str, str] = field(default_factory=dict)


OVS = {"openvswitch-switch": "ovs-vswitchd"}
OVS_DPDK = {"openvswitch-switch-dpdk": ovs.DPDK_PROGRAM}
TESTPMD = {"dpdk-dev": dpdk.TESTPMD}

PEERS: dict[str, Peer] = {
    ovs.NETDEV: Peer(ovs.Netdev, OVS),
    ovs.AFXDP: Peer(ovs.AfXdp, OVS),
    ovs.DPDK_PACKET: Peer(
        lambda: ovs.Dpdk(ovs.DPDK_PACKET, "net_af_packet"), {**OVS_DPDK, **TESTPMD}
    ),
    ovs.DPDK_XDP: Peer(lambda: ovs.Dpdk(ovs.DPDK_XDP, "net_af_xdp"), {**OVS_DPDK, **TESTPMD}),
    ovs.TSO: Peer(ovs.UserspaceTso, OVS_DPDK),
    dpdk.PACKET: Peer(lambda: dpdk.Testpmd(dpdk.PACKET, "net_af_packet"), TESTPMD),
    dpdk.XDP: Peer(lambda: dpdk.Testpmd(dpdk.XDP, "net_af_xdp"), TESTPMD),
    vde.NAME: Peer(vde.VdeSwitch, {"vde-switch": vde.PROGRAM}),
}


def missing(packages: Mapping[str, str]) -> list[str]:
    """The packages whose program is not here."""
    return sorted(
        package
        for package, program in packages.items()
        if not (Path(program).exists() if "/" in program else shutil.which(program))
    )
