"""What is measured: switches that stand between two hosts, each in namespaces of its own.

The subjects of a case stand side by side, so that a measurement can alternate between them; one
that is not being measured is idle and costs nothing: what would poll is stopped meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from tests.support.appliance import Appliance
from tests.support.probes import threads_cpu_ns
from tests.support.topology import Topology, linux_bridge, run

SERVE_OPTIONS = {"af_xdp": ("--af-xdp",)}  # by type of port
# Before a command: it ends with this program, however that ends.
BOUND = ("setpriv", "--pdeathsig", "KILL")


def set_realtime(pid: int) -> None:
    """All threads of a process before everything else that the machine does, in turn with each
    other (SCHED_RR, priority 1); what they start later inherits it."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(1))


@contextlib.contextmanager
def awake(pid: int) -> Iterator[None]:
    """A stopped process runs while the block lasts."""
    os.kill(pid, signal.SIGCONT)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGSTOP)


class Subject:
    """A running switch between host 0 and host 1 of `net`; use as a context manager. The
    kernel's switches have no process: their work is done in softirqs on the time of whoever
    sends."""

    name: str
    completes_checksums = True  # of frames whose sender left that to an interface

    def __init__(self, net: Topology | None = None) -> None:
        self.net = Topology(hosts=2) if net is None else net
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.net)
        try:
            self.join(self._stack)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def join(self, stack: contextlib.ExitStack) -> None:
        """Sets up what forwards; the stack is unwound before the network goes."""
        raise NotImplementedError

    @contextlib.contextmanager
    def awake(self) -> Iterator[Self]:
        """While it is measured."""
        yield self

    @contextlib.contextmanager
    def sound(self) -> Iterator[None]:
        """While its hosts speak IP: where the switch leaves checksums and segments undone, the
        hosts complete them themselves, or nothing would be understood."""
        ends = (
            [] if self.completes_checksums else zip(self.net.hosts, self.net.host_ifs, strict=True)
        )
        with contextlib.ExitStack() as stack:
            for host, ifname in ends:
                self.net.run(host, "ethtool", "-K", ifname, "tx", "off")
                stack.callback(self.net.run, host, "ethtool", "-K", ifname, "tx", "on")
            yield

    def pids(self) -> list[int]:
        """The processes that forward frames."""
        return []

    def cpu_ns(self) -> int:
        """Processor time the switch's own processes have used; 0 when it has none."""
        return sum(threads_cpu_ns(pid) for pid in self.pids())

    def drops(self) -> dict[str, int]:
        """Frames the switch counted as dropped so far, by reason."""
        return {}


class ProcessSubject(Subject):
    """A switch that is one process, stopped (SIGSTOP) while it is not measured: it may poll."""

    _pid: int | None = None

    def polls(self, pid: int) -> None:
        """To be told by join() when it forwards."""
        self._pid = pid

    def __enter__(self) -> Self:
        super().__enter__()
        self._signal(signal.SIGSTOP)
        return self

    def __exit__(self, *error: object) -> None:
        self._signal(signal.SIGCONT)  # or it would not end
        super().__exit__(*error)

    @contextlib.contextmanager
    def awake(self) -> Iterator[Self]:
        assert self._pid is not None
        with awake(self._pid):
            yield self

    def _signal(self, number: int) -> None:
        if self._pid is not None:
            os.kill(self._pid, number)

    def pids(self) -> list[int]:
        return [] if self._pid is None else [self._pid]


class Plain(Subject):
    """One veth pair between the hosts and no switch: what the generator and the kernel cost."""

    name = "no switch"

    def join(self, stack: contextlib.ExitStack) -> None:
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


class Bridge(Subject):
    """The Linux bridge, bridge-nf-call off."""

    name = "linux-bridge"

    def join(self, stack: contextlib.ExitStack) -> None:
        stack.enter_context(linux_bridge(self.net))


class Ours(Subject):
    """The whole appliance between ports of one kind on veth ends."""

    def __init__(self, net: Topology | None = None, kind: str = "af_packet") -> None:
        super().__init__(net)
        self.name = f"vswitch {kind}"
        self.appliances: list[Appliance] = []
        self._kind = kind

    def join(self, stack: contextlib.ExitStack) -> None:
        switch = self.start(stack, self.net.switch)
        switch.put_bridge("br0")
        ports = [f"p{number}" for number in range(len(self.net.switch_ifs))]
        for port, ifname in zip(ports, self.net.switch_ifs, strict=True):
            switch.put_port(port, "br0", {"type": self._kind, "ifname": ifname})
        switch.wait_ports(*ports)

    def start(self, stack: contextlib.ExitStack, netns: str) -> Appliance:
        """One more appliance, in that namespace."""
        arguments = ["--af-xdp"] if self._kind == "af_xdp" else []
        self.appliances.append(stack.enter_context(Appliance(self.net, netns, arguments)))
        return self.appliances[-1]

    def pids(self) -> list[int]:
        found = (appliance.pid("forwarder") for appliance in self.appliances)
        return [pid for pid in found if pid is not None]

    def drops(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for appliance in self.appliances:
            for stats in appliance.port_stats().values():
                for reason, frames in stats["drops"].items():
                    total[reason] = total.get(reason, 0) + frames
                kernel = int(stats.get("kernel_drops", 0))
                total["kernel_ring"] = total.get("kernel_ring", 0) + kernel
        return total

    def check(self) -> list[dict[str, Any]]:
        """The books balance."""
        return [appliance.check_ledger() for appliance in self.appliances]


class OursTap(Ours):
    """Two TAPs, made by the appliance in the switch's namespace and then moved to the hosts,
    whose network stacks are what the ports' other ends are."""

    name = "vswitch tap"

    def join(self, stack: contextlib.ExitStack) -> None:
        self.start(stack, self.net.switch).tap_bridge("br0")

    def drops(self) -> dict[str, int]:
        """`tap_queue`: what the interfaces had no room for, before the switch."""
        ends = zip(self.net.hosts, self.net.host_ifs, strict=True)
        full = sum(self.net.counter(netns, ifname, "tx_dropped") for netns, ifname in ends)
        return super().drops() | {"tap_queue": full}
