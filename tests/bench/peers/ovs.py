"""Open vSwitch with its userspace datapath, as Debian builds it: on packet sockets, on XDP
sockets, on DPDK's drivers for either, and with segmentation offload in userspace.

Each runs its own database and daemon with directories of their own (tests.support.oracles). It
switches by the action NORMAL, as a bridge that nobody has given flows.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from tests.bench.peers import dpdk
from tests.bench.subjects import BOUND, ProcessSubject
from tests.support.oracles import OpenVSwitch
from tests.support.topology import Topology

NETDEV = "OVS netdev"
AFXDP = "OVS afxdp"
DPDK_PACKET = "OVS-DPDK af_packet"
DPDK_XDP = "OVS-DPDK af_xdp"
IDLE_MS = 600_000  # cached flows outlive the time in which another subject is measured
TSO = "OVS userspace-tso"
DPDK_PROGRAM = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"


def polling_settings() -> dict[str, str]:
    """Threads that poll ports run on one processor."""
    return {"pmd-cpu-mask": hex(1 << dpdk.polling_cpu())}


def dpdk_settings(memory_mib: int) -> dict[str, str]:
    extra = " ".join([*dpdk.eal(memory_mib), "--legacy-mem"])
    main = min(os.sched_getaffinity(0))
    return {
        "dpdk-init": "true",
        "dpdk-extra": f'"{extra}"',
        "dpdk-lcore-mask": hex(1 << main),
        **polling_settings(),
    }


def port_words(names: Sequence[str], columns: Callable[[int], Sequence[str]]) -> list[str]:
    """Words for ovs-vsctl: ports 1, 2, ... with columns of their row in Interface."""
    words: list[str] = []
    for number, name in enumerate(names):
        words += ["--", "add-port", "obr", name]
        words += ["--", "set", "Interface", name, f"ofport_request={number + 1}"]
        words += columns(number)
    return words


class Switch(OpenVSwitch):
    """On the switch ends of a topology, as the words of its subject say."""

    prefix = BOUND

    def __init__(self, net: Topology, program: str, settings: dict[str, str]) -> None:
        super().__init__(net)
        self.program = program
        self._settings = settings
        self.port_columns: Callable[[int], Sequence[str]] = lambda _: ()
        self.port_names: Sequence[str] = net.switch_ifs

    def settings(self) -> list[str]:
        settings = {"max-idle": str(IDLE_MS), **self._settings}
        return [f"other_config:{name}={value}" for name, value in settings.items()]

    def ports(self) -> list[str]:
        return port_words(self.port_names, self.port_columns)


class Netdev(ProcessSubject):
    """Packet sockets, served by the daemon's main thread."""

    name = NETDEV
    completes_checksums = False
    program = "ovs-vswitchd"

    def switch(self) -> Switch:
        return Switch(self.net, self.program, {})

    def join(self, stack: contextlib.ExitStack) -> None:
        self.polls(stack.enter_context(self.switch()).pid)


class UserspaceTso(Netdev):
    """The same with virtio-net headers: frames keep what offloads say of them."""

    name = TSO
    completes_checksums = True
    program = DPDK_PROGRAM  # the option is compiled in only where DPDK is

    def switch(self) -> Switch:
        return Switch(self.net, self.program, {"userspace-tso-enable": "true"})


class AfXdp(Netdev):
    """XDP sockets in the driver's mode, polled."""

    name = AFXDP

    def switch(self) -> Switch:
        switch = Switch(self.net, self.program, polling_settings())
        switch.port_columns = lambda _: ("type=afxdp", "options:n_rxq=1", "options:xdp-mode=native")
        return switch


class Dpdk(Netdev):
    """A DPDK driver on each interface, polled."""

    def __init__(self, name: str, driver: str) -> None:
        super().__init__()
        self.name = name
        self._driver = driver

    def switch(self) -> Switch:
        switch = Switch(self.net, DPDK_PROGRAM, dpdk_settings(dpdk.MEMORY_MIB))
        devices = dpdk.interfaces(self._driver, self.net.switch_ifs)
        switch.port_names = [f"d{number}" for number in range(len(devices))]
        switch.port_columns = lambda n: ("type=dpdk", f'options:dpdk-devargs="{devices[n]}"')
        return switch
