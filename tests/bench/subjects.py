"""What is measured: switches that stand between two hosts, each in namespaces of its own.

All subjects of a run stand side by side, so that a measurement can alternate between them; one
that is not being measured is idle and costs nothing.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Protocol

from tests.support.appliance import Appliance
from tests.support.topology import Topology, linux_bridge, run


def set_realtime(pid: int) -> None:
    """All threads of a process before everything else that the machine does, in turn with each
    other (SCHED_RR, priority 1); what they start later inherits it."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(1))


class Subject(Protocol):
    """A running switch between host 0 and host 1 of `net`."""

    name: str
    net: Topology

    def __enter__(self) -> Subject: ...

    def __exit__(self, *_: object) -> None: ...

    def pids(self) -> list[int]:
        """The processes that forward frames; the kernel's switches have none."""
        ...

    def cpu_ns(self) -> int:
        """Processor time the switch's own processes have used; 0 when it has none."""
        ...

    def drops(self) -> dict[str, int]:
        """Frames the switch counted as dropped so far, by reason."""
        ...


class Plain:
    """One veth pair between the hosts and no switch: what the generator and the kernel cost."""

    name = "no switch"

    def __init__(self) -> None:
        self.net = Topology(hosts=2)

    def __enter__(self) -> Plain:
        self.net.__enter__()
        try:
            for host in (0, 1):
                run("ip", "-n", self.net.switch, "link", "delete", self.net.switch_ifs[host])
            run(
                *("ip", "-n", self.net.hosts[0], "link", "add", self.net.host_ifs[0]),
                *("type", "veth", "peer", "name", self.net.host_ifs[1]),
                *("netns", self.net.hosts[1]),
            )
            for host in (0, 1):
                netns, ifname = self.net.hosts[host], self.net.host_ifs[host]
                address = f"{self.net.addresses[host]}/24"
                run("ip", "-n", netns, "link", "set", ifname, "up")
                run("ip", "-n", netns, "address", "add", address, "dev", ifname)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.net.close()

    def pids(self) -> list[int]:
        return []

    def cpu_ns(self) -> int:
        return 0

    def drops(self) -> dict[str, int]:
        return {}


class Bridge:
    """The Linux bridge, bridge-nf-call off. It has no process: its work is done in softirqs on
    the time of whoever sends."""

    name = "linux-bridge"

    def __init__(self) -> None:
        self.net = Topology(hosts=2)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Bridge:
        self._stack.enter_context(self.net)
        try:
            self._stack.enter_context(linux_bridge(self.net))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def pids(self) -> list[int]:
        return []

    def cpu_ns(self) -> int:
        return 0

    def drops(self) -> dict[str, int]:
        return {}


def threads_cpu_ns(pid: int) -> int:
    """Time all threads of a process have run, in nanoseconds (proc(5), schedstat)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total


class Ours:
    """The whole appliance; `kind` is the type of its two ports.

    A tap is made by the appliance in the switch's namespace and then moved to a host, whose
    network stack is what the port's other end is.
    """

    def __init__(self, kind: str = "af_packet") -> None:
        self.name = f"vswitch {kind}"
        self.kind = kind
        self.net = Topology(hosts=2)
        self._appliance = Appliance(self.net, self.net.switch)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Ours:
        self._stack.enter_context(self.net)
        try:
            self._stack.enter_context(self._appliance)
            if self.kind == "tap":
                self._appliance.tap_bridge("br0")
            else:
                self._appliance.bridge("br0", *self.net.switch_ifs)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def pids(self) -> list[int]:
        pid = self._appliance.pid("forwarder")
        return [] if pid is None else [pid]

    def cpu_ns(self) -> int:
        return sum(threads_cpu_ns(pid) for pid in self.pids())

    def drops(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for stats in self._appliance.port_stats().values():
            for reason, frames in stats["drops"].items():
                total[reason] = total.get(reason, 0) + frames
            kernel = int(stats.get("kernel_drops", 0))
            total["kernel_ring"] = total.get("kernel_ring", 0) + kernel
        return total

    def check(self) -> dict[str, Any]:
        """The books balance."""
        return self._appliance.check_ledger()
